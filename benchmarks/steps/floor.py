"""The floor of a step: the time this machine would need for its arithmetic and its unavoidable traffic, one after the other.

    floor = FLOPs / rate of a large matrix product at the row's dtype + bytes / bandwidth of a large copy      (both calibrated in
                                                                                                             the same run)
FLOPs: by torch.utils.flop_counter's formulas, of the eager step whose discriminators are frozen while the generators learn, the
fewest of all rivals: the direct algorithm's multiply-adds, times two, of every convolution and matrix product.
Bytes: what moves even if everything pointwise, every norm and every loss were fused away. Each convolution or product reads its
operands and writes its result once, in the row's dtype: forward x, weight -> y; data gradient gy, weight -> gx; weight gradient
gy, x -> gweight. The optimizers read p, g, m, v and write p, m, v in float32.
A cache between the layers, or an algorithm of fewer multiplications (Winograd's), may go below; launches, Python, norms,
activations, losses, casts and averages are what a rival has above it.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count, flop_registry

from benchmarks.steps.cases import StepCase
from benchmarks.steps.step import How, Step

_OPTIMIZER = 7 * 4  # bytes a parameter
_aten = torch.ops.aten


class Work(NamedTuple):
    """Of one step. `elements`: those that convolutions and products read and write; `parameters`: those that are updated."""

    flops: int
    elements: int
    parameters: int

    def bytes(self, dtype: str) -> int:
        return self.elements * {"fp32": 4, "bf16": 2}[dtype] + self.parameters * _OPTIMIZER


class Counter(TorchDispatchMode):
    """FLOPs of all operations that torch.utils.flop_counter has a formula for, and elements of the operands and results of
    convolutions and products. FlopCounterMode itself hooks the modules, which a penalty's inner backward does not survive."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:  # a double backward is made of convolutions
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += _flops(func.overloadpacket, args, kwargs, result)
            self.elements += sum(math.prod(t.shape) for t in _moved(func.overloadpacket, args, result))
        return result


def _flops(packet, args: tuple, kwargs: dict, result) -> int:
    if packet == _aten.convolution_backward:  # each gradient is the forward's count; torch's formula forgets the weight's groups
        gy, x, weight, transposed, mask = *args[:3], args[7], args[10]
        return (mask[0] + mask[1]) * conv_flop_count(x.shape, weight.shape, gy.shape, transposed)
    return flop_registry[packet](*args, **kwargs, out_val=result)


def _moved(packet, args: tuple, result) -> tuple[Tensor, ...]:
    if packet == _aten.convolution_backward:
        gy, x, weight, mask = *args[:3], args[10]
        return ((gy, weight, result[0]) if mask[0] else ()) + ((gy, x, result[1]) if mask[1] else ())
    operands = {_aten.convolution: args[:2], _aten.mm: args[:2], _aten.bmm: args[:2], _aten.addmm: args[1:3]}
    if packet not in operands:
        raise NotImplementedError(f"floor: the traffic of {packet} is not counted; the networks had none")
    return (*operands[packet], result)


@functools.cache
def work(case: StepCase) -> Work:
    """Counted on tensors without data."""
    with torch.device("meta"):
        step = Step(case, How(torch.float32, torch.contiguous_format, frozen=True), device="meta")
    with Counter() as counter:
        step.first()
    learning = step.players["D"] + step.players["G"] if step.game.order else []
    parameters = sum(p.numel() for net in learning for p in net.parameters())
    return Work(counter.flops, counter.elements, parameters)
