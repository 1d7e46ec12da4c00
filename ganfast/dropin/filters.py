"""Filters that do not learn, the same for every channel, as people write them: as grouped convolutions; and activations between two."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import fx

from ganfast.dropin.nodes import channels, each, is_contiguous, is_dense, is_floating, is_written, name_of, read, tensor
from ganfast.dropin.steps import Step, both_ways, is_constant, joined, single_use
from ganfast.dropin.written import written_periodic


class Filtering(NamedTuple):
    """A convolution of every channel by one filter. padding: (before, after) along each dimension, in memory order."""

    nodes: tuple[fx.Node, ...]
    x: fx.Node
    weight: fx.Node
    transposed: bool
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    taps: tuple[int, ...]
    gain: float


def one_filter(node: Any) -> bool:
    """Whether a tensor is one thing again and again along its first dimension, and nobody writes into a copy of it."""
    t = tensor(node)
    if t is None or type(t.shape[0]) is not int:
        return False
    if t.shape[0] == 1 or t.stride(0) == 0:
        return True
    name, args = name_of(node), node.args
    if not args or is_written(node):
        return False
    if name == "repeat" and len(args) > 1:
        given, source = args[1] if isinstance(args[1], (tuple, list)) else args[1:], tensor(args[0])
        return len(given) > source.dim() or source.shape[0] == 1
    if name == "repeat_interleave":
        return tensor(args[0]).shape[0] == 1
    if name in ("stack", "cat", "concat"):
        along = args[1] if len(args) > 1 else node.kwargs.get("dim", 0)
        return along == 0 and len({id(part) for part in args[0]}) == 1 and (name == "stack" or one_filter(args[0][0]))
    return name in _ELEMENTWISE and one_filter(args[0])


_ELEMENTWISE = ("contiguous", "clone", "detach", "to", "float", "type_as")  # each value by itself, in its place


def _convolution(node: fx.Node) -> Filtering | None:
    """As it stands, without what is around it."""
    call = read(node)
    x, out = tensor(call.x), tensor(node)
    if call.name not in _CONVOLUTIONS or not is_floating(x) or x.dim() != int(call.name[-2]) + 2 or x.dtype != out.dtype:
        return None
    given, count, dims = call.arguments, channels(x), x.dim() - 2
    weight = tensor(given["weight"])
    named = given["padding"] if isinstance(given["padding"], str) else ""
    given = given | {"padding": 0} if named else given
    numbers = [given[name] for name in ("stride", "padding", "dilation", "output_padding") if name in given]
    flat = [n for option in numbers for n in (option if isinstance(option, (tuple, list)) else (option,))]
    if count is None or given["groups"] != count or given["bias"] is not None or not all(type(n) is int for n in flat):
        return None
    if tuple(weight.shape[:2]) != (count, 1) or weight.requires_grad or weight.dtype != x.dtype or not one_filter(given["weight"]):
        return None
    taps = tuple(weight.shape[2:])
    if not all(type(k) is int for k in taps) or any(d != 1 for d in each(given["dilation"], dims)):
        return None
    stride, padding = (tuple(each(given[name], dims)) for name in ("stride", "padding"))
    transposed = call.name.startswith("conv_transpose")
    around = tuple(((k - 1) // 2, k // 2) for k in taps) if named == "same" else tuple((p, p) for p in padding)
    if transposed:
        more = each(given["output_padding"], dims)
        around = tuple((k - 1 - p, k - s - p + o) for k, s, p, o in zip(taps, stride, padding, more))
    return Filtering((node,), call.x, given["weight"], transposed, stride, around, taps, 1.0)


_CONVOLUTIONS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")


def _padded(node: Any, mode: str) -> tuple[fx.Node, tuple[tuple[int, int], ...]] | None:
    """(x, what is put before and after it along its spatial dimensions): zeros, or its last values."""
    call = read(node)
    x, pads = tensor(call.x), call.arguments.get("pad")
    if call.name != "pad" or not is_floating(x) or call.arguments.get("mode", "constant") != mode or call.arguments.get("value"):
        return None
    if not isinstance(pads, (tuple, list)) or not all(type(p) is int for p in pads) or not 2 <= len(pads) <= 2 * (x.dim() - 2):
        return None
    pads = [*pads, *[0] * (2 * (x.dim() - 2) - len(pads))]
    return call.x, tuple(zip(pads[::2], pads[1::2]))[::-1]


def filtering(node: fx.Node, mode: str = "constant") -> Filtering | None:
    """[something around x] + convolution + [times a constant]."""
    around = _padded(node, mode)
    user = (single_use(node) or (None,))[0] if around is not None else node
    found = None if user is None else _convolution(user)
    if found is None or (around is not None and found.transposed and mode == "constant"):
        return None
    if around is not None:
        edges = around[1] if found.transposed else tuple(map(joined, around[1], found.padding))
        if None in edges:
            return None
        found = found._replace(nodes=(node, user), x=around[0], padding=edges)
    product = both_ways(found.nodes[-1], "mul")
    if product is not None and is_constant(product[1]):
        found = found._replace(nodes=(*found.nodes, product[0]), gain=float(product[1]))
    return found


def resampled(node: fx.Node, before: list[Step]) -> Step | None:
    """Up, filtered, down: zeros around x or none."""
    f = filtering(node)
    if f is None or not is_dense(tensor(f.x)):
        return None
    if f.taps[1:] and channels(tensor(f.x)) == 1 and not is_contiguous(f.nodes[-1]):
        return None  # one channel, which the op takes as contiguous and torch as channels_last
    ones, back = (1,) * len(f.stride), f.stride[::-1]  # the op's pairs are [x, y]
    options = {
        "op": "upfirdn", "up": back if f.transposed else ones, "down": ones if f.transposed else back, "flip": not f.transposed,
        "padding": tuple(n for pair in f.padding[::-1] for n in pair), "gain": f.gain,
    }  # fmt: skip
    return Step("resample", f.nodes, read(f.nodes[-1]).name, {"x": f.x, "filter": f.weight}, options)


def filtered(activation: Callable, node: fx.Node, before: list[Step]) -> Step | None:
    """x, going on with its last values, up by a filter and cropped to a whole multiple of its size; an activation; the same, going on with
    its last values, down by a filter: BigVGAN's Activation1d. The op's edges are those that keep the values in their places."""
    up = filtering(node, "replicate")
    crop = single_use(up.nodes[-1]) if up is not None else None
    if crop is None or not up.transposed or len(up.taps) != 1 or not is_dense(tensor(up.x)):
        return None
    cut = _cut(crop[1], tensor(crop[0]))
    if cut is None or not _keeps_its_place(up, cut):
        return None
    act = activation(crop[0], []) or written_periodic(crop[0])
    pad = single_use(act.value) if act is not None and not act.options["in_place"] else None
    down = filtering(pad[0], "replicate") if pad is not None else None
    if down is None or down.transposed or down.nodes[0] is not pad[0] or down.gain != 1 or not _ends_in_place(up, down):
        return None
    options = {
        "op": "filtered_act", "up": up.stride[0], "down": down.stride[0], "act": act.options["act"], "alpha": act.options["alpha"],
        "eager_keeps": tensor(up.x).requires_grad,
    }  # fmt: skip
    operands = {"x": up.x, "filter": up.weight, "down_filter": down.weight} | act.tensors
    return Step("filtered", (*up.nodes, crop[0], *act.nodes, *down.nodes), act.label, operands, options)


def _cut(call, t) -> tuple[int, int] | None:
    """What x[..., a:-b] takes off at both ends."""
    index = call.arguments.get("index") if call.name == "getitem" else None
    if not isinstance(index, tuple) or not (index[0] is ... or len(index) == t.dim()):
        return None
    *others, last = index
    if any(i is not ... and i != slice(None) for i in others) or not isinstance(last, slice) or last.step not in (None, 1):
        return None
    start, stop = last.start or 0, last.stop or 0
    known = type(start) is int and type(stop) is int and start >= 0 and (last.stop is None or stop < 0)
    return (start, -stop) if known else None


def _keeps_its_place(up: Filtering, cut: tuple[int, int]) -> bool:
    """A transposed convolution without a padding of its own, of x with `each` more values at both ends."""
    (each_end, other), taps, by = up.padding[0], up.taps[0], up.stride[0]
    convolution = read(up.nodes[1]) if len(up.nodes) == 3 else None  # the pad, the convolution, the product
    if convolution is None or each_end != other or up.gain != by:
        return False
    if any(each(convolution.arguments[name], 1)[0] for name in ("padding", "output_padding")):
        return False
    before, after = taps - 1 - cut[0] + by * each_end, (taps - by) // 2
    enough = each_end >= max(before // by, -(-after // by), 0)
    return before == (taps + by - 1) // 2 and by * (2 * each_end - 1) + taps == sum(cut) and enough


def _ends_in_place(up: Filtering, down: Filtering) -> bool:
    (left, right), taps, by = down.padding[0], down.taps[0], down.stride[0]
    own = each(read(down.nodes[1]).arguments["padding"], 1)[0]
    return not own and up.stride[0] % by == 0 and left == (taps - by + 1) // 2 and taps - by <= left + right < taps
