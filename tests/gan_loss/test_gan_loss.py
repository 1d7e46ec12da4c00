"""Values, gradients of every order and statistics of every kind, against formulas written out logit by logit."""

import math

import pytest
import torch

from ganfast import use_backend
from ganfast.functional import LossStats, discriminator_loss, generator_loss
from ganfast.nn import DiscriminatorLoss, GeneratorLoss
from ganfast.ops.gan_loss import reference
from ganfast.ops.gan_loss.reference import KINDS, RELATIVISTIC, SMOOTHED
from ganfast.testing import assert_close_to_reference, nan_filled

HERE = ("reference", "torch", "cpu")
ROLES = [*[(kind, generator, 0.0) for kind in KINDS for generator in (False, True)], *[(kind, False, 0.1) for kind in SMOOTHED]]
roles = pytest.mark.parametrize(("kind", "generator", "smoothing"), ROLES, ids=[f"{k}-{'g' if g else 'd'}{s or ''}" for k, g, s in ROLES])
PLACES = [*[(b, "cpu") for b in HERE], *[pytest.param(b, "cuda", marks=pytest.mark.gpu) for b in ("torch", "triton", "cuda")]]
everywhere = pytest.mark.parametrize(("backend", "device"), PLACES)


def call(real, fake, kind, generator, smoothing=0.0, **options):
    if generator:
        return generator_loss(fake, real if kind in RELATIVISTIC else None, kind=kind, **options)
    return discriminator_loss(real, fake, kind=kind, smoothing=smoothing, **options)


def softplus(v):
    return max(v, 0.0) + math.log1p(math.exp(-abs(v)))


def by_hand(real, fake, kind, generator, s):
    """The design's table over Python floats: shares no code with torch or ganfast."""
    mean = lambda values: math.fsum(values) / len(values)
    r_mean, f_mean = mean(real), mean(fake)
    if kind == "relativistic":
        return mean([softplus(r - f) if generator else softplus(f - r) for r, f in zip(real, fake, strict=True)])
    if kind == "relativistic_average":
        sign = -1 if generator else 1
        return mean([softplus(sign * (f_mean - r)) for r in real]) + mean([softplus(sign * (f - r_mean)) for f in fake])
    if generator:
        terms = {
            "minimax": lambda f: -softplus(f), "nonsaturating": lambda f: softplus(-f), "hinge": lambda f: -f,
            "lsgan": lambda f: (f - 1) ** 2 / 2, "wasserstein": lambda f: -f,
        }  # fmt: skip
        return mean([terms[kind](f) for f in fake])
    cross = (lambda r: (1 - s) * softplus(-r) + s * softplus(r), softplus)
    of_real, of_fake = {
        "minimax": cross, "nonsaturating": cross, "hinge": (lambda r: max(0, 1 - r), lambda f: max(0, 1 + f)),
        "lsgan": (lambda r: (r - (1 - s)) ** 2 / 2, lambda f: f * f / 2), "wasserstein": (lambda r: -r, lambda f: f),
    }[kind]  # fmt: skip
    return mean([of_real(r) for r in real]) + mean([of_fake(f) for f in fake])


def logits(n_real, n_fake, dtype=torch.float64, device="cpu", scale=2.0):
    # hinge has no derivative at +-1; random float64 is never there, and 16-bit values are moved off it
    make = lambda n: torch.where((v := (torch.randn(n) * scale).to(dtype)).abs() == 1, 1.5, v).to(device, dtype)
    return make(n_real), make(n_fake)


@roles
@pytest.mark.parametrize("backend", HERE)
def test_values(backend, kind, generator, smoothing):
    for n_real, n_fake in ((1, 1), (9, 9), (4, 130), (5000, 8193)):
        real, fake = logits(n_real, n_real if kind == "relativistic" else n_fake, scale=12.0)
        want = by_hand(real.tolist(), fake.tolist(), kind, generator, smoothing)
        got = call(real, fake, kind, generator, smoothing, backend=backend)
        assert got.shape == () and got.dtype == torch.float64
        assert abs(got.item() - want) <= 1e-13 * max(1, abs(want))


