"""Gradient penalties: against analytic answers, finite differences and torch's own layers; what they refuse."""

import copy
import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import ganfast
import ganfast.nn as gnn
from ganfast.penalties import gradient_penalty, r1_penalty, r2_penalty
from tests.test_autograd import passes

FP64, BF16, FP16 = torch.float64, torch.bfloat16, torch.float16


def critic(width=8, act="leaky_relu", dtype=None):
    """Of 8 x 8 images, by ganfast's layers."""
    alpha = 0.2 if act == "leaky_relu" else None
    layers = [gnn.ConvAct2d(3, width, 4, 2, 1, act=act, alpha=alpha), gnn.ConvAct2d(width, width, 4, 2, 1, act=act, alpha=alpha)]
    return nn.Sequential(*layers, gnn.ConvAct2d(width, 1, 2), nn.Flatten(0)).to(dtype)


def plain(model):
    """The same by torch's own, with the same parameters."""
    layers = []
    for layer in model:
        if not isinstance(layer, nn.Conv2d):
            layers.append(layer)
            continue
        conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, dtype=layer.weight.dtype)
        conv.load_state_dict(layer.state_dict())
        act = {"leaky_relu": nn.LeakyReLU(0.2), "silu": nn.SiLU(), "tanh": nn.Tanh(), "linear": nn.Identity()}[layer.act]
        layers += [conv, act]
    return nn.Sequential(*layers)


def formula(model, images, wgan=False):
    images = images.detach().requires_grad_()
    (g,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
    return ((g.flatten(1).norm(2, 1) - 1) ** 2).mean() if wgan else g.flatten(1).square().sum(1).mean()


def gradients(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), found)]


def test_a_linear_discriminators_gradient_is_its_weight():
    w, x = torch.randn(3, 8, 8, requires_grad=True), torch.randn(5, 3, 8, 8)
    linear = lambda images: (images * w).sum((1, 2, 3))
    square = w.detach().square().sum()
    for penalty in (r1_penalty(linear, x), r2_penalty(linear, x)):
        torch.testing.assert_close(penalty, square)
        torch.testing.assert_close(torch.autograd.grad(penalty, w)[0], 2 * w.detach())
    penalty = gradient_penalty(linear, x, torch.randn_like(x))
    torch.testing.assert_close(penalty, (square.sqrt() - 1) ** 2)


