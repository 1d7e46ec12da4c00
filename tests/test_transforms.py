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
    with pytest.raises(RuntimeError):
        TRANSFORMS[transform](OPS[op])


@pytest.mark.parametrize("op", ["conv_act", "bias_act", "group_norm_act", "generator_loss"])
def test_the_words_and_that_nothing_stays_behind(op):
    with pytest.raises(RuntimeError, match=r"ganfast\.\w+: called under forward-mode AD.*wants torch\.autograd.*accelerate"):
        dual(OPS[op])
    x = X.clone().requires_grad_()
    OPS[op](x).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("op", ["conv_act", "bias_act", "batch_norm_act", "group_norm_act"])
def test_vmap_without_gradients_is_right(op):
    xs = torch.stack([X, X + 1])
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(OPS[op])(xs), torch.stack([OPS[op](x) for x in xs]))
