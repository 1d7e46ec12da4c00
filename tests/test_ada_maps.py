"""ADA's transforms: the wavelet, and maps whose result is known."""

import itertools
import math

import numpy as np
import pytest
import torch

from ganfast import _ada_matrices as maps
from ganfast.ada import ada_augment

FP64 = torch.float64
# Places in the draws: gates, then values.
GATES = {"flip": 0, "quarters": 1, "whole": 2, "size": 3, "turn": 4, "ratio": 5, "turn2": 6, "part": 7,
         "brightness": 8, "contrast": 9, "luma": 10, "hue": 11, "saturation": 12}  # fmt: skip
LATER = 0.999  # a gate that stays shut


def drawn(*gates, uniform=(), normal=()):
    """The draws where these gates alone are open, as functions; values by place."""
    u, z = torch.full((21,), LATER, dtype=FP64), torch.zeros(7, dtype=FP64)
    for name in gates:
        u[GATES[name]] = 0.0
    for at, value in dict(uniform).items():
        u[at] = value
    for at, value in dict(normal).items():
        z[at] = value
    return {"uniform": lambda n, k: u[:k].expand(n, k), "normal": lambda n, k: z[:k].expand(n, k)}


def smooth(size=32, channels=3, width=None):
    """A picture without sharp edges, on which filters err little, and unlike under every flip and turn."""
    y, x = (torch.linspace(-1, 1, n, dtype=FP64) for n in (size, width or size))
    waves = [torch.sin(3 * y + c)[:, None] * torch.cos(2 * x + 0.3)[None] + 0.3 * x for c in range(channels)]
    return torch.stack(waves)[None]


def test_the_wavelet_is_daubechies_and_the_least_asymmetric():
    """From its definition: among the roots of P(y) = sum of C(5 + k, k) y^k, y = (2 - z - 1/z) / 4, one of each pair z, 1/z is chosen,
    conjugates together, so that the phase is as straight as can be."""
    given = np.array(maps.SYM6)
    roots = []
    for y in np.roots([math.comb(5 + k, k) for k in range(5, -1, -1)]):
        roots.append(min(np.roots([1, 4 * y - 2, 1]), key=abs))
    groups = [[z] if abs(z.imag) < 1e-9 else [z, z.conj()] for z in roots if z.imag > -1e-9]
    best = None
    for turned in itertools.product((1, -1), repeat=len(groups)):
        h = np.array([1.0])
        for z in [z**power for group, power in zip(groups, turned) for z in group]:
            h = np.convolve(h, [1, -z])
        for _ in range(6):
            h = np.convolve(h, [1, 1])
        h = h.real / h.real.sum() * math.sqrt(2)
        w = np.linspace(0.01, math.pi - 0.3, 200)
        phase = np.unwrap(np.angle(np.exp(-1j * np.outer(w, np.arange(12))) @ h))
        bend = np.abs(phase - np.polyval(np.polyfit(w, phase, 1), w)).max()
        best = min(best or (bend, h.tolist()), (bend, h.tolist()))
    distance = min(np.abs(np.array(best[1]) - given).max(), np.abs(np.array(best[1])[::-1] - given).max())
    assert distance < 1e-9
    shifts = [given[2 * k :] @ given[: 12 - 2 * k] for k in range(6)]
    assert np.allclose(shifts, [1, 0, 0, 0, 0, 0], atol=1e-11) and given.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    moments = [((-1.0) ** np.arange(12) * np.arange(12.0) ** k) @ given for k in range(6)]
    assert np.allclose(moments, 0, atol=1e-8)


def identity(n=1):
    return torch.eye(3, dtype=FP64).repeat(n, 1, 1)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 1, 9, 14), (1, 2, 5, 3), (1, 1, 2, 1)])
def test_up_and_down_again_is_nothing_and_a_move_by_whole_pixels_is_exact(shape):
    """The wavelet is orthogonal; beyond the border comes the mirrored image."""
    x = torch.randn(shape, dtype=FP64)
    torch.testing.assert_close(maps.resampled(x, identity(shape[0])), x, atol=1e-10, rtol=0)
    h, w = shape[2:]
    mirrored = lambda i, size: abs((i + size - 1) % max(2 * (size - 1), 1) - (size - 1)) if size > 1 else 0
    for right, down in ((3, 0), (-2, 5), (2 * w, -3 * h)):
        m = identity(shape[0])
        m[:, 0, 2], m[:, 1, 2] = -right, -down
        rows = [mirrored(i - down, h) for i in range(h)]
        columns = [mirrored(i - right, w) for i in range(w)]
        torch.testing.assert_close(maps.resampled(x, m), x[:, :, rows][..., columns], atol=1e-9, rtol=0)