def test_a_quadratic_discriminators_gradient_is_the_image():
    real, fake = torch.randn(6, 3, 5, dtype=FP64), torch.randn(6, 3, 5, dtype=FP64)
    quadratic = lambda images: images.square().sum((1, 2))[:, None]
    torch.testing.assert_close(r1_penalty(quadratic, real), 4 * real.square().sum((1, 2)).mean())
    # The interpolates are found again from the generator's seed: one epsilon an image.
    epsilon = torch.rand(6, generator=torch.Generator().manual_seed(3)).view(6, 1, 1).double()
    between = epsilon * real + (1 - epsilon) * fake
    got = gradient_penalty(quadratic, real, fake, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(got, ((2 * between.flatten(1).norm(dim=1) - 1) ** 2).mean())
    assert gradient_penalty(quadratic, real, fake) != gradient_penalty(quadratic, real, fake), "epsilon is drawn anew"


@pytest.mark.parametrize("act", ["leaky_relu", "silu"])
@pytest.mark.parametrize("name", ["r1", "r2", "wgan"])
def test_finite_differences(name, act):
    model, real, fake = critic(4, act, FP64), torch.randn(2, 3, 8, 8, dtype=FP64), torch.randn(2, 3, 8, 8, dtype=FP64)

    def penalty():
        if name == "wgan":
            return gradient_penalty(model, real, fake, generator=torch.Generator().manual_seed(1))
        return {"r1": r1_penalty, "r2": r2_penalty}[name](model, real)

    found = gradients(penalty(), model)
    for p, g in zip(model.parameters(), found):
        direction = torch.randn_like(p)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                p.add_(direction, alpha=step)
                values.append(penalty())
                p.sub_(direction, alpha=step)
        slope = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((g * direction).sum(), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("act", ["leaky_relu", "tanh"])
def test_equals_the_formula_in_plain_torch(act, channels_last):
    model = critic(act=act)
    other, x = plain(model), torch.randn(4, 3, 8, 8)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
        model.to(memory_format=torch.channels_last)
    got, want = r1_penalty(model, x), formula(other, x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradients(got, model), gradients(want, other), rtol=1e-4, atol=1e-5)
    got, want = gradient_penalty(model, x, x), formula(other, x, wgan=True)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradients(got, model), gradients(want, other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("act", ["leaky_relu", "tanh", "silu"])  # silu: the bias has a gradient through y and through z itself
def test_the_logits_of_the_same_forward_serve_the_loss(act):
    model, x, calls = critic(act=act), torch.randn(4, 3, 8, 8), []
    model.register_forward_hook(lambda *_: calls.append(1))
    penalty, logits = r1_penalty(model, x, return_logits=True)
    assert len(calls) == 1
    got = gradients(F.softplus(-logits).mean() + 10 * penalty, model)
    other = plain(model)
    want = gradients(F.softplus(-other(x)).mean() + 10 * formula(other, x), other)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert gradient_penalty(model, x, x, return_logits=True)[1].shape == (4,)


def test_the_callers_images_are_left_alone():
    model, wanting, plain_images = critic(act="tanh"), torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 3, 8, 8)
    for images in (wanting, plain_images):
        r1_penalty(model, images).backward()
        gradient_penalty(model, images, images).backward()
    assert wanting.grad is None and not plain_images.requires_grad


def test_a_float32_part_of_the_discriminator_stays_float32_in_its_gradient():
    x, w, v = torch.randn(4, 12), torch.randn(12, 8, requires_grad=True), torch.randn(8)

    def head_in_float32(images):
        with torch.autocast("cpu", enabled=False):
            return torch.tanh(images @ w) @ v

    want = r1_penalty(head_in_float32, x)
    with torch.autocast("cpu", BF16):
        got = r1_penalty(head_in_float32, x)
    torch.testing.assert_close(got, want)


def test_the_inner_backward_computes_no_weight_gradient():
    model, x = critic(), torch.randn(2, 3, 8, 8, requires_grad=True)
    penalties = []
    assert passes(lambda: penalties.append(r1_penalty(model, x))) == {"data": 3, "weight": 0}
    # Outer: a transposed convolution's own two gradients a layer; nothing runs back through the piecewise linear forward.
    outer = passes(lambda: penalties[0].backward())
    assert outer["weight"] == 3 and outer["data"] == 2
    assert x.grad is None, "the caller's images are detached"


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 2, 2), (4, 4)])
def test_logits_of_any_shape(shape):
    w = torch.randn(3, 4)
    maps = lambda images: (images.flatten(1) @ w).reshape(4, -1) if math.prod(shape) == 16 else images.flatten(1) @ w.sum(1)
    penalty = r1_penalty(lambda images: maps(images).reshape(shape), torch.randn(4, 3))
    torch.testing.assert_close(penalty, w.sum(1).square().sum())


def test_conditions_go_to_the_discriminator():
    label = torch.tensor([1, 2])
    conditional = lambda images, k, shift: (images * k[:, None]).sum(1) + shift
    assert r1_penalty(conditional, torch.randn(2, 3), label, 1.0).item() == pytest.approx((3 * 1 + 3 * 4) / 2)
    want = ((3**0.5 - 1) ** 2 + (2 * 3**0.5 - 1) ** 2) / 2
    assert gradient_penalty(conditional, torch.randn(2, 3), torch.randn(2, 3), label, 1.0).item() == pytest.approx(want)


@pytest.mark.parametrize("dtype", [BF16, FP16], ids=str)
def test_autocast(dtype):
    torch.manual_seed(0)
    model, x = critic(act="tanh"), torch.randn(4, 3, 8, 8)
    for call in (lambda m: r1_penalty(m, x), lambda m: gradient_penalty(m, x, x)):
        want = call(model)
        with torch.autocast("cpu", dtype):
            got = call(model)
            found = gradients(got, model)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, want, rtol=0.05, atol=1e-3)
        for g, exact in zip(found, gradients(want, model)):
            assert g.dtype == torch.float32 and (g - exact).norm() <= 0.1 * exact.norm() + 1e-6


def test_float16_gradients_do_not_vanish():
    """1e-8 is 0 in float16: unscaled, the penalty would be too."""
    w = torch.full((3,), 1e-4, dtype=FP16)
    small = lambda images: (images.mul(w) * w).sum(1)
    x = torch.randn(5, 3, dtype=FP16)
    penalty = r1_penalty(small, x)
    assert penalty.dtype == torch.float32 and penalty.item() == pytest.approx(3e-16, rel=0.1)
    assert r1_penalty(small, x, scale=1.0).item() == 0.0
    large = lambda images: (images * 100).sum(1)
    assert r1_penalty(large, x).isinf() and r1_penalty(large, x, scale=1.0).item() == pytest.approx(30000)


