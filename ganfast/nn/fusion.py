"""A chain at work: it looks its modules up by path, and runs together those that nothing watches."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ganfast import _backends, _native
from ganfast._autograd import autocasts
from ganfast._memo import Memo
from ganfast.nn import patterns
from ganfast.nn.chains import conv_norm_act, convolve, normalise
from ganfast.nn.patterns import Member
from ganfast.nn.pays import fused_pays


def _widens(act: str, alpha: float | Tensor | None, x: Tensor) -> bool:
    """Whether torch's activation gives a wider dtype than the convolution's, which the fused pass gives: autocast on a GPU runs
    softplus in float32, and snake, a user's own formula, follows the dtype of its alpha."""
    if act == "softplus":
        return x.is_cuda and autocasts(x)
    return act == "snake" and isinstance(alpha, Tensor) and (autocasts(x) or alpha.dtype != x.dtype)


def look_up(root: nn.Module, path: tuple[str, ...]) -> nn.Module:
    for name in path:
        root = root._modules[name]
    return root


def ordinary(x: object) -> bool:
    """A tensor that ganfast's ops take, outside of what they do not support: vmap, forward-mode AD, tracers, dispatch modes.
    There the modules are called one by one, as torch would."""
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting() and isinstance(x, Tensor)
    return isinstance(x, Tensor) and _native.is_plain(x) and torch.autograd.forward_ad._current_level < 0 and not _has_any_global_hook()


