"""DiffAugment: against the paper's words pixel by pixel, its draws' statistics, its gradients, its layouts; what it refuses."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast
from ganfast.augment import POLICIES, diff_augment, parts

FP64, FP16, BF16 = torch.float64, torch.float16, torch.bfloat16
ALL = "color,translation,cutout"


def given(draws):
    """`uniform` that gives these [7] or [N, 7] draws."""
    draws = torch.as_tensor(draws)
    return lambda n, k: draws.expand(n, k)


def seeded(seed, **kinds):
    source = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.rand(*shape, generator=source, **kinds)


def by_hand(images, policy, draws):
    """One image after another, one pixel after another where they move."""
    done = []
    for x, u in zip(images.double(), draws.double()):
        h, w = x.shape[1:]
        if "color" in policy:
            x = x + (u[0] - 0.5)
            if len(x) > 1:
                grey = x.mean(0, keepdim=True)
                x = grey + 2 * u[1] * (x - grey)
            x = x.mean() + (u[2] + 0.5) * (x - x.mean())
        if "translation" in policy:
            reach_h, reach_w = round(h / 8 + 1e-9), round(w / 8 + 1e-9)
            down, right = int(u[3] * (2 * reach_h + 1)) - reach_h, int(u[4] * (2 * reach_w + 1)) - reach_w
            moved = torch.zeros_like(x)
            for i in range(h):
                for j in range(w):
                    if 0 <= i + down < h and 0 <= j + right < w:
                        moved[:, i + down, j + right] = x[:, i, j]
            x = moved
        if "cutout" in policy:
            x = x.clone()
            (top, left), (high, wide) = [int(v * (s + 1 - s // 2 % 2)) - s // 2 // 2 for v, s in zip(u[5:], (h, w))], (h // 2, w // 2)
            x[:, max(top, 0) : max(top + high, 0), max(left, 0) : max(left + wide, 0)] = 0
        done.append(x)
    return torch.stack(done)


@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (3, 1, 16, 16), (3, 3, 9, 14), (2, 4, 3, 5), (2, 1, 1, 1), (1, 2, 28, 28)])
@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation", ALL])
def test_by_hand(policy, shape):
    images, draws = torch.rand(shape) * 2 - 1, torch.rand(shape[0], 7)
    got = diff_augment(images, policy, uniform=given(draws))
    torch.testing.assert_close(got, by_hand(images, policy, draws).float(), atol=2e-6, rtol=0)
    assert got.shape == images.shape


def test_the_order_is_fixed_and_equal_draws_mean_equal_parts():
    images, draws = torch.randn(4, 3, 16, 16), torch.rand(4, 7)
    whole = diff_augment(images, ALL, uniform=given(draws))
    assert torch.equal(whole, diff_augment(images, " cutout, color ,translation,color", uniform=given(draws)))
    alone = images
    for policy in POLICIES:
        alone = diff_augment(alone, policy, uniform=given(draws))
    assert torch.equal(whole, alone)


def test_same_seed_same_result():
    images = torch.randn(4, 3, 16, 16)
    first = diff_augment(images, uniform=seeded(3))
    assert torch.equal(first, diff_augment(images, uniform=seeded(3))) and not torch.equal(first, diff_augment(images, uniform=seeded(4)))
    torch.manual_seed(3)
    drawn = diff_augment(images)
    torch.manual_seed(3)
    assert torch.equal(drawn, diff_augment(images)) and torch.equal(drawn, first)


def test_nothing_to_do():
    images = torch.randn(2, 3, 8, 8)
    assert diff_augment(images, "") is images and diff_augment(images, "  ") is images
    assert diff_augment(images[:0]).shape == (0, 3, 8, 8)


def test_draws_of_colour():
    """Two flat halves of an image in two channels tell brightness, saturation and contrast apart."""
    n = 20_000
    images = torch.zeros(n, 2, 2, 2)
    images[:, 0] += 0.5
    images[:, 1] -= 0.5  # the mean over the channels is 0 everywhere: contrast and saturation act as a product
    images[:, :, 0] += 0.25  # and here the halves differ in grey alone: contrast
    images[:, :, 1] -= 0.25
    got = diff_augment(images, "color")
    bright = got.mean((1, 2, 3))
    contrast = (got[:, :, 0] - got[:, :, 1]).mean((1, 2)) / 0.5
    saturation = (got[:, 0] - got[:, 1]).mean((1, 2)) / contrast
    for value, low, high in ((bright, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0.0, 2.0)):
        assert low - 1e-5 <= value.min() < low + 1e-3 * (high - low) and high - 1e-3 * (high - low) < value.max() <= high + 1e-5
        tenths = torch.histc((value - low) / (high - low), 10, 0, 1) / n
        assert (tenths - 0.1).abs().max() < 0.01, "uniform"
    together = torch.corrcoef(torch.stack([bright, contrast, saturation]))
    assert (together - torch.eye(3)).abs().max() < 0.03, "drawn apart from each other"


def shifts(n, size):
    """Where a lone pixel in the middle goes, as [n, 2] offsets."""
    images = torch.zeros(n, 1, size, size)
    images[:, :, size // 2, size // 2] = 1
    found = diff_augment(images, "translation").flatten(1)
    assert torch.equal(found.sum(1), torch.ones(n))
    at = found.argmax(1)
    return torch.stack([at // size, at % size], 1) - size // 2


@pytest.mark.parametrize(("size", "reach"), [(16, 2), (32, 4), (28, 4), (8, 1), (3, 0)])
def test_translation_reaches_an_eighth_each_step_equally_likely(size, reach):
    n, offsets = 4000, shifts(4000, size)
    for one in offsets.unbind(1):
        found, counts = one.unique(return_counts=True)
        assert found.tolist() == list(range(-reach, reach + 1))
        assert (counts / n * len(found) - 1).abs().max() < 0.25
    if reach:
        assert torch.corrcoef(offsets.T.float())[0, 1].abs() < 0.06


@pytest.mark.parametrize("size", [16, 12, 10, 7])
def test_cutout_is_half_as_large_and_lies_anywhere(size):
    n, side = 6000, size // 2
    holes = diff_augment(torch.ones(n, 1, size, size), "cutout")[:, 0] == 0
    rows, columns = holes.any(2), holes.any(1)
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :]), "a rectangle"
    for edge in (rows, columns):
        assert edge.sum(1).max() == side and edge.sum(1).min() < side, "whole, or partly outside"
        steps = (edge[:, 1:] != edge[:, :-1]).sum(1)
        assert steps.max() <= 2, "in one piece"
        share = edge.float().mean(0)
        assert (share - share.flip(0)).abs().max() < 0.05, "as often here as on the other side"
        inner = share[side // 2 : size - side // 2]
        assert inner.max() - inner.min() < 0.06, "every pixel of the middle as often"


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(policy, channels, layout):
    images, draws = torch.randn(2, channels, 4, 5, dtype=FP64).to(memory_format=layout).requires_grad_(), torch.rand(2, 7, dtype=FP64)
    call = lambda x: diff_augment(x, policy, uniform=given(draws))
    assert torch.autograd.gradcheck(call, images) and torch.autograd.gradgradcheck(lambda x: call(x).square(), images)


def test_the_backward_of_a_translation_is_the_way_back():
    images, draws = torch.randn(4, 3, 16, 16, dtype=FP64, requires_grad=True), torch.rand(4, 7, dtype=FP64)
    y = diff_augment(images, ALL, uniform=given(draws))
    gy = torch.randn_like(y)
    (gx,) = torch.autograd.grad(y, images, gy)
    # linear but for brightness: <gy, A x> = <A' gy, x>
    constant = diff_augment(torch.zeros_like(images), ALL, uniform=given(draws))
    torch.testing.assert_close((gy * (y - constant)).sum(), (gx * images).sum())


def test_a_penalty_through_it():
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 2), torch.nn.SiLU(), torch.nn.Flatten(), torch.nn.LazyLinear(1))
    real, draws = torch.randn(4, 3, 8, 8), torch.rand(4, 7)
    discriminator(real)
    penalty = ganfast.penalties.r1_penalty(lambda x: discriminator(diff_augment(x, uniform=given(draws))), real)
    penalty.backward()
    assert penalty > 0 and discriminator[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
def test_images_do_not_touch_each_other(policy):
    images, draws = torch.randn(5, 3, 16, 16), torch.rand(5, 7)
    whole = diff_augment(images, policy, uniform=given(draws))
    for i in range(5):
        torch.testing.assert_close(diff_augment(images[i : i + 1], policy, uniform=given(draws[i])), whole[i : i + 1])
    images[2] = torch.nan
    spoiled = diff_augment(images, policy, uniform=given(draws))
    keep = torch.arange(5) != 2
    assert torch.equal(spoiled[keep], whole[keep])


@pytest.mark.parametrize("policy", [*POLICIES, ALL])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_layout_is_kept(policy, channels):
    images, draws = torch.randn(4, channels, 16, 12), torch.rand(4, 7)
    want = diff_augment(images, policy, uniform=given(draws))
    assert want.is_contiguous()
    nhwc = images.to(memory_format=torch.channels_last).requires_grad_()
    got = diff_augment(nhwc, policy, uniform=given(draws))
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    got.backward(torch.ones_like(got))
    assert nhwc.grad.is_contiguous(memory_format=torch.channels_last)
    for view in (images.transpose(2, 3), images[:, :, ::2, 1:], images[:1].expand(4, -1, -1, -1)):
        torch.testing.assert_close(
            diff_augment(view, policy, uniform=given(draws)), diff_augment(view.clone(), policy, uniform=given(draws)), atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("dtype", [FP16, BF16, FP64])
@pytest.mark.parametrize("policy", [*POLICIES, ALL])
def test_dtypes(dtype, policy):
    images, draws = torch.rand(4, 3, 16, 16).mul(2).sub(1).to(dtype), torch.rand(4, 7)
    got = diff_augment(images, policy, uniform=given(draws))
    assert got.dtype == dtype
    want = diff_augment(images.float(), policy, uniform=given(draws)).to(dtype)
    if dtype == FP64:
        torch.testing.assert_close(got, by_hand(images, policy, draws))
    else:
        assert torch.equal(got, want), "rounded once, at the end"
    autocast = torch.autocast("cpu", torch.bfloat16)
    with autocast:
        assert torch.equal(diff_augment(images, policy, uniform=given(draws)), got)


class Waits(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU: numbers, places of non-zeros, copies to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal"), name
        assert not (name in ("index", "index_put", "index_put_") and any(t is not None and t.dtype == torch.bool for t in args[1])), name
        return func(*args, **kwargs or {})


def test_never_waits_for_the_device():
    images = torch.randn(4, 3, 16, 16, requires_grad=True)
    with Waits():
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            images.sum().item()
        diff_augment(images).square().sum().backward()
    on_meta = diff_augment(torch.empty(4, 3, 16, 16, device="meta", requires_grad=True))  # has no values at all
    assert on_meta.shape == (4, 3, 16, 16)


def test_a_step_with_it_can_be_captured():
    images = torch.randn(4, 3, 16, 16)
    step = ganfast.capture(lambda x: diff_augment(x, uniform=given(torch.full((7,), 0.3))), images)
    assert torch.equal(step(images), diff_augment(images, uniform=given(torch.full((7,), 0.3))))


def test_compiles():
    images, draws = torch.randn(2, 3, 8, 8), torch.rand(2, 7)
    compiled = torch.compile(lambda x, u: diff_augment(x, uniform=given(u)), fullgraph=True, backend="aot_eager")
    x = images.clone().requires_grad_()
    y = compiled(x, draws)
    torch.testing.assert_close(y, diff_augment(images, uniform=given(draws)))
    y.sum().backward()
    assert x.grad.abs().sum() > 0


def test_parts():
    assert parts("cutout, color") == ("color", "cutout") and parts("") == ()


@pytest.mark.parametrize(
    ("images", "how", "error", "words"),
    [
        (torch.zeros(2, 3, 8, 8), {"policy": "colour"}, ValueError, "policy='colour' is unknown; .*Did you mean 'color'"),
        (torch.zeros(2, 3, 8, 8), {"policy": "color,,cutout"}, ValueError, "policy='' is unknown"),
        (torch.zeros(2, 3, 8, 8), {"policy": ["color"]}, TypeError, "policy is a list, wants a str. Join"),
        (torch.zeros(3, 8, 8), {}, ValueError, r"images has shape \(3, 8, 8\), wants \[N, C, H, W\]. A single image"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), {}, TypeError, "images has dtype torch.uint8"),
        ([1], {}, TypeError, "images is a builtins.list"),
        (torch.zeros(2, 3, 8, 8), {"uniform": lambda *shape: torch.rand(3)}, ValueError, r"uniform.* gave shape \(3,\), wants \(2, 7\)"),
    ],
)
def test_bad_input(images, how, error, words):
    with pytest.raises(error, match="diff_augment: " + words):
        diff_augment(images, **how)
