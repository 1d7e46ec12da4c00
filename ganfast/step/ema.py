"""The average of a network's weights, moved at every step on the device."""

import copy
import numbers

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a network, `module`: a copy in eval mode, without gradients, to sample from.

    `update(decay)` moves it: average = decay * average + (1 - decay) * weight, for parameters and floating buffers; other buffers
    are copied. A decay in a tensor is read on the device, so it may change under `ganfast.capture`. One pass over memory: torch's
    fused SGD with weight decay 1 that maximizes along the weights, whose update p - r (p - w) is a lerp.

    Fields: module, the average; network, whose average it is.
    A checkpoint keeps it as ema.module.state_dict().

    Dtypes: the network's. A 16-bit average is rounded at every step, and from a decay of about 0.99 on moves too little or not at
    all: average a network in float32, as under autocast it is.
    Shapes: any. Raises: TypeError for what is no module, ValueError for a network without parameters.
    Source: averaged generators, Yazici et al. 2019, "The unusual effectiveness of averaging in GAN training".
    """

    def __init__(self, network: nn.Module) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"EMA: network expects a torch.nn.Module, got {type(network).__name__}.")
        self.network, self.module = network, copy.deepcopy(network).eval().requires_grad_(False)
        if not _state(network):
            raise ValueError(f"EMA: {type(network).__name__} has no parameters to average.")
        for average in _state(self.module):  # an expanded buffer has no memory of its own for each element
            average.data = average.data.clone(memory_format=torch.preserve_format)

    @torch.no_grad()
    def update(self, decay: float | Tensor, skip: Tensor | None = None) -> None:
        """One step. decay: 0 to 1, a number or a 0-d tensor on the network's device, whose value is not checked; skip: 0-d float32, 1
        where nothing is to change.

        Raises: TypeError, ValueError for another decay; RuntimeError where network and average no longer have the same parameters and
            buffers.
        """
        averages, weights = _state(self.module), _state(self.network)
        if [(t.shape, t.dtype, t.device) for t in averages] != [(t.shape, t.dtype, t.device) for t in weights]:
            raise RuntimeError("EMA: the network's parameters or buffers have changed since EMA was made; move both, or make it anew.")
        check_decay(decay)
        rate = 1 - decay
        groups, rest = {}, []
        for average, weight in zip(averages, weights):
            # The fused pass pairs memory, not indices; torch 2.13's on a CPU is wrong for 16-bit types.
            if average.dtype in (torch.float32, torch.float64) and _same_order(average, weight):
                some, others = groups.setdefault((average.dtype, average.device), ([], []))
                some.append(average)
                others.append(weight)
            else:
                rest.append((average, weight))
        rate = rate.float() if isinstance(rate, Tensor) else float(rate)
        options = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "is_first_step": False, "grad_scale": None, "found_inf": skip}
        for some, others in groups.values():
            torch._fused_sgd_(some, others, [], lr=rate, weight_decay=1.0, maximize=True, **options)
        for average, weight in rest:
            moved = weight
            if average.is_floating_point() or average.is_complex():
                wide = torch.promote_types(average.dtype, torch.float32)
                moved = torch.add(average.to(wide), (weight.to(wide) - average) * rate).to(average.dtype)
            average.copy_(moved if skip is None else torch.where(skip.bool(), average, moved))


def check_decay(decay: float | Tensor) -> None:
    """Raises TypeError, ValueError. The value of a tensor is not looked at: nobody waits for the device."""
    if isinstance(decay, Tensor):
        if decay.dim() or not decay.is_floating_point():
            raise ValueError(f"EMA: decay expects a 0-d floating tensor, got shape {tuple(decay.shape)} and {decay.dtype}.")
    elif isinstance(decay, bool) or not isinstance(decay, numbers.Real):
        raise TypeError(f"EMA: decay expects a number from 0 to 1 or a 0-d tensor, got {decay!r}.")
    elif not 0 <= decay <= 1:
        raise ValueError(f"EMA: decay expects a number from 0 to 1, got {decay!r}.")


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _same_order(a: Tensor, b: Tensor) -> bool:
    """Both dense, with their elements in one order."""
    formats = {4: [torch.channels_last], 5: [torch.channels_last_3d]}.get(a.dim(), [])
    return any(a.is_contiguous(memory_format=f) and b.is_contiguous(memory_format=f) for f in (torch.contiguous_format, *formats))
