"""`accelerate` and `restore`: a user's model, converted in place and back."""

import torch
from torch import nn

from ganfast import _checks
from ganfast.nn import patterns, tracing
from ganfast.nn.accelerated import Accelerated, SequentialPlan, accelerated_class, chains_of, is_sequential, plain_class
from ganfast.nn.fingerprints import NotStraight
from ganfast.nn.fusion import look_up

_OWN_STATE = ("_ganfast", "_ganfast_overwritten", "_ganfast_recompute", "_ganfast_note")


def check_model(op: str, model: object) -> None:
    """Refuses what can be no model to convert."""
    if not isinstance(model, nn.Module):
        cause = "Pass an instance, not the class" if isinstance(model, type) else ""
        _checks.fail(op, f"model is a {type(model).__name__}, wants a torch.nn.Module", cause, TypeError)
    if isinstance(model, torch.jit.ScriptModule):
        _checks.fail(op, "model is a scripted module, whose forward cannot be changed", f"Call {op} before torch.jit.script", TypeError)
    if isinstance(model, torch._dynamo.OptimizedModule):
        _checks.fail(op, "model is a compiled module", f"Call {op} on the model first, then torch.compile", TypeError)


def accelerate(model: nn.Module, *, recompute: bool = False) -> nn.Module:
    """Makes a model run on ganfast's kernels, in place; gives the model.

    Transposed convolutions, convolutions (after a nearest upsampling too), batch and instance norms and the activations after
    them run together: in ``nn.Sequential``, in blocks, and in forwards written by hand where torch.fx can follow them, one module
    at a time. ``ganfast.explain(model)`` says what each layer became, or why it stayed.

    Outputs and gradients are the same within rounding; parameters and buffers stay the same objects, ``state_dict`` keys, dtypes,
    training mode and hooks stay as they are; children are not replaced, so slices, loops over layers and feature extraction mean
    what they meant. A layer with a hook is called as a layer. ``restore`` gives the original classes back.

    Args:
        model: a ``torch.nn.Module``; with its parameters on any device but meta.
        recompute: where a convolution follows a fused batch norm, its backward normalises again instead of keeping the norm's
            output: about half the activations, for one more pass over them.
    Raises: TypeError for what is no module, and for scripted or compiled ones; ValueError for the meta device. After an exception
        the model is as it was.
    """
    check_model("accelerate", model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            _checks.fail(
                "accelerate", f"{name} is on the meta device, wants real tensors", "Materialise the model first: model.to_empty(...)"
            )
    before = [(module, type(module), {k: module.__dict__[k] for k in _OWN_STATE if k in module.__dict__}) for module in model.modules()]
    try:
        restore(model)
        for module in _found(model):
            try:
                module.__class__ = accelerated_class(type(module))
            except TypeError:  # a class that allows no subclass, or no change of an instance's class
                continue
            if recompute:
                module.__dict__["_ganfast_recompute"] = True
            chains_of(module)  # plans it before the first call: torch.compile cannot follow torch.fx
    except BaseException:
        for module, cls, state in before:
            module.__class__ = cls
            _forget(module)
            module.__dict__.update(state)
        raise
    return model


def restore(model: nn.Module) -> nn.Module:
    """Undoes ``accelerate``, in place: every module has the class it had; gives the model.

    Raises: TypeError for what is no module.
    """
    check_model("restore", model)
    for module in model.modules():
        cls = type(module)
        if not isinstance(module, Accelerated):
            continue
        if "_ganfast_class" in cls.__dict__:
            module.__class__ = cls._ganfast_class
        else:  # a class that torch's parametrizations made of the accelerated one
            bases = tuple(getattr(base, "_ganfast_class", base) for base in cls.__bases__)
            own = {name: value for name, value in cls.__dict__.items() if name not in ("__dict__", "__weakref__")}
            module.__class__ = type(cls.__name__, bases, own)  # a copy of the model may have the same class
        _forget(module)
    return model


def _forget(module: nn.Module) -> None:
    for name in _OWN_STATE:
        module.__dict__.pop(name, None)


def _found(model: nn.Module) -> list[nn.Module]:
    """The modules to change: Sequentials and written forwards with chains in them, then the layers that none of these runs."""
    found, covered, layers = [], set(), []
    for module in model.modules():
        if patterns.kind(module) in patterns.LAYERS:
            layers.append(module)
            continue
        chains = chains_in(module)
        if isinstance(chains, str) or not chains:
            continue
        found.append(module)
        covered |= {id(look_up(module, member.path)) for chain in chains for member in chain.members if member.path is not None}
    alone = [layer for layer in layers if id(layer) not in covered and not patterns.why_not(layer) and not _parametrized(layer)]
    return [*found, *alone]


def _parametrized(module: nn.Module) -> bool:
    """Its class belongs to torch.nn.utils.parametrize, which takes its bases for the original."""
    return torch.nn.utils.parametrize.is_parametrized(module)


def chains_in(module: nn.Module) -> list | str:
    """The chains that the module's own forward has, or why it was not looked at."""
    if is_sequential(module):
        return SequentialPlan(module).chains
    cls = plain_class(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if cls.__module__.split(".")[0] in ("torch", "ganfast") or not module._modules:
        return []
    if torch.nn.utils.parametrize.is_parametrized(module):
        return "it is parametrized"
    try:
        traced = tracing.trace(module, cls.forward, tracing.first_key(cls.forward))
    except NotStraight as why:
        return str(why)
    for path in traced.overwritten:
        layer = look_up(module, path)
        if is_sequential(layer):
            layer.__dict__["_ganfast_overwritten"] = True
    return traced.chains