def test_mirrored_turned_moved():
    """What pixels say without a filter, which errs where the picture's mirror image has a bend."""
    x = smooth()
    inner = lambda y: y[..., 3:-3, 3:-3]
    close = lambda got, wanted: torch.testing.assert_close(inner(got), inner(wanted), atol=0.01, rtol=0)
    close(ada_augment(x, 0.5, "blit", **drawn("flip", uniform={13: 0.7})), x.flip(3))
    turned = [ada_augment(x, 0.5, "blit", **drawn("quarters", uniform={14: (k + 0.5) / 4})) for k in range(4)]
    for k in range(4):
        close(turned[k], torch.rot90(x, -k, (2, 3)))
    moved = ada_augment(x, 0.5, "blit", **drawn("whole", uniform={15: 0.99, 16: 0.25}))  # 3.92 and -2 pixels of at most 4
    torch.testing.assert_close(moved, torch.cat([x[..., 1:5].flip(3), x[..., :-4]], 3)[..., [*range(2, 32), 30, 29], :], atol=1e-9, rtol=0)
    tall = smooth(24, 1, 40)
    close(ada_augment(tall, 0.5, "blit", **drawn("quarters", uniform={14: 0.6})), tall.flip(2, 3))
    assert ada_augment(x, 0.5, "blit", **drawn("flip", uniform={13: 0.3})).equal(x), "one of the two flips is none"


def field(x, y, scale=1.0):
    """A slow picture of places in pixels from the centre."""
    return torch.sin(0.11 * x * scale + 0.4) * torch.cos(0.07 * y * scale) + 0.01 * x


@pytest.mark.parametrize(
    ("gates", "uniform", "normal", "takes"),
    [
        (("size",), {}, {0: 1.5}, lambda x, y: (x / 2**0.3, y / 2**0.3)),
        (("ratio",), {}, {1: 1.0}, lambda x, y: (x / 2**0.2, y * 2**0.2)),
        (("part",), {}, {2: 0.51, 3: -0.3}, lambda x, y: (x - 0.51 * 5, y + 0.3 * 5)),
        (("turn",), {17: 0.75}, {}, lambda x, y: (y, -x)),
        (("turn2",), {18: 0.625}, {}, lambda x, y: ((x + y) / 2**0.5, (y - x) / 2**0.5)),
        (("turn", "ratio"), {17: 0.75}, {1: 1.0}, lambda x, y: (y * 2**0.2, -x / 2**0.2)),
        (("ratio", "turn2"), {18: 0.75}, {1: 1.0}, lambda x, y: (y / 2**0.2, -x * 2**0.2)),
        (("size", "part"), {}, {0: 1.0, 2: 0.4}, lambda x, y: ((x - 2.0) / 2**0.2, y / 2**0.2)),
    ],
    ids=["size", "ratio", "part", "turn", "turn2", "turn, ratio", "ratio, turn", "size, part"],
)
def test_geometry_takes_each_pixel_from_where_the_formula_says(gates, uniform, normal, takes):
    """Each map alone, and those whose order matters: the first named acts first."""
    at = torch.arange(40, dtype=FP64) - 19.5
    y, x = torch.meshgrid(at, at, indexing="ij")
    got = ada_augment(field(x, y)[None, None], 0.9, "geom", **drawn(*gates, uniform=uniform, normal=normal))[0, 0]
    wanted, (from_x, from_y) = field(*takes(x, y)), takes(x, y)
    inside = (from_x.abs() < 16) & (from_y.abs() < 16)  # beyond comes the mirrored image
    assert inside.sum() > 500
    torch.testing.assert_close(got[inside], wanted[inside], atol=0.01, rtol=0)


def by_matrices(x, u, z, p):
    """The paper's 4 x 4 matrices, one after the other."""
    v = torch.tensor([1.0, 1, 1, 0], dtype=FP64) / 3**0.5
    done = []
    for image, a, b in zip(x.double(), u.double(), z.double()):
        c, axis = torch.eye(4, dtype=FP64), torch.outer(v, v)
        if a[8] < p:
            move = torch.eye(4, dtype=FP64)
            move[:3, 3] = 0.2 * b[4]
            c = move @ c
        if a[9] < p:
            c = torch.diag(torch.tensor([*[2 ** (0.5 * b[5].item())] * 3, 1.0], dtype=FP64)) @ c
        if a[10] < p:
            c = (torch.eye(4, dtype=FP64) - 2 * (a[19] >= 0.5) * axis) @ c
        if a[11] < p:
            k = torch.zeros(4, 4, dtype=FP64)
            k[0, 1] = k[1, 2] = k[2, 0] = -(3**-0.5)
            c = torch.linalg.matrix_exp((k - k.T) * math.pi * (2 * a[20] - 1)) @ c
        if a[12] < p:
            kept = torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=FP64)) - axis
            c = (axis + kept * 2 ** b[6] + torch.diag(torch.tensor([0.0, 0, 0, 1], dtype=FP64))) @ c
        if len(image) == 1:
            done.append(c[:3, :3].sum() / 3 * image + c[:3, 3].mean())
        else:
            done.append(torch.einsum("ij,jhw->ihw", c[:3, :3], image) + c[:3, 3, None, None])
    return torch.stack(done)


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_are_the_papers_matrices(channels):
    torch.manual_seed(0)
    x, u, z = torch.rand(40, channels, 4, 5) * 2 - 1, torch.rand(40, 21), torch.randn(40, 7)
    got = ada_augment(x, 0.6, "color", uniform=lambda *_: u, normal=lambda *_: z)
    torch.testing.assert_close(got, by_matrices(x, u, z, 0.6).float(), atol=3e-6, rtol=1e-5)
