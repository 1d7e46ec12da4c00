"""Infinite and NaN gradients through batch_norm_act and instance_norm_act, against torch's own layers."""

import pytest
import torch
import torch.nn.functional as F

from ganfast.functional import batch_norm_act, instance_norm_act
from ganfast.train.distributed.sync_batch_norm import synchronised_batch_norm_act
from tests.infinities import ACTS, IDS, act_of_torch, alpha_of, compare, spread

BACKENDS = ["reference", "torch", "cpu", pytest.param("triton", marks=pytest.mark.triton)]
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")  # numpy, which interprets triton


def leaves_of(act, alpha) -> dict:
    leaves = {
        "x": spread((3, 2, 11), act).requires_grad_(),
        "weight": torch.tensor([1.0, -2.0], requires_grad=True),
        "bias": torch.tensor([0.1, -0.2], requires_grad=True),
    }
    if isinstance(alpha, torch.Tensor):
        leaves["alpha"] = alpha
    return leaves


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("act, alpha", ACTS, ids=IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_has_torchs_infinities(backend, act, alpha, training):
    alpha = alpha_of(alpha)
    running = (None, None) if training else (torch.zeros(2), torch.ones(2))

    def eager(x, weight, bias, alpha=alpha):
        return act_of_torch(F.batch_norm(x, *running, weight, bias, training), act, alpha)

    def fast(x, weight, bias, alpha=alpha):
        return batch_norm_act(x, *running, weight, bias, training=training, act=act, alpha=alpha, backend=backend)

    compare(eager, fast, leaves_of(act, alpha), backend)


@pytest.mark.parametrize("act, alpha", ACTS, ids=IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_instance_norm_has_torchs_infinities(backend, act, alpha):
    alpha = alpha_of(alpha)

    def eager(x, weight, bias, alpha=alpha):
        return act_of_torch(F.instance_norm(x, None, None, weight, bias), act, alpha)

    def fast(x, weight, bias, alpha=alpha):
        return instance_norm_act(x, weight, bias, act=act, alpha=alpha, backend=backend)

    compare(eager, fast, leaves_of(act, alpha), backend)


@pytest.mark.parametrize("act, alpha", ACTS, ids=IDS)
def test_synchronised_batch_norm_has_torchs_infinities(act, alpha, monkeypatch):
    alpha = alpha_of(alpha)
    monkeypatch.setattr("ganfast.train.distributed.sync_batch_norm.summed", lambda x: x)  # a process alone

    def eager(x, weight, bias, alpha=alpha):
        return act_of_torch(F.batch_norm(x, None, None, weight, bias, True), act, alpha)

    def fast(x, weight, bias, alpha=alpha):
        return synchronised_batch_norm_act(x, None, None, weight, bias, 0.1, 1e-5, act, alpha)

    compare(eager, fast, leaves_of(act, alpha), "cpu")
