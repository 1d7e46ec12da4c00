"""ganfast's layers are instances of torch's classes, so torch's tools that replace by class take them for plain ones and would leave
their activation out. Such a tool is refused when it reads what it builds its module of; everybody else reads the same attribute."""

import sys

import torch

from ganfast import _checks

_LEAVE = "Convert before ganfast's layers are put in, or give the layer act='linear' and the activation a module of its own"
# (module, function) that reads -> (its name, what to do)
_TOOLS = {
    ("torch.nn.modules.batchnorm", "convert_sync_batchnorm"): (
        "SyncBatchNorm.convert_sync_batchnorm",
        "ganfast.train.distributed.sync_batch_norm.synchronise(module), TrainConfig's sync_batch_norm: converts and keeps the activation",
    ),
    ("torch.nn.utils.fusion", "fuse_conv_bn_eval"): ("fuse_conv_bn_eval", "ganfast.accelerate folds a norm into its convolution by itself"),
    ("torch.nn.utils.fusion", "fuse_linear_bn_eval"): ("fuse_linear_bn_eval", _LEAVE),
    ("torch.utils.mkldnn", "__init__"): ("to_mkldnn", _LEAVE),
}


def refuse_tools(module: torch.nn.Module, lost: str, depth: int) -> None:
    """Raises RuntimeError where the caller `depth` frames up is a tool; `lost`: what it would leave out, "" for nothing."""
    if not lost or torch.compiler.is_compiling():
        return
    reader = sys._getframe()
    for _ in range(depth + 1):
        reader = reader and reader.f_back  # pickle's C code has no frame: a script's top level, or a thread, may lie less deep
    tool = reader and _TOOLS.get((reader.f_globals.get("__name__"), reader.f_code.co_name))
    if tool is not None:
        name = type(module).__name__
        _checks.fail(tool[0], f"got a {name} with {lost}, which it would leave out; wants torch's plain class", tool[1], RuntimeError)


def _activation(module: torch.nn.Module) -> str:
    act = vars(module).get("act", "linear")
    return "" if act == "linear" else f"act={act!r}"


class Guarded:
    """An attribute of a layer's class that torch's tools read: a descriptor that keeps it where nn.Module would, in __dict__, from where
    the layer's own forward takes it at no cost."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, module, owner=None):
        if module is None:
            return self
        scale = vars(module).get("scale_factor")
        refuse_tools(module, _activation(module) if scale is None else f"scale_factor={scale}", 1)
        try:
            return vars(module)[self.name]
        except KeyError:
            raise AttributeError(f"{type(module).__name__!r} object has no attribute {self.name!r}") from None

    def __set__(self, module, value) -> None:
        vars(module)[self.name] = value


class GuardedCopy:
    """A layer that refuses to be copied by a tool that then gives the copy a norm's weights: its activation comes before that norm."""

    def __reduce_ex__(self, protocol):
        refuse_tools(self, _activation(self), 2)  # copy.deepcopy, and who called it
        return super().__reduce_ex__(protocol)
