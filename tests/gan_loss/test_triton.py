"""gan_loss's Triton kernels, interpreted, against the formulas in plain torch float64 and its autograd."""

import pytest
import torch
import torch.nn.functional as F

from tests.triton_interpreter import assert_close, backend, interpreted  # noqa: F401

pytestmark = pytest.mark.triton


def soft(x):
    return F.softplus(x, threshold=1e9)  # exact in float64: no linear branch


SOFT = ("minimax", "nonsaturating")
DISCRIMINATOR = {
    "hinge": lambda r, f, s: F.relu(1 - r).mean() + F.relu(1 + f).mean(),
    "lsgan": lambda r, f, s: ((r - (1 - s)) ** 2 / 2).mean() + (f**2 / 2).mean(),
    "wasserstein": lambda r, f, s: f.mean() - r.mean(),
    "relativistic": lambda r, f, s: soft(f - r).mean(),
    "relativistic_average": lambda r, f, s: F.softplus(f.mean() - r).mean() + F.softplus(f - r.mean()).mean(),
}
DISCRIMINATOR |= dict.fromkeys(SOFT, lambda r, f, s: ((1 - s) * soft(-r) + s * soft(r)).mean() + soft(f).mean())
GENERATOR = {
    "minimax": lambda r, f: -soft(f).mean(),
    "nonsaturating": lambda r, f: soft(-f).mean(),
    "hinge": lambda r, f: -f.mean(),
    "lsgan": lambda r, f: ((f - 1) ** 2 / 2).mean(),
    "wasserstein": lambda r, f: -f.mean(),
    "relativistic": lambda r, f: soft(r - f).mean(),
    "relativistic_average": lambda r, f: F.softplus(r.mean() - f).mean() + F.softplus(r - f.mean()).mean(),
}
PAIRED = ("relativistic", "relativistic_average")


@pytest.fixture(params=["one_program", "partials", "partials_looping"])
def plan(request, monkeypatch):
    """The large plan on small inputs, with one and with several blocks a program."""
    if request.param != "one_program":
        op = backend("gan_loss")
        monkeypatch.setattr(op, "ONE_PROGRAM", 0)
        monkeypatch.setattr(op, "PROGRAMS", 256 if request.param == "partials" else 2)


def logits(n, seed, dtype=torch.float32):
    return (torch.randn(n, generator=torch.Generator().manual_seed(seed)) * 2 + 0.3).to(dtype)


def check(real, fake, kind, generator, smoothing=0.0):
    loss, greal, gfake, stats = backend("gan_loss").gan_loss_fwd_triton(real, fake, kind, generator, smoothing)
    r = None if real is None else real.double().requires_grad_()
    f = fake.double().requires_grad_()
    want = GENERATOR[kind](r, f) if generator else DISCRIMINATOR[kind](r, f, smoothing)
    leaves = [f] if r is None else [f, r]
    grads = torch.autograd.grad(want, leaves, allow_unused=True)
    assert loss.shape == () and loss.dtype == greal.dtype == gfake.dtype == stats.dtype == torch.float32
    assert_close(loss, want.detach(), "loss", scale=1.0)
    assert_close(gfake, grads[0], "gfake")
    t = 0.5 if kind == "lsgan" else 0.0
    r, f = None if r is None else r.detach(), f.detach()
    wanted = [0.0, (f < t).double().mean(), 0.0, f.mean(), 0.0]
    if r is None:
        assert greal.shape == (0,)
    else:
        assert_close(greal, torch.zeros_like(r) if grads[1] is None else grads[1], "greal")
        wanted[0], wanted[2], wanted[4] = (r > t).double().mean(), r.mean(), r.sign().mean()
    assert_close(stats, torch.tensor([float(v) for v in wanted], dtype=torch.float64), "stats")


@pytest.mark.parametrize("kind", list(DISCRIMINATOR))
@pytest.mark.usefixtures("plan")
def test_discriminator(kind):
    check(logits(2500, 1), logits(2500, 2), kind, False)


@pytest.mark.parametrize("kind", list(GENERATOR))
@pytest.mark.usefixtures("plan")
def test_generator(kind):
    check(logits(2500, 3), logits(2500, 4), kind, True)  # where the loss ignores real, its gradient is zero and its statistics count


@pytest.mark.parametrize("kind", [k for k in GENERATOR if k not in PAIRED])
@pytest.mark.usefixtures("plan")
def test_generator_without_real(kind):
    check(None, logits(1500, 5), kind, True)


@pytest.mark.parametrize("kind", [k for k in DISCRIMINATOR if k != "relativistic"])
@pytest.mark.usefixtures("plan")
def test_unequal_sizes(kind):
    check(logits(1300, 6), logits(37, 7), kind, False)
    check(logits(2, 6), logits(2200, 7), kind, False)


@pytest.mark.parametrize("kind", list(DISCRIMINATOR))
def test_one_logit(kind):
    check(logits(1, 8), logits(1, 9), kind, False)
    check(logits(1, 8), logits(1, 9), kind, True)


@pytest.mark.parametrize("kind", [*SOFT, "lsgan"])
@pytest.mark.usefixtures("plan")
def test_smoothing(kind):
    check(logits(70, 10), logits(71, 11), kind, False, smoothing=0.1)


@pytest.mark.parametrize("kind", list(DISCRIMINATOR))
def test_fp16_logits(kind):
    """Half-precision logits, everything else in float32."""
    check(logits(65, 12, torch.float16), logits(65, 13, torch.float16), kind, False)


def test_statistics_count_the_threshold_as_wrong():
    values = torch.tensor([-1.0, 0.0, 0.0, 0.5, 0.6, -0.0])
    for kind in ("hinge", "lsgan"):
        check(values, values, kind, False)


@pytest.mark.usefixtures("plan")
def test_confident_logits_keep_their_digits():
    """softplus far below zero is exp: the loss must not round to 0, nor overflow on the other side."""
    op = backend("gan_loss")
    for r, f in ((40.0, -40.0), (25.0, -30.0), (-200.0, 300.0), (88.0, -88.0)):
        real, fake = torch.tensor([r]), torch.tensor([f])
        loss, greal, gfake, _ = op.gan_loss_fwd_triton(real, fake, "nonsaturating", False, 0.0)
        want = DISCRIMINATOR["nonsaturating"](real.double(), fake.double(), 0.0)
        for got, exact in ((loss, want), (greal, -torch.sigmoid(-real.double())), (gfake, torch.sigmoid(fake.double()))):
            assert ((got.double() - exact).abs() <= 1e-5 * exact.abs()).all(), (r, f, got, exact)


def test_more_programs_than_a_block_of_partials():
    """The true plan: more than 64K logits, sizes that are no multiple of a block."""
    check(logits(70001, 14), logits(3, 15), "relativistic_average", False)
    check(logits(40000, 14), logits(33333, 15), "nonsaturating", False)
