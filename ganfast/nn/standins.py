"""A forward run once by torch.fx with stand-ins for its tensors."""

import operator
from collections.abc import Callable

from torch import Tensor, fx, nn

from ganfast.nn.fingerprints import NotStraight
from ganfast.nn.fusion import look_up

_IN_PLACE = ("add", "and", "floordiv", "lshift", "mod", "mul", "matmul", "or", "pow", "rshift", "sub", "truediv", "xor")


def _in_place(name: str) -> Callable:
    """`a += b` as a step of its own: fx would write an addition, and written as a statement it would rename what `a` was."""
    step = getattr(operator, f"i{name}")

    def apply(a, b):
        return step(a, b)

    apply.__name__ = apply.__qualname__ = f"_ganfast_i{name}"
    return apply


_CALLS = (nn.Module.__call__, nn.ParameterList.__call__, nn.ParameterDict.__call__)  # the latter two raise


class _StandIn:
    """What fx's stand-ins lack: statements in place, attributes read when they are read, no text to decide by."""

    def __getattr__(self, name: str):
        if not hasattr(Tensor, name) or callable(getattr(Tensor, name)):
            return _Attribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __repr__(self) -> str:
        raise NotStraight("it makes text of a tensor or of its size")


IN_PLACE = {name: _in_place(name) for name in _IN_PLACE}
for _name, _step in IN_PLACE.items():
    setattr(_StandIn, f"__i{_name}__", lambda self, other, step=_step: self.tracer.create_proxy("call_function", step, (self, other), {}))


class _Proxy(_StandIn, fx.Proxy):
    pass


class _Attribute(_StandIn, fx.proxy.Attribute):
    pass


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def getattr(self, name: str, value: object, cache: dict) -> object:
        return super().getattr(name, value, {})  # a layer may set its buffer anew between two reads


def graph_of(module: nn.Module, forward: Callable, key: tuple) -> fx.Graph:
    """The trace of the module's own forward, every child a leaf; the module itself is not touched, and no class is made of its own."""
    for layer in module.modules():
        if type(layer).__call__ not in _CALLS:
            raise NotStraight(f"a {type(layer).__name__} in it has a __call__ of its own, which torch.fx would look into")
    names = [name for name, look in key if look is None]
    constants = {name: look[0] for name, look in key if look is not None}
    arguments = ", ".join(names)
    try:
        twin = object.__new__(type(module))
        root = nn.Module.__new__(nn.Module)
        for copy in (twin, root):
            copy.__dict__.update(module.__dict__)  # fx leaves constants on what it traces
        space = {"_forward": forward, "_twin": twin, "_constants": constants}
        exec(f"def forward(self, {arguments}):\n return _forward(_twin, {', '.join(f'{n}={n}' for n in names)}, **_constants)", space)
        root.__class__ = type("Root", (nn.Module,), {"forward": space["forward"]})
        graph = _Tracer(param_shapes_constant=False).trace(root)
    except NotStraight:
        raise
    except Exception as error:  # whatever a forward does to a stand-in that it cannot take
        said = " ".join(str(error).split())
        raise NotStraight(f"torch.fx cannot trace it: {type(error).__name__}: {said[:120]}") from None
    for node in graph.nodes:
        if node.op == "get_attr" and not _registered(module, node.target):
            raise NotStraight("it makes a tensor that does not depend on its input")
    return graph


def _registered(module: nn.Module, target: str) -> bool:
    *path, name = target.split(".")
    owner = look_up(module, tuple(path))
    return name in owner._parameters or name in owner._buffers
