"""Infinite and NaN gradients through bias_act, against torch's own layers."""

import pytest
import torch

from ganfast.functional import bias_act
from tests.infinities import ACTS, IDS, act_of_torch, alpha_of, compare, spread

BACKENDS = ["reference", "torch", "cpu", pytest.param("triton", marks=pytest.mark.triton)]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # numpy, which interprets triton
@pytest.mark.parametrize("gain, clamp", [(1.0, None), (1.5, 2.0)], ids=["plain", "gain_clamp"])
@pytest.mark.parametrize("act, alpha", ACTS, ids=IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_gradients_are_torchs(backend, act, alpha, gain, clamp):
    leaves = {"x": spread((3, 2, 11), act).requires_grad_(), "bias": torch.zeros(2, requires_grad=True)}
    if isinstance(alpha := alpha_of(alpha), torch.Tensor):
        leaves["alpha"] = alpha

    def eager(x, bias, alpha=alpha):
        y = act_of_torch(x + bias[:, None], act, alpha) * gain
        return y if clamp is None else y.clamp(-clamp, clamp)

    def fast(x, bias, alpha=alpha):
        return bias_act(x, bias, act=act, alpha=alpha, gain=gain, clamp=clamp, backend=backend)

    compare(eager, fast, leaves, backend)