@roles
@everywhere
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_against_the_oracle(backend, device, dtype, kind, generator, smoothing):
    """Beside plain torch: the eager chain of the same dtype, differentiated by autograd."""

    def results(run, real, fake):
        real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
        loss = run(real, fake)
        grads = torch.autograd.grad(loss, (real, fake), allow_unused=True)
        # by the count, so that sizes are near 1
        return [loss, *[torch.zeros(0, dtype=t.dtype) if g is None else g * t.numel() for g, t in zip(grads, (real, fake))]]

    chain = lambda r, f: reference.gan_loss(r, f, kind, generator, smoothing)
    for n_real, n_fake in ((1, 1), (37, 1300), *([(70_001, 3)] if dtype == torch.float32 else [])):
        real, fake = logits(n_real, n_real if kind == "relativistic" else n_fake, dtype, device)
        with nan_filled():
            got = results(lambda r, f: call(r, f, kind, generator, smoothing, backend=backend), real, fake)
        plain = results(lambda r, f: chain(r.float(), f.float()), real, fake)
        want = results(chain, real.double(), fake.double())
        assert got[0].dtype == torch.float32
        assert_close_to_reference(*zip(("loss", "greal", "gfake"), got, plain, want, strict=True))


@roles
@pytest.mark.parametrize("backend", HERE)
def test_first_second_and_third_derivatives(backend, kind, generator, smoothing):
    """In float64; the means of relativistic_average are part of the graph."""
    n_fake = 3 if kind == "relativistic" else 4
    real, fake = (t.requires_grad_() for t in logits(3, n_fake))
    reads_real = not generator or kind in RELATIVISTIC
    inputs = (real, fake) if reads_real else (fake,)
    run = lambda *leaves: call(leaves[0] if reads_real else None, leaves[-1], kind, generator, smoothing, backend=backend)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)
    if kind in ("hinge", "wasserstein"):
        return  # linear in pieces: nothing left to differentiate

    def slopes(*leaves):
        return torch.autograd.grad(run(*leaves), leaves, create_graph=True)

    assert torch.autograd.gradgradcheck(slopes, inputs)


def test_the_gradient_checks_notice_a_missing_path_through_the_means(monkeypatch):
    def without_means(real, fake, kind, generator, smoothing):
        return -torch.sigmoid(fake.mean() - real) / real.numel(), torch.sigmoid(fake - real.mean()) / fake.numel()

    monkeypatch.setattr(reference, "gan_loss_grads", without_means)
    run = lambda r, f: discriminator_loss(r, f, kind="relativistic_average", backend="reference")
    assert not torch.autograd.gradcheck(run, tuple(t.requires_grad_() for t in logits(3, 4)), raise_exception=False)


@pytest.mark.parametrize("backend", HERE)
def test_hinge_has_a_zero_second_derivative_rather_than_none(backend):
    fake = torch.randn(4, requires_grad=True)
    loss = discriminator_loss(torch.randn(4), fake, kind="hinge", backend=backend)
    (gfake,) = torch.autograd.grad(loss, fake, create_graph=True)
    assert torch.autograd.grad(gfake.square().sum(), fake)[0].eq(0).all()


