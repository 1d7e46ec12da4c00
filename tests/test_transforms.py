"""torch.func and forward-mode AD: an error, where torch would hand on zeros through an op that has no rule for them."""

import pytest
import torch
from torch.autograd import forward_ad

import ganfast.functional as GF

X, W, B = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3), torch.randn(4)
OPS = {
    "conv_act": lambda x: GF.conv_act(x, W, B, act="relu"),
    "conv_transpose_act": lambda x: GF.conv_transpose_act(x, W, B, act="relu"),
    "upsample_conv_act": lambda x: GF.upsample_conv_act(x, W, B, act="relu"),
    "bias_act": lambda x: GF.bias_act(x, B, act="relu"),
    "batch_norm_act": lambda x: GF.batch_norm_act(x, None, None, training=True, act="relu"),
    "modulated": lambda x: GF.batch_norm_act(x, None, None, training=True, scale=x[:, :, 0, 0], shift=x[:, :, 0, 0]),
    "group_norm_act": lambda x: GF.group_norm_act(x, 2, act="relu"),
    "instance_norm_act": lambda x: GF.instance_norm_act(x, act="relu"),
    "layer_norm_act": lambda x: GF.layer_norm_act(x, (6,), act="relu"),
    "upfirdn": lambda x: GF.upfirdn(x, B),
    "filtered_act": lambda x: GF.filtered_act(x, down_filter=B),
    "modulated_conv": lambda x: GF.modulated_conv(x, W, x[:, :, 0, 0], act="relu"),
    "generator_loss": lambda x: GF.generator_loss(x),
    "discriminator_loss": lambda x: GF.discriminator_loss(x, x),
    "weight_norms": lambda x: GF.weight_norms([x], [x[:, :1, :1, :1].contiguous()])[0],
}


def dual(op):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(op(forward_ad.make_dual(X, torch.ones_like(X)))).tangent


TRANSFORMS = {
    "dual": dual,
    "jvp": lambda op: torch.func.jvp(op, (X,), (torch.ones_like(X),)),
    "grad": lambda op: torch.func.grad(lambda x: op(x).sum())(X),
    "vmap": lambda op: torch.func.vmap(op)(torch.stack([X, X]).requires_grad_()),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", OPS)
def test_an_error_instead_of_lost_derivatives(op, transform):
    with pytest.raises(RuntimeError, match=r"called under (forward-mode AD|torch\.func \()|must override the setup_context"):
        TRANSFORMS[transform](OPS[op])


def test_compiled_too():
    """Where dynamo traces, no tensor says what is asked for: the transform alone is an error, and a call without one is none."""
    for transform in ("jvp", "grad"):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=r"bias_act_fwd: called under torch\.func"):
            torch.compile(lambda x: TRANSFORMS[transform](lambda t: OPS["bias_act"](t + x)), backend="eager", fullgraph=True)(X)  # noqa: B023
    torch._dynamo.reset()
    x = X.clone().requires_grad_()
    torch.compile(OPS["bias_act"], backend="eager", fullgraph=True)(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(OPS["bias_act"](x).sum(), x)[0])


def test_constants_are_no_matter_of_a_transform():
    want = OPS["conv_act"](X)
    found = []

    def with_constant(p):
        found.append(OPS["conv_act"](X).detach())
        return (p * found[-1].sum()).sum()

    torch.func.grad(with_constant)(torch.ones(2))
    torch.func.jvp(with_constant, (torch.ones(2),), (torch.ones(2),))
    with forward_ad.dual_level():
        found.append(OPS["conv_act"](X))
    assert len(found) == 3 and torch.equal(found[2], want)


@pytest.mark.parametrize("op", ["conv_act", "bias_act", "group_norm_act", "generator_loss"])
def test_the_words_and_that_nothing_stays_behind(op):
    with pytest.raises(RuntimeError, match=r"ganfast\.\w+: called under forward-mode AD.*wants torch\.autograd.*accelerate"):
        dual(OPS[op])
    x = X.clone().requires_grad_()
    OPS[op](x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("op", [op for op in OPS if op != "weight_norms"])  # which torch cannot map
def test_vmap_without_gradients_is_right(op):
    xs = torch.stack([X, X + 1])
    torch.testing.assert_close(torch.func.vmap(OPS[op])(xs), torch.stack([OPS[op](x) for x in xs]))
