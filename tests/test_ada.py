"""ADA's transforms: the wavelet, maps whose result is known, the draws' statistics, gradients, layouts, dtypes; what is refused."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast
from ganfast import _ada_matrices as maps
from ganfast.ada import POLICIES, ada_augment, policy_of
from tests.test_augment import seeded

FP64, FP16, BF16 = torch.float64, torch.float16, torch.bfloat16
# Places in the draws: gates, then values.
GATES = {"flip": 0, "quarters": 1, "whole": 2, "size": 3, "turn": 4, "ratio": 5, "turn2": 6, "part": 7,
         "brightness": 8, "contrast": 9, "luma": 10, "hue": 11, "saturation": 12}  # fmt: skip
LATER = 0.999


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
    import itertools

    import numpy as np

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


@pytest.mark.parametrize("name", GATES)
def test_each_change_is_made_with_its_probability(name):
    n, p = 20_000, 0.3
    policy = "color" if GATES[name] > 7 else "blit" if GATES[name] < 3 else "geom"
    u = torch.full((n, 21), LATER, dtype=FP64)
    u[:, GATES[name]] = torch.rand(n, dtype=FP64)
    u[:, 13:] = torch.rand(n, 8, dtype=FP64)
    z = torch.randn(n, 7, dtype=FP64)
    if policy == "color":
        along, across, turned, added = maps.colours(u, z, p)
        changed = (along != 1) | (across != 1) | (turned != 0) | (added != 0)
    else:
        changed = (maps.geometry(u, z, p, (policy,), 32, 32) != torch.eye(3)).flatten(1).any(1)
    idle = {"flip": 1 / 2, "luma": 1 / 2, "quarters": 1 / 4, "whole": 1 / 64}.get(name, 0)  # drawn, and nothing comes of it
    chance = 1 - math.sqrt(1 - p) if name.startswith("turn") else p
    assert changed.double().mean().item() == pytest.approx(chance * (1 - idle), abs=0.015)


def test_the_spread_of_what_is_drawn():
    torch.manual_seed(0)
    u, z = torch.rand(40_000, 21, dtype=FP64), torch.randn(40_000, 7, dtype=FP64)
    shut = lambda *names: torch.where(torch.tensor([at not in [GATES[n] for n in names] and at < 13 for at in range(21)]), LATER, u)
    sizes = -maps.geometry(shut("size"), z, 1 - 1e-3, ("geom",), 32, 32)[:, 0, 0].log2()
    assert sizes.std().item() == pytest.approx(0.2, rel=0.02) and abs(sizes.mean().item()) < 0.005
    moved = -maps.geometry(shut("part"), z, 0.99, ("geom",), 32, 64)[:, :2, 2]
    assert moved.std(0).tolist() == pytest.approx([8, 4], rel=0.03)
    whole = -maps.geometry(shut("whole"), z, 0.99, ("blit",), 32, 64)[:, :2, 2]
    assert whole.amax(0).tolist() == [8, 4] and whole.amin(0).tolist() == [-8, -4] and whole.equal(whole.round())
    assert maps.colours(shut("contrast"), z, 0.99)[0].log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert maps.colours(shut("brightness"), z, 0.99)[3].std().item() == pytest.approx(0.2, rel=0.03)
    assert maps.colours(shut("saturation"), z, 0.99)[1].log2().std().item() == pytest.approx(1.0, rel=0.03)
    hues = torch.atan2(*maps.colours(shut("hue"), z, 0.99)[2:0:-1])
    assert (torch.histc(hues, 8, -math.pi, math.pi) / len(u) - 1 / 8).abs().max() < 0.01


def test_nothing_is_changed_bit_for_bit():
    x = torch.randn(6, 3, 12, 12)
    assert ada_augment(x, 0.0) is x and ada_augment(x, 0) is x and ada_augment(x, 0.7, "") is x and len(ada_augment(x[:0], 0.7)) == 0
    assert ada_augment(x, torch.zeros(()), uniform=lambda *s: torch.zeros(s)).equal(x)
    u = torch.rand(6, 21)
    u[1::2, :13] = LATER
    got = ada_augment(x, torch.tensor(0.9), uniform=lambda *_: u)
    assert got[1::2].equal(x[1::2]) and not any(a.equal(b) for a, b in zip(got[::2], x[::2]))


def test_a_tensor_of_a_probability_and_a_float_mean_the_same():
    x = torch.randn(8, 3, 16, 16)
    same = {"uniform": seeded(1), "normal": lambda *s: torch.randn(*s, generator=torch.Generator().manual_seed(2))}
    one = ada_augment(x, 0.5, **same)
    assert torch.equal(one, ada_augment(x, torch.tensor(0.5), **same | {"uniform": seeded(1)})) and not one.equal(x)
    torch.manual_seed(5)
    drawn_here = ada_augment(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(drawn_here, ada_augment(x, 0.5)) and not torch.equal(drawn_here, ada_augment(x, 0.5))


def test_equal_draws_make_equal_parts():
    x, u, z = torch.randn(4, 3, 16, 16), torch.rand(4, 21), torch.randn(4, 7)
    call = lambda y, policy: ada_augment(y, 0.8, policy, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.equal(call(x, " color, geom,blit"), call(call(x, "blit,geom"), "color"))


@pytest.mark.parametrize(("policy", "channels"), [("blit", 2), ("geom", 1), ("color", 1), ("color", 3), ("blit,geom,color", 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(policy, channels, layout):
    torch.manual_seed(1)
    x = torch.randn(2, channels, 4, 3, dtype=FP64).to(memory_format=layout).requires_grad_()
    u, z = torch.rand(2, 21, dtype=FP64), torch.randn(2, 7, dtype=FP64)
    call = lambda x: ada_augment(x, 0.9, policy, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.autograd.gradcheck(call, x) and torch.autograd.gradgradcheck(lambda x: call(x).square(), x)


def test_r1_goes_through_it():
    torch.manual_seed(0)
    x, network = torch.randn(2, 1, 8, 8, dtype=FP64).requires_grad_(), torch.nn.Conv2d(1, 1, 3, dtype=FP64)
    u, z = torch.rand(2, 21, dtype=FP64), torch.randn(2, 7, dtype=FP64)

    def penalty(x):
        seen = ada_augment(x, 0.9, uniform=lambda *_: u, normal=lambda *_: z)
        (gradient,) = torch.autograd.grad(network(seen).tanh().sum(), x, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, x)


@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_half_precisions_are_computed_in_float32_and_rounded_once(dtype):
    x, u, z = torch.randn(4, 3, 16, 16).to(dtype), torch.rand(4, 21), torch.randn(4, 7)
    call = lambda y, p=0.8: ada_augment(y, p, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.equal(call(x), call(x.float()).to(dtype)) and call(x).dtype == dtype
    with torch.autocast("cpu", BF16):
        assert torch.equal(call(x.float()), call(x.float().clone()).float()) and call(x.float()).dtype == torch.float32
        inside = call(x.float())
    assert torch.equal(inside, call(x.float()))


@pytest.mark.parametrize("policy", [*POLICIES, "blit,geom,color"])
def test_layouts_are_kept(policy):
    x, u, z = torch.randn(3, 3, 12, 10), torch.rand(3, 21), torch.randn(3, 7)
    call = lambda y: ada_augment(y, 0.8, policy, uniform=lambda *_: u, normal=lambda *_: z)
    last = call(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and call(x).is_contiguous()
    torch.testing.assert_close(last, call(x), atol=1e-6, rtol=1e-5)
    assert call(x.transpose(2, 3)).is_contiguous()


def test_nothing_waits_for_the_device():
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"), func
            return func(*args, **(kwargs or {}))

    x, state = torch.randn(2, 3, 8, 8, requires_grad=True), ganfast.ada.AdaptiveAugment(speed=100)
    with Waits():
        state(x).square().sum().backward()
        for _ in range(5):
            state.observe(torch.ones(()), 2)
    assert state.p == pytest.approx(8 / 100)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"A single image wants images\[None\]"),
        ({"images": torch.zeros(1, 3, 8, 8).int()}, TypeError, "wants float32"),
        ({"images": torch.zeros(1, 2, 8, 8)}, ValueError, "2 channels, colours want 1 .grey. or 3 .RGB.*any number"),
        ({"policy": "colour"}, ValueError, "Did you mean 'color'"),
        ({"policy": ["blit"]}, TypeError, "policy is a list, wants a str"),
        ({"p": 1.1}, ValueError, "a probability from 0 to 1"),
        ({"p": "much"}, TypeError, "wants a float"),
        ({"p": torch.zeros(2)}, TypeError, "wants a 0-d one"),
        ({"p": torch.zeros((), dtype=torch.long)}, TypeError, "wants a 0-d one of floats"),
        ({"uniform": torch.rand, "normal": lambda *s: torch.randn(2, 2)}, ValueError, r"normal.* gave shape \(2, 2\), wants \(1, 7\)"),
    ],
)
def test_refused(change, error, words):
    given = {"images": torch.zeros(1, 3, 8, 8), "p": 0.5} | change
    with pytest.raises(error, match=words):
        ada_augment(**given)


def test_a_setting_names_its_policy():
    assert policy_of("ada") == policy_of("ada:") == policy_of(" ada : ") == "blit,geom,color"
    assert policy_of("ada: color, blit") == "blit,color" and policy_of("") == policy_of("color,translation") == ""
    with pytest.raises(ValueError, match="'geometry' is unknown"):
        policy_of("ada:geometry")