@everywhere
def test_statistics(backend, device):
    real = torch.tensor([-2.0, 0.0, 0.25, 0.5, 3.0], device=device, requires_grad=True)
    fake = torch.tensor([-1.0, 0.0, 0.25, 0.75], device=device, requires_grad=True)
    for kind, shares in {"hinge": (3 / 5, 1 / 4), "nonsaturating": (3 / 5, 1 / 4), "lsgan": (1 / 5, 3 / 4)}.items():
        loss, stats = discriminator_loss(real, fake, kind=kind, return_stats=True, backend=backend)
        assert isinstance(stats, LossStats) and loss.requires_grad
        assert all(value.shape == () and value.device == real.device and not value.requires_grad for value in stats)
        torch.testing.assert_close(torch.stack(tuple(stats)).cpu(), torch.tensor([*shares, 0.35, 0.0, 0.4]))
    loss.backward()
    torch.testing.assert_close(discriminator_loss(real, fake, kind="lsgan", backend=backend), loss)


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize("kind", ["nonsaturating", "relativistic", "relativistic_average"])
def test_shapes_and_strides(backend, kind):
    """Patches, columns, slices and expanded scalars equal their flat copies, and so do the gradients, in the logits' shape."""
    flat = torch.randn(2, 3, 4, 5)
    views = [flat, flat[:, :, ::2, 1:], flat.transpose(1, 3), flat.to(memory_format=torch.channels_last), flat[0, 0, 0, :, None],
             flat[0, 0, 0, 0], flat[:1, :1, :1, :1].expand(2, 1, 3, 3), flat.flatten()[::3]]  # fmt: skip
    for view in views:
        real, fake = view.requires_grad_(), (view.detach() * 0.5 + 0.1).requires_grad_()
        copies = [t.detach().clone().flatten().requires_grad_() for t in (real, fake)]
        for generator in (False, True):
            got, want = (call(*pair, kind, generator, backend=backend) for pair in ((real, fake), copies))
            torch.testing.assert_close(got, want)
            got_grads = torch.autograd.grad(got, (real, fake), allow_unused=True)
            for g, w, t in zip(got_grads, torch.autograd.grad(want, copies, allow_unused=True), (real, fake)):
                assert (g is None) == (w is None)
                if g is not None:
                    assert g.shape == t.shape
                    torch.testing.assert_close(g, w.view(t.shape))


@roles
@everywhere
@pytest.mark.parametrize("size", [1e4, 60.0])
def test_confident_logits_stay_finite(backend, device, size, kind, generator, smoothing):
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        real, fake = (torch.full((3,), sign * size, device=device, requires_grad=True) for sign in signs)
        loss = call(real, fake, kind, generator, smoothing, backend=backend)
        want = by_hand(real.tolist(), fake.tolist(), kind, generator, smoothing)
        assert abs(loss.item() - want) <= 1e-6 * abs(want) + 1e-37  # a loss of 1e-26 keeps its digits, float32 has no 1e-52
        assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(loss, (real, fake), allow_unused=True))


@pytest.mark.parametrize("backend", HERE)
def test_float16_gradients_carry_a_loss_scale(backend):
    """sigmoid(-12) / 4096 is 1.5e-9, zero in float16, until the scale multiplies it."""
    real, fake = (torch.full((4096,), logit, dtype=torch.float16, requires_grad=True) for logit in (12.0, -12.0))
    discriminator_loss(real, fake, backend=backend).mul(65536.0).backward()
    want = torch.sigmoid(torch.tensor(-12.0)).item() / 4096 * 65536
    for logits, sign in ((real, -1), (fake, 1)):
        assert logits.grad.dtype == torch.float16 and abs(sign * logits.grad[0].item() / want - 1) < 1e-3


@pytest.mark.parametrize("backend", HERE)
def test_backward_twice_and_only_where_wanted(backend):
    real, fake = torch.randn(6, 1, requires_grad=True), torch.randn(6, 1)
    loss = discriminator_loss(real, fake, backend=backend)
    loss.backward(retain_graph=True)
    once = real.grad.clone()
    loss.backward()
    torch.testing.assert_close(real.grad, 2 * once)
    assert fake.grad is None
    fake.requires_grad_()
    discriminator_loss(real.detach(), fake, kind="relativistic_average", backend=backend).backward()
    assert fake.grad is not None
    with torch.no_grad():
        assert not discriminator_loss(real, fake, backend=backend).requires_grad


