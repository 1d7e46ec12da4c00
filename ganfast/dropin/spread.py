"""Resampling by a filter as ports spell it without a kernel of their own: planes one by one, zeros put behind each value by a pad of a
dimension of one, a border, a convolution of one channel, every so many-th result."""

from typing import Any

from torch import fx

from ganfast.dropin.nodes import each, is_contiguous, is_floating, name_of, read, spelt, tensor
from ganfast.dropin.steps import Step, joined, only_user

_SHAPES = ("view", "reshape")


class _Axis:
    """What has been done along a dimension. zeros: how many follow each value in a dimension of their own, not joined yet."""

    def __init__(self) -> None:
        self.up, self.zeros, self.before, self.after, self.down = 1, 0, 0, 0, 1

    def padded(self, before: int, after: int) -> bool:
        border = joined((self.before, self.after), (before, after))
        if border is None or self.zeros:
            return False
        self.before, self.after = border
        return True


class _Walk:
    """The chain's state: what each dimension of its value is, "p" the planes, "h", "w", "0h", "0w" the zeros behind them, "1" of one."""

    def __init__(self) -> None:
        self.dims = ["p", "h", "w", "1"]
        self.h, self.w, self.filter = _Axis(), _Axis(), None

    def axis(self, label: str) -> _Axis:
        return self.h if label == "h" else self.w

    def takes(self, old: fx.Node, node: fx.Node) -> bool:
        """Whether the next call is understood."""
        name = name_of(node)
        step = {"pad": self._pad, "getitem": self._slice, "permute": self._permute, "conv2d": self._convolve}.get(name)
        return self._reshape(old, node) if name in _SHAPES else step is not None and step(old, node)

    def _reshape(self, old: fx.Node, node: fx.Node) -> bool:
        sizes, labels = spelt(tensor(old).shape), self.dims
        given = [(label, size) for label, size in zip(labels, sizes) if label != "1"]
        dims = []
        for size in spelt(tensor(node).shape):
            if size == "1":
                dims.append("1")
                continue
            label, own = given.pop(0) if given else ("", "")
            if size != own:
                if (
                    label not in ("h", "w")
                    or not given
                    or given[0][0] != f"0{label}"
                    or given[0][1] != str(self.axis(label).zeros + 1)
                    or not own.isdigit()
                    or size != str(int(own) * int(given[0][1]))
                ):
                    return False
                given.pop(0)
                self.axis(label).up, self.axis(label).zeros = self.axis(label).zeros + 1, 0
            dims.append(label)
        self.dims = dims
        return not given

    def _pad(self, old: fx.Node, node: fx.Node) -> bool:
        call = read(node)
        pads, given = call.arguments.get("pad"), call.arguments
        if self.filter is not None or given.get("mode", "constant") != "constant" or given.get("value"):
            return False
        if not isinstance(pads, (tuple, list)) or not all(type(p) is int for p in pads):
            return False
        for i, (before, after) in enumerate(zip(pads[::2], pads[1::2])):
            at = len(self.dims) - 1 - i
            label = self.dims[at]
            if label in ("h", "w"):
                if (before or after) and not self.axis(label).padded(before, after):
                    return False
            elif before or after:
                behind = self.dims[at - 1]  # whose values they follow
                axis = self.axis(behind)
                if label != "1" or behind not in ("h", "w") or before or after < 0 or (axis.up, axis.before, axis.after) != (1, 0, 0):
                    return False
                self.dims[at], axis.zeros = f"0{behind}", after
        return True

    def _slice(self, old: fx.Node, node: fx.Node) -> bool:
        index, sizes = read(node).arguments.get("index"), tensor(old).shape
        if not isinstance(index, tuple) or len(index) != len(self.dims) or not all(isinstance(part, slice) for part in index):
            return False
        for part, label, size in zip(index, self.dims, sizes):
            start, step, stop = part.start or 0, part.step or 1, part.stop
            if label not in ("h", "w") or type(size) is not int:
                if part != slice(None):
                    return False
                continue
            stop = size if stop is None else stop
            if not all(type(n) is int and n >= 0 for n in (start, step, stop)) or stop > size:
                return False
            axis = self.axis(label)
            if self.filter is not None:
                if start or stop != size:
                    return False
                axis.down *= step
            elif step != 1 or ((start or stop != size) and not axis.padded(-start, stop - size)):
                return False
        return True

    def _permute(self, old: fx.Node, node: fx.Node) -> bool:
        order = node.args[1] if isinstance(node.args[1], (tuple, list)) else node.args[1:]
        if sorted(order) != list(range(len(self.dims))):
            return False
        self.dims = [self.dims[i] for i in order]
        return True

    def _convolve(self, old: fx.Node, node: fx.Node) -> bool:
        given, weight = read(node).arguments, tensor(read(node).arguments["weight"])
        numbers = [each(given[name], 2) for name in ("stride", "padding", "dilation")]
        if self.filter is not None or self.dims != ["p", "1", "h", "w"] or tuple(weight.shape[:2]) != (1, 1) or weight.requires_grad:
            return False
        if given["bias"] is not None or not all(type(n) is int for pair in numbers for n in pair) or numbers[2] != (1, 1):
            return False
        for axis, by, around in zip((self.h, self.w), *numbers[:2]):
            axis.down = by
            if around and not axis.padded(around, around):
                return False
        self.filter = given["weight"]
        return weight.dtype == tensor(node).dtype == tensor(old).dtype


def spread(node: fx.Node, before: list[Step]) -> Step | None:
    """node: where x [N, C, H, W] becomes planes [N * C, H, W, 1]."""
    x = tensor(node.args[0]) if name_of(node) in _SHAPES and isinstance(node.args[0], fx.Node) else None
    if not is_floating(x) or x.dim() != 4 or not is_contiguous(node.args[0]) or tensor(node).dim() != 4:
        return None  # of channels_last images planes are copies, and what is made of them stays contiguous
    size = spelt(x.shape[2:])
    if "1" in (*size, *spelt(tensor(node).shape[:1])) or spelt(tensor(node).shape[1:]) != [*size, "1"]:
        return None
    walk, nodes, value = _Walk(), [node], node
    while True:
        user = only_user(value)
        if user is None or not user.args or user.args[0] is not value:
            return None
        nodes.append(user)
        if walk.filter is not None and _ends(walk.dims, value, user, x):
            break
        if not walk.takes(value, user):
            return None
        value = user
    return None if walk.h.zeros or walk.w.zeros else _step(nodes, walk)


def _ends(dims: list[str], value: Any, user: fx.Node, x) -> bool:
    """Whether the call makes images of the planes again."""
    planes = [s for label, s in zip(dims, spelt(tensor(value).shape)) if label != "1"][1:]
    whole = [label for label in dims if label != "1"] == ["p", "h", "w"]
    return whole and name_of(user) in _SHAPES and spelt(tensor(user).shape) == [*spelt(x.shape[:2]), *planes]


def _step(nodes: list[fx.Node], walk: _Walk) -> Step:
    axes = (walk.w, walk.h)  # the op's pairs are [x, y]
    options = {
        "op": "upfirdn", "up": tuple(a.up for a in axes), "down": tuple(a.down for a in axes), "flip": True, "gain": 1.0,
        "padding": tuple(n for a in axes for n in (a.before, a.after)),
    }  # fmt: skip
    return Step("resample", tuple(nodes), "conv2d", {"x": nodes[0].args[0], "filter": walk.filter}, options)
