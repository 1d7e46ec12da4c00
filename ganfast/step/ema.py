"""The average of a network's weights, moved at every step on the device."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a network, `module`: a copy in eval mode, without gradients, to sample from.

    `update(decay)` moves it: average = decay * average + (1 - decay) * weight, for parameters and floating buffers; other buffers
    are copied. A decay in a tensor is read on the device, so it may change under `ganfast.capture`. One pass over memory: torch's
    fused SGD with weight decay 1 that maximizes along the weights, whose update p - r (p - w) is a lerp.

    Dtypes: the network's. Raises: TypeError for what is no module, ValueError for a network without parameters.
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"EMA: network expects a torch.nn.Module, got {type(network).__name__}.")
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        self._pairs = list(zip(_state(self.module), _state(network), strict=True))
        if not self._pairs:
            raise ValueError(f"EMA: {type(network).__name__} has no parameters to average.")

    @torch.no_grad()
    def update(self, decay: float | Tensor, skip: Tensor | None = None) -> None:
        """One step. decay: 0 to 1, a number or a 0-d tensor on the network's device; skip: 0-d float32, 1 where nothing is to change."""
        rate = 1 - decay
        groups, rest = {}, []
        for average, weight in self._pairs:
            # The fused pass pairs memory, not indices; torch 2.13's on a CPU is wrong for 16-bit types.
            if average.dtype in (torch.float32, torch.float64) and average.stride() == weight.stride():
                averages, weights = groups.setdefault((average.dtype, average.device), ([], []))
                averages.append(average)
                weights.append(weight)
            else:
                rest.append((average, weight))
        options = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "is_first_step": False, "grad_scale": None, "found_inf": skip}
        for averages, weights in groups.values():
            torch._fused_sgd_(averages, weights, [], lr=rate, weight_decay=1.0, maximize=True, **options)
        for average, weight in rest:
            along = rate.to(average.dtype) if isinstance(rate, Tensor) else rate
            moved = torch.lerp(average, weight, along) if average.is_floating_point() else weight
            average.copy_(moved if skip is None else torch.where(skip.bool(), average, moved))


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