def test_low_precision_images_and_networks():
    model, x = critic(dtype=BF16), torch.randn(4, 3, 8, 8).to(BF16)
    for penalty in (r1_penalty(model, x), gradient_penalty(model, x, x.float())):
        assert penalty.dtype == torch.float32 and penalty.isfinite()
        assert all(g.dtype == BF16 for g in gradients(penalty, model))


def test_without_grad_mode_it_is_a_number():
    model, x = critic(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        penalty, logits = r1_penalty(model, x, return_logits=True)
    assert not penalty.requires_grad and not logits.requires_grad and torch.equal(penalty, r1_penalty(model, x).detach())


def test_where_the_gradient_is_zero_wgan_gp_is_one_and_has_a_gradient():
    w = torch.zeros(3, requires_grad=True)
    penalty = gradient_penalty(lambda images: (images * w).sum(1), torch.randn(2, 3), torch.randn(2, 3))
    assert penalty.item() == 1.0 and torch.autograd.grad(penalty, w)[0].tolist() == [0.0] * 3


X = torch.zeros(4, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gradient_penalty(torch.sum, X, X[:3]), r"gradient_penalty: fake has shape \(3, 3\), real \(4, 3\).*the last batch"),
        (lambda: r1_penalty(lambda x: (x.sum(1), x), X), "r1_penalty: the discriminator gives a tuple, wants a tensor of logits"),
        (lambda: r1_penalty(lambda x: x.sum(), X), r"gives shape \(\), wants \[N, ...\] with N=4. Logits of single images"),
        (lambda: r1_penalty(lambda x: x.sum(1).detach(), X), "do not depend on the images"),
        (lambda: r2_penalty(torch.sum, X.int()), "r2_penalty: fake has dtype torch.int32"),
        (lambda: r1_penalty(torch.sum, X[:0]), "real has shape .* wants .* at least one image"),
        (lambda: r1_penalty(torch.sum, [1.0]), "real is a builtins.list"),
        (lambda: r1_penalty(torch.compile(critic(), backend="eager"), X), "discriminator is compiled.*_orig_mod"),
        (lambda: r1_penalty(torch.compile(lambda x: x.sum(1), backend="eager"), X), "discriminator is compiled"),
        (lambda: r1_penalty(nn.Sequential(torch.compile(nn.Linear(3, 1), backend="eager")), X), "discriminator is compiled"),
    ],
)
def test_refusals(call, words):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        call()


def test_a_module_compiled_in_place_is_refused():
    model = nn.Linear(3, 1)
    model.compile(backend="eager")
    with pytest.raises(RuntimeError, match="is compiled"):
        r1_penalty(model, X)


def test_public_names_load_lazily():
    assert ganfast.penalties.r1_penalty is r1_penalty and "penalties" in ganfast.__all__
    for name in ganfast.penalties.__all__[:1] + ganfast.penalties.__all__[2:]:
        words = getattr(ganfast.penalties, name).__doc__
        assert all(f"{heading}:" in words for heading in ("Shapes", "Dtypes", "Layout", "Grads", "Raises", "Source"))


def d_loss(model, real, fake, seed):
    """One logit a real image with its R1, WGAN-GP beside: three forwards and two penalties in one backward."""
    r1, real_logits = r1_penalty(model, real, return_logits=True)
    wgan = gradient_penalty(model, real, fake, generator=torch.Generator().manual_seed(seed))
    return F.softplus(-real_logits).mean() + F.softplus(model(fake)).mean() + 5 * r1 + 10 * wgan


def _replica(rank, folder, model, real, fake):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    replica, half, reduced = nn.parallel.DistributedDataParallel(copy.deepcopy(model)), slice(4 * rank, 4 * rank + 4), []

    def count(state, bucket):
        reduced.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True).get_future()
        return work.then(lambda future: future.value()[0])

    replica.register_comm_hook(None, count)
    for _ in range(2):  # the reducer must be ready for the next step
        replica.zero_grad()
        d_loss(replica, real[half], fake[half], rank).backward()
    found = [p.grad for p in replica.parameters()]
    dist.destroy_process_group()
    torch.save((found, reduced), f"{folder}/{rank}")


def test_two_processes_equal_one(tmp_path):
    model, real, fake = critic(), torch.randn(8, 3, 8, 8), torch.randn(8, 3, 8, 8)
    torch.multiprocessing.spawn(_replica, (str(tmp_path), model, real, fake), nprocs=2)
    loss = sum(d_loss(model, real[s], fake[s], seed) for seed, s in enumerate((slice(4), slice(4, 8)))) / 2
    want = gradients(loss, model)
    for rank in range(2):
        found, reduced = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
        assert sum(reduced) == 2 * sum(p.numel() for p in model.parameters()), "each gradient is reduced once a step"
