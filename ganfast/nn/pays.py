"""Whether a chain is run as one or layer by layer: small layers on a CPU can be faster as torch's own calls, so the two are measured."""

import copy

import torch
from torch import Tensor, nn

from ganfast import _tune, _tune_check
from ganfast._autograd import autocast_dtype
from ganfast._layout import is_channels_last
from ganfast.nn.patterns import CONV_TRANSPOSES, CONVS
from ganfast.ops.conv_transpose_act import torch_faults

_CONVS = (*CONVS, *CONV_TRANSPOSES)
_INSTANCE = (nn.InstanceNorm2d, nn.InstanceNorm3d)


def fused_pays(chain, modules: list[nn.Module | None], x: Tensor, extra: tuple) -> bool:
    """The tuner's answer, once for each look of x, on copies of the layers: running statistics and powers of weights stay as they are.
    True where nothing may be measured, and on a GPU, where every layer less is a launch less."""
    if extra or chain.recompute or x.device.type != "cpu" or torch.compiler.is_compiling() or _torch_is_wrong(modules, x):
        return True
    off = _tune.off_reason()
    training = tuple(module.training for module in modules if module is not None)
    key = (
        x.shape,
        x.stride(),
        x.dtype,
        x.requires_grad,
        torch.is_grad_enabled(),
        training,
        autocast_dtype(x),
        torch.get_num_threads(),
        off,
    )
    known = chain.settled.get(key)
    if known is None:
        known, final = (True, True) if off or x.numel() == 0 else _measured(chain, modules, x, key)
        if final:
            chain.settled[key] = known
    return known


def _torch_is_wrong(modules: list[nn.Module | None], x: Tensor) -> bool:
    """torch 2.13 on a CPU: instance_norm has a wrong gradient for a channels_last batch of one; a convolution's gradients can be wrong in
    16 bits, or break the heap, measured or not."""
    dtype = autocast_dtype(x) or x.dtype
    if any(isinstance(module, _CONVS) and torch_faults.layer(module, dtype, x.shape[-1]) for module in modules):
        return True
    if x.dim() < 4 or x.shape[0] != 1 or not any(isinstance(module, _INSTANCE) for module in modules):
        return False
    weights = [getattr(module, "weight", None) for module in modules if not isinstance(module, _INSTANCE)]
    return any(is_channels_last(t) for t in (x, *weights) if isinstance(t, Tensor) and t.dim() == x.dim())


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _measured(chain, modules: list[nn.Module | None], x: Tensor, key: tuple) -> tuple[bool, bool]:
    """(whether the fused way is the faster, whether that is final)"""
    own = [None if module is None else _plain(copied(module)) for module in modules]
    start = [{} if module is None else {name: t.clone() for name, t in module.named_buffers()} for module in own]
    learns = torch.is_grad_enabled()
    mine = [x.detach().requires_grad_(x.requires_grad and learns)]
    gradient, called = _tune_check.Cotangent(), set()

    def run(way, modules: list, inputs: list[Tensor]) -> list[Tensor | None]:
        # The user's own hooks (checkpointing, offloading) must not see what is saved here.
        with torch.set_grad_enabled(learns), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
            y = way(modules, *inputs, ())
            parameters = (p for module in modules if module is not None for p in module.parameters())
            leaves = [t for t in (*inputs, *parameters) if t.requires_grad]
            if not learns or not leaves:
                return [y]
            gradients = torch.autograd.grad(y, leaves, gradient(y), allow_unused=True)
            return [y] if _norm_takes_all(modules, y) else [y, *gradients]

    def call(name: str) -> list[Tensor | None]:
        if name not in called:  # the results that are compared: of the same powers of weights (spectral norm)
            called.add(name)
            for module, buffers in zip(own, start):
                for key, value in buffers.items():
                    module.get_buffer(key).copy_(value)
        return run(chain.run if name == "fused" else one_by_one, own, mine)

    def one_by_one(modules: list, x: Tensor, extra: tuple) -> Tensor:
        return chain.one_by_one(0, modules, x, extra)

    def exact(shaken: bool) -> list[Tensor | None]:
        double = [None if module is None else copied(module).double() for module in own]
        for module, buffers in zip(double, start):
            for key, value in buffers.items():
                module.get_buffer(key).copy_(value)
            for p in () if module is None else module.parameters():
                p.data = _tune_check.in_double(p, dtype if shaken else None).detach()
        return run(one_by_one, double, [_tune_check.in_double(t, dtype if shaken else None) for t in mine])

    dtype = autocast_dtype(x) or x.dtype
    layout = "nhwc" if is_channels_last(x) else "nchw"
    layers = " + ".join(
        m.label if module is None else f"{type(module).__name__}({module.extra_repr()})" for m, module in zip(chain.members, own)
    )
    family = f"chain {layers} {layout} {x.dtype} {key[3:8]}".replace("torch.", "")
    # The first wins ties: warm from repetition, a chain's own Python costs less here than between other layers.
    candidates = {"layers": lambda: call("layers"), "fused": lambda: call("fused")}
    name, final = _tune.choose(f"{family} x {tuple(x.shape)}", candidates, x, family, _tune_check.Ways(mine, exact, dtype))
    return name == "fused", final


def _norm_takes_all(modules: list[nn.Module | None], y: Tensor) -> bool:
    """Whether next to nothing of a gradient is left behind a norm over so few values but rounding, which no two ways share."""
    batch = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
    instance = any(isinstance(module, nn.modules.instancenorm._InstanceNorm) for module in modules)
    return (batch and y.numel() <= 3 * y.shape[1]) or (instance and y[0].numel() <= 3 * y.shape[1])


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. torch's older weight_norm and spectral_norm leave a tensor with a graph on its module, which no copy can take and
    the next forward makes anew."""
    left = []
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                left.append((module, name, module.__dict__.pop(name)))
    try:
        return copy.deepcopy(model)
    finally:
        for module, name, value in left:
            module.__dict__[name] = value


def _plain(module: nn.Module) -> nn.Module:
    module.__class__ = getattr(type(module), "_ganfast_class", type(module))
    return module
