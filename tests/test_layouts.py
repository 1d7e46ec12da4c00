"""A tensor that is no dense memory is refused in words, also after a call that looks like it and was remembered."""

import pytest
import torch

import ganfast.functional as GF
from ganfast import ada, augment, penalties

X, W = torch.randn(2, 4, 4, 4), torch.randn(4, 4, 3, 3)
CALLS = {
    "bias_act": ("x", GF.bias_act),
    "conv_act": ("x", lambda x: GF.conv_act(x, W)),
    "conv_transpose_act": ("x", lambda x: GF.conv_transpose_act(x, W)),
    "upsample_conv_act": ("x", lambda x: GF.upsample_conv_act(x, W)),
    "batch_norm_act": ("x", lambda x: GF.batch_norm_act(x, None, None, training=True)),
    "instance_norm_act": ("x", GF.instance_norm_act),
    "group_norm_act": ("x", lambda x: GF.group_norm_act(x, 2)),
    "layer_norm_act": ("x", lambda x: GF.layer_norm_act(x, 4)),
    "modulated_conv": ("x", lambda x: GF.modulated_conv(x, W, torch.ones(2, 4))),
    "upfirdn": ("x", lambda x: GF.upfirdn(x, torch.ones(2))),
    "filtered_act": ("x", lambda x: GF.filtered_act(x, up_filter=torch.ones(2))),
    "weight_norms": (r"v\[0\]", lambda x: GF.weight_norms([x], [torch.ones(1)])),
    "equalised_weights": (r"weights\[0\]", lambda x: GF.equalised_weights([x], [1.0])),
    "generator_loss": ("fake_logits", lambda x: GF.generator_loss(x, kind="hinge")),
    "diff_augment": ("images", lambda x: augment.diff_augment(x, "color")),
    "ada_augment": ("images", lambda x: ada.ada_augment(x, 0.5, "geom")),
    "r1_penalty": ("real", lambda x: penalties.r1_penalty(torch.nn.Flatten(), x)),
}
MADE = {
    "torch.sparse_coo": lambda x: x.to_sparse(),
    "torch.sparse_csr": lambda x: x.to_sparse_csr(dense_dim=x.dim() - 2),
    "torch._mkldnn": lambda x: x.to_mkldnn(),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", MADE)
@pytest.mark.parametrize("op", CALLS)
def test_another_layout_is_refused(op, layout):
    argument, call = CALLS[op]
    call(X)
    with pytest.raises(TypeError, match=rf"{op}: {argument} has layout {layout}, wants torch.strided. .*\.to_dense\(\)"):
        call(MADE[layout](X))


BESIDE = {
    "conv_act": ("residual", lambda r: GF.conv_act(X, W, padding=1, residual=r), X),
    "bias_act": ("residual", lambda r: GF.bias_act(X, residual=r), X),
    "batch_norm_act": ("residual", lambda r: GF.batch_norm_act(X, None, None, training=True, residual=r), X),
    "group_norm_act": ("weight", lambda w: GF.group_norm_act(X, 2, w), torch.ones(X.shape[1])),
}


@pytest.mark.parametrize("op", BESIDE)
def test_beside_x_too(op):
    argument, call, given = BESIDE[op]
    call(given)
    with pytest.raises(TypeError, match=rf"{op}: {argument} has layout torch.sparse_coo, wants torch.strided"):
        call(given.to_sparse())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("op", CALLS)
def test_nested_tensors_are_refused(op):
    argument, call = CALLS[op]
    with pytest.raises(TypeError, match=f"{op}: {argument} is a nested tensor, wants a plain one"):
        call(torch.nested.nested_tensor([X[0], X[1, :, :2]]))