@pytest.mark.parametrize("backend", HERE)
def test_a_generator_loss_that_reads_no_real_logits_gives_them_no_gradient(backend):
    real, fake = torch.randn(5, requires_grad=True), torch.randn(3, requires_grad=True)
    for kind in KINDS:
        if kind not in RELATIVISTIC:
            loss = generator_loss(fake, real, kind=kind, backend=backend)
            torch.testing.assert_close(loss, generator_loss(fake, kind=kind, backend=backend))
            assert torch.autograd.grad(loss, (real, fake), allow_unused=True)[0] is None


@pytest.mark.parametrize("backend", HERE)
def test_autocast_computes_in_float32(backend):
    real, fake = (t.requires_grad_() for t in logits(50, 50, torch.bfloat16))
    want = discriminator_loss(real, fake, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        got = discriminator_loss(real, fake, backend=backend)
        greal, _ = torch.autograd.grad(got, (real, fake), create_graph=True)
    assert got.dtype == torch.float32 and greal.dtype == torch.bfloat16
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["auto", *HERE])
@pytest.mark.parametrize("kind", ["hinge", "relativistic_average"])
def test_fullgraph_compile(backend, kind):
    torch._dynamo.reset()

    def step(real, fake):
        loss, stats = discriminator_loss(real, fake, kind=kind, return_stats=True, backend=backend)
        return loss + generator_loss(fake, real, kind=kind, backend=backend), stats.real_accuracy

    inputs = [t.view(-1, 1).requires_grad_() for t in logits(20, 20, torch.float32)]
    (want, share), (got, compiled_share) = step(*inputs), torch.compile(step, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close((got, compiled_share), (want, share))
    torch.testing.assert_close(torch.autograd.grad(got, inputs), torch.autograd.grad(want, inputs))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_opcheck(backend):
    real, fake = logits(7, 5, torch.bfloat16)
    for kind in ("hinge", "relativistic_average"):
        torch.library.opcheck(torch.ops.ganfast.gan_loss_fwd, (real, fake, kind, False, 0.0, backend))
    torch.library.opcheck(torch.ops.ganfast.gan_loss_fwd, (None, fake, "minimax", True, 0.0, backend))


@pytest.mark.parametrize("backend", HERE)
def test_use_backend_and_the_same_bits_twice(backend, monkeypatch):
    """The pass behind a name runs under `use_backend`, and on any number of threads its sums are the same."""
    ran = []
    chain, fused = reference.eager_chain, reference.gan_loss_fwd_reference
    monkeypatch.setattr("ganfast.ops.gan_loss.op.eager_chain", lambda *args: ran.append("torch") or chain(*args))
    monkeypatch.setattr(reference, "gan_loss_fwd_reference", lambda *args: ran.append("reference") or fused(*args))
    real, fake = logits(100_000, 99_999, torch.float32)
    with use_backend(backend):
        first = discriminator_loss(real, fake, kind="relativistic_average")
    assert ran == ([] if backend == "cpu" else [backend])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        again = discriminator_loss(real, fake, kind="relativistic_average", backend=backend)
    finally:
        torch.set_num_threads(threads)
    assert backend != "cpu" or again.equal(first)


def test_modules():
    real, fake = torch.randn(4, 1), torch.randn(4, 1)
    d, g = DiscriminatorLoss("lsgan", smoothing=0.1), GeneratorLoss("relativistic")
    torch.testing.assert_close(d(real, fake), discriminator_loss(real, fake, kind="lsgan", smoothing=0.1))
    loss, stats = d(real, fake, return_stats=True)
    torch.testing.assert_close((loss, stats.fake_mean), (d(real, fake), fake.mean()))
    torch.testing.assert_close(g(fake, real), generator_loss(fake, real, kind="relativistic"))
    assert repr(d) == "DiscriminatorLoss(kind='lsgan', smoothing=0.1)" and repr(g) == "GeneratorLoss(kind='relativistic')"
    assert repr(DiscriminatorLoss()) == "DiscriminatorLoss(kind='nonsaturating')" and not [*d.parameters(), *d.state_dict()]