class Chain:
    """Members in order, out of: upsample, conv, norm, act; each but conv or norm may be missing. It holds no module, so that
    copies, replicas and replaced children find their own."""

    def __init__(self, members: list[Member], recompute: bool = False) -> None:
        self.members = members
        self.recompute = recompute
        self.at = {member.role: i for i, member in enumerate(members)}
        first = members[self.at["conv" if "conv" in self.at else "norm"]]
        self.dims = patterns.dims(first)
        self.bases = [member.base for member in members]
        self._kin = [{base} for base in self.bases]  # classes found to have the base's arithmetic
        self.extras = sum(member.extra for member in members)
        self.ops = self._ops()
        self._kernels = ["batch_norm_act" if op == "instance_norm_act" else op for op in self.ops]  # whose backends are noted
        self.ran: tuple[str, ...] = ()  # backends, of the last call
        self.settled = Memo()  # looks of x -> whether running it as one pays
        self._parts: dict[tuple[int, int], Chain] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(member.label for member in self.members)

    def __call__(self, root: nn.Module, x: Tensor, *extra) -> Tensor:
        modules = [None if member.path is None else look_up(root, member.path) for member in self.members]
        if not ordinary(x) or not self._takes(x):
            return self.one_by_one(0, modules, x, extra)
        together = [module is None or self.is_free(i, module) for i, module in enumerate(modules)]
        if all(together):
            return self._best(modules, x, extra)
        return self._in_parts(together, modules, x, extra)

    def alone(self, module: nn.Module, x: Tensor, *extra) -> Tensor | None:
        """The chain of one module, called from within the module's own forward; None where torch has to do it."""
        runs = ordinary(x) and self._takes(x) and fused_pays(self, [module], x, extra if extra and extra[0] is not None else ())
        return self.run([module], x, extra, called=True) if runs else None

    def _takes(self, x: Tensor) -> bool:
        if "conv" not in self.at and self.bases[0] is nn.BatchNorm1d:
            return x.is_floating_point() and x.dim() in (2, 3)
        return x.is_floating_point() and x.dim() == self.dims + 2

    def is_free(self, i: int, module: nn.Module) -> bool:
        """Nothing watches the module, and it is still of the kind it was."""
        base, kin = self.bases[i], self._kin[i]
        if base is not None and type(module) not in kin:
            if patterns.kind(module) is not base:
                return False
            kin.add(type(module))
        if "forward" in module.__dict__:
            return False
        return not patterns.hooked(module) or (self.members[i].role == "conv" and patterns.makes_weight(module))

    def one_by_one(self, first: int, modules: list, x: Tensor, extra: tuple) -> Tensor:
        for i, module in enumerate(modules, first):
            member = self.members[i]
            own, extra = extra[: member.extra], extra[member.extra :]
            x = member.call(x, *own) if module is None else module(x, *own)
        return x

    def _in_parts(self, together: list[bool], modules: list, x: Tensor, extra: tuple) -> Tensor:
        """Around a watched module the rest is still fused where it can be."""
        i, count = 0, len(modules)
        while i < count:
            end = i + 1
            while together[i] and end < count and together[end]:
                end += 1
            taken = sum(member.extra for member in self.members[i:end])
            own, extra = extra[:taken], extra[taken:]
            part = self._part(i, end) if together[i] else None
            x = self.one_by_one(i, modules[i:end], x, own) if part is None else part._best(modules[i:end], x, own)
            i = end
        return x

    def _part(self, first: int, end: int) -> "Chain | None":
        roles = {member.role for member in self.members[first:end]}
        if not roles & {"conv", "norm"}:
            return None
        if (first, end) not in self._parts:
            self._parts[first, end] = Chain(self.members[first:end], self.recompute)
        return self._parts[first, end]

    def _activation(self, modules: list, extra: tuple) -> patterns.Reading:
        if "act" not in self.at:
            return "linear", None
        member = self.members[self.at["act"]]
        if member.path is not None:
            return member.read(modules[self.at["act"]])
        name, alpha = member.read
        return name, extra[-1] if member.extra else alpha

    def _best(self, modules: list, x: Tensor, extra: tuple) -> Tensor:
        if fused_pays(self, modules, x, extra):
            return self.run(modules, x, extra)
        self.ran = ("torch's layers",)
        return self.one_by_one(0, modules, x, extra)

    def run(self, modules: list, x: Tensor, extra: tuple, called: bool = False) -> Tensor:
        """`called`: the module's own call has run its hooks."""
        at = self.at
        reading = self._activation(modules, extra)
        if reading is None or _widens(*reading, x):
            return self._in_parts([member.role != "act" for member in self.members], modules, x, extra)
        act, alpha = reading
        norm = modules[at["norm"]] if "norm" in at else None
        if norm is not None and self.bases[at["norm"]] in patterns.INSTANCE_NORMS and norm.running_mean is not None:
            return self.one_by_one(0, modules, x, extra)
        if "conv" not in at:
            return self._noted(normalise(norm, x, act, alpha))
        conv, scale = modules[at["conv"]], None
        if "upsample" in at:
            member, up = self.members[at["upsample"]], modules[at["upsample"]]
            scale = member.read(self.dims) if up is None else member.read(up, self.dims)
            if scale is None or not patterns.upsamples_into(scale, conv):
                return self.one_by_one(0, modules, x, extra)
        if not called:
            for hook in conv._forward_pre_hooks.values():  # those that make the weight anew
                hook(conv, (x,))
        options = {"scale": scale, "output_size": extra[0] if self.members[at["conv"]].extra else None, "recompute": self.recompute}
        if norm is not None:
            return self._noted(conv_norm_act(conv, norm, x, act, alpha, **options))
        return self._noted(convolve(conv, x, conv.weight, conv.bias, act, alpha, **options))

    def _noted(self, y: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.ran = tuple(_backends.ran.get(name, "") for name in self._kernels)
        return y

    def _ops(self) -> tuple[str, ...]:
        """ganfast's ops that it runs on."""
        ops = []
        if "conv" in self.at:
            plain = self.members[self.at["conv"]].base in patterns.CONVS and "upsample" not in self.at
            ops.append("conv_act" if plain else "conv_transpose_act")
        if "norm" in self.at:
            ops.append("batch_norm_act" if self.bases[self.at["norm"]] in patterns.BATCH_NORMS else "instance_norm_act")
        return tuple(ops)
