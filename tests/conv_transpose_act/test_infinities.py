"""Infinite and NaN gradients through the convolutions' activations, against torch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import conv_act, conv_transpose_act, upsample_conv_act
from tests.infinities import ACTS, IDS, act_of_torch, alpha_of, compare, spread

BACKENDS = ["reference", "torch", "cpu", pytest.param("triton", marks=pytest.mark.triton)]
CALLS = {
    "conv": (F.conv1d, conv_act),
    "conv_transpose": (F.conv_transpose1d, conv_transpose_act),
    "upsample_conv": (lambda x, w, b: F.conv1d(F.interpolate(x, scale_factor=2), w, b, padding=1), upsample_conv_act),
}


def _cases():
    """Each activation in one of the two convolutions in turn; `make prove` has it in both. An upsampling convolution is one of the two:
    which, the tuner says."""
    for place, (act, alpha) in enumerate(ACTS):
        for turn, call in enumerate(CALLS):
            yield pytest.param(act, alpha, call, id=f"{IDS[place]}-{call}", marks=[] if turn == place % 2 else [pytest.mark.prove])


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # numpy, which interprets triton
@pytest.mark.parametrize(("act", "alpha", "call"), list(_cases()))
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.thinned(3)
def test_infinite_gradients_are_torchs(backend, act, alpha, call):
    alpha, (convolution, fast) = alpha_of(alpha), CALLS[call]
    weight = torch.eye(2)[:, :, None]  # so that z has the values of x
    if call == "upsample_conv":
        weight = F.pad(weight, (1, 1))
    leaves = {"x": spread((2, 2, 11), act).requires_grad_(), "weight": weight.requires_grad_(), "bias": torch.zeros(2, requires_grad=True)}
    if isinstance(alpha, torch.Tensor):
        leaves["alpha"] = alpha
    compare(
        lambda x, weight, bias, alpha=alpha: act_of_torch(convolution(x, weight, bias), act, alpha),
        lambda x, weight, bias, alpha=alpha: fast(x, weight, bias, act=act, alpha=alpha, backend=backend),
        leaves,
        backend,
    )
