"""StyleGAN2's convolution as ports write it: a weight for every image, all images the groups of one picture; and the noise behind it."""

from typing import Any

import torch
from torch import fx

from ganfast.dropin.filters import Filtering, filtering
from ganfast.dropin.nodes import channels, each, is_contiguous, is_dense, is_floating, read, spelt, tensor
from ganfast.dropin.spread import spread
from ganfast.dropin.steps import Step, both_ways, is_constant, only_user, other_operand, single_use


def modulated(node: fx.Node, before: list[Step]) -> Step | None:
    """weight * style; [over its norm]; the batch into the groups; a convolution, or a transposed one with a blur behind it; the batch back.
    node: the first product."""
    found = _product(node)
    if found is None:
        return None
    base, style = found
    value, eps, parts = _demodulated(node)
    shaped = _grouped(value)
    if shaped is None:
        return None
    flat, order, more = shaped
    conv = only_user(flat)
    options = None if conv is None else _convolution(conv, flat, order, tensor(node).shape)
    if options is None:
        return None
    picture, merged = _picture(read(conv).x, tensor(node))
    back = _apart(conv, tensor(node).shape)
    if picture is None or back is None:
        return None
    parts = [node, *parts, *more, *merged, conv, *([back] if back is not conv else [])]
    operands = {"x": picture, "weight": base, "style": style}
    options |= {"op": "modulated_conv", "demodulate": eps is not None, "eps": eps or 0.0}
    if order == "IO":
        blur = _blur(only_user(back))
        if blur is None:
            return None
        parts += blur.nodes
        operands["filter"] = blur.weight
        options |= _upsampling(options, blur, tensor(node).shape[3:])
    if any(user not in parts for part in parts[:-1] for user in part.users) or not _closed(parts, [*operands.values()]):
        return None
    if not is_contiguous(parts[-1]):  # a batch of one in channels_last, which no view has merged
        return None
    return Step("modulated", (*sorted(parts[:-1]), parts[-1]), read(conv).name, operands, options)


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(the weight [1, O, I, h, w] or [O, I, h, w], the style [N, 1, I, 1, 1]) of their product."""
    t, call = tensor(node), read(node)
    if call.name != "mul" or t is None or t.dim() != 5 or not is_floating(t) or set(call.arguments) != {"other"}:
        return None
    for base, style in ((call.x, call.arguments["other"]), (call.arguments["other"], call.x)):
        w, s = tensor(base), tensor(style)
        if w is None or s is None or w.dtype != t.dtype or s.dtype != t.dtype or s.dim() != 5 or not 4 <= w.dim() <= 5:
            continue
        fixed = all(type(size) is int for size in t.shape[1:])
        like_style = spelt(s.shape) == spelt((t.shape[0], 1, t.shape[2], 1, 1))
        if fixed and like_style and spelt(w.shape[-4:]) == spelt(t.shape[1:]) and (w.dim() == 4 or spelt(w.shape[:1]) == ["1"]):
            return base, style
    return None


def _demodulated(weight: fx.Node) -> tuple[fx.Node, float | None, list[fx.Node]]:
    """(the weight over the norms of its images and output channels, eps, the nodes that do it), or as it is."""
    plain = weight, None, []
    square = next((u for u in weight.users if _squares(u, weight)), None)
    total = read(only_user(square))
    over = total.arguments
    if total.name != "sum" or total.x is not square or set(over) - {"dim", "keepdim"} or not isinstance(over.get("dim"), (tuple, list)):
        return plain
    if sorted(d % 5 for d in over["dim"] if type(d) is int) != [2, 3, 4] or len(over["dim"]) != 3:
        return plain
    sums = only_user(square)
    added = both_ways(sums, "add")
    root, divides = _root(added[0]) if added is not None and is_constant(added[1]) and added[1] >= 0 else ([], False)
    if not root:
        return plain
    nodes = [square, sums, added[0], *root]
    if not over.get("keepdim", False):
        wide = only_user(root[-1])
        shape = None if tensor(wide) is None else spelt(tensor(wide).shape)
        if shape != spelt((*tensor(weight).shape[:2], 1, 1, 1)) or not (read_any(wide) in ("view", "reshape") or _only_widens(wide)):
            return plain
        nodes.append(wide)
    product = only_user(nodes[-1])
    if divides:
        over_root = read(product).name == "div" and read(product).x is weight and read(product).arguments == {"other": nodes[-1]}
    else:
        over_root = other_operand(product, "mul", nodes[-1]) is weight
    if not over_root or set(weight.users) != {square, product}:
        return plain
    return product, float(added[1]), [*nodes, product]


def _root(value: fx.Node) -> tuple[list[fx.Node], bool]:
    """(the nodes of the value's square root and of one over it; whether the one over is missing, as the next node divides by the root)"""
    user, call = single_use(value) or (None, read(None))
    exponent = call.arguments.get("exponent") if call.name == "pow" else None
    if call.name == "rsqrt" or exponent == -0.5:
        return [user], False
    if call.name != "sqrt" and exponent != 0.5:
        return [], False
    then = only_user(user)
    inverse = read(then)
    one = inverse.name == "div" and not isinstance(inverse.x, fx.Node) and inverse.x == 1 and inverse.arguments == {"other": user}
    if one or (inverse.name == "reciprocal" and inverse.x is user) or (inverse.name == "pow" and inverse.arguments == {"exponent": -1}):
        return [user, then], False
    return [user], True


def _only_widens(node: fx.Node) -> bool:
    """Whether an index takes everything as it lies, with dimensions of one."""
    index = read(node).arguments.get("index") if read(node).name == "getitem" else None
    return isinstance(index, tuple) and all(part is None or part is ... or part == slice(None) for part in index)


def _squares(node: fx.Node, weight: fx.Node) -> bool:
    name, x, arguments = read(node)
    if x is not weight:
        return False
    return name == "square" or (name == "pow" and arguments.get("exponent") == 2) or (name == "mul" and arguments.get("other") is weight)


def read_any(node: Any) -> str:
    """A call's name, whatever its arguments."""
    return node.target if isinstance(node, fx.Node) and node.op == "call_method" else read(node).name


_SHAPES = ("view", "reshape", "flatten", "transpose", "contiguous")


def _grouped(weight: fx.Node) -> tuple[fx.Node, str, list[fx.Node]] | None:
    """From [N, O, I, h, w] on: (what a convolution takes, [N * O, I, h, w] as "OI" or [N * I, O, h, w] as "IO"; the nodes)."""
    order, nodes, value = "OI", [], weight
    while True:
        user = only_user(value)
        if user is None or read_any(user) not in _SHAPES or user.args[0] is not value:
            break
        old, new = tensor(value), tensor(user)
        if read_any(user) == "transpose":
            if old.dim() != 5 or sorted(user.args[1:]) != [1, 2]:
                return None
            order = order[::-1]
        elif read_any(user) != "contiguous":
            merged = old.dim() == 5 and new.dim() == 4 and spelt(new.shape[1:]) == spelt(old.shape[2:])
            apart = old.dim() == 4 and new.dim() == 5 and spelt(new.shape[2:]) == spelt(old.shape[1:])
            whole = tensor(weight).shape["_OI".index(order[0])]
            if not merged and not (apart and spelt(new.shape[1:2]) == spelt([whole])) and spelt(new.shape) != spelt(old.shape):
                return None
        nodes.append(user)
        value = user
    return (value, order, nodes) if nodes and tensor(value).dim() == 4 else None


def _convolution(conv: fx.Node, weight: fx.Node, order: str, shape) -> dict[str, Any] | None:
    """The options of the op, but for those of a blur; shape: the weight's, [N, O, I, h, w]."""
    call = read(conv)
    if call.name != ("conv2d" if order == "OI" else "conv_transpose2d") or call.arguments["weight"] is not weight:
        return None
    given = call.arguments
    groups = given["groups"].meta.get("example_value") if isinstance(given["groups"], fx.Node) else given["groups"]
    numbers = [each(given[name], 2) for name in ("stride", "padding", "dilation", "output_padding") if name in given]
    if given["bias"] is not None or not all(type(n) is int for pair in numbers for n in pair) or spelt([groups]) != spelt(shape[:1]):
        return None
    stride, padding, dilation, *more = numbers
    if stride[0] != stride[1] or any(d != 1 for d in dilation) or tensor(call.x).dtype != tensor(conv).dtype:
        return None
    if order == "IO":
        return {"up": stride[0], "down": 1, "flip": False} if stride[0] > 1 and not any((*padding, *more[0])) else None
    by = stride[0]  # of the op's own border, that of a filter of one tap
    around = tuple(n for p in padding[::-1] for n in ((p - (2 - by) // 2, p - (1 - by) // 2) if by > 1 else (p, p)))
    return {"up": 1, "down": by, "padding": around, "flip": True}


def _blur(user: fx.Node | None) -> Filtering | None:
    """A filter at the same size, in either spelling."""
    found = None if user is None else filtering(user)
    step = spread(user, []) if user is not None and found is None else None
    if step is not None and step.options["up"] == (1, 1):
        left, right, top, bottom = step.options["padding"]
        weight, stride = step.tensors["filter"], step.options["down"]
        taps = tuple(tensor(weight).shape[2:])
        found = Filtering(step.nodes, step.tensors["x"], weight, False, stride, ((top, bottom), (left, right)), taps, 1.0)
    return found if found is not None and not found.transposed and set(found.stride) == {1} else None


def _upsampling(options: dict[str, Any], blur, kernel) -> dict[str, Any]:
    """The border of the zeros between x's pixels, of which the blur's is what a transposed convolution leaves of it; and the filter's
    factor, as the op multiplies by up in both dimensions."""
    up = options["up"]
    pairs = [(b + k - 1 - (t + up - 1) // 2, a + k - 1 - (up - 1) - (t - up) // 2) for (b, a), k, t in zip(blur.padding, kernel, blur.taps)]
    return {"padding": tuple(n for pair in pairs[::-1] for n in pair), "factor": blur.gain / up**2}


def _picture(merged: Any, weight) -> tuple[fx.Node | None, list[fx.Node]]:
    """(x of what was made [1, N * I, H, W] of it, the node that does it); a batch of one is that already."""
    fits = lambda x: x is not None and x.dim() == 4 and channels(x) == weight.shape[2] and spelt(x.shape[:1]) == spelt(weight.shape[:1])
    usable = lambda x: fits(x) and is_dense(x) and x.dtype == weight.dtype
    new = tensor(merged)
    if read_any(merged) in ("view", "reshape") and usable(x := tensor(merged.args[0])) and spelt(new.shape[:1]) == ["1"]:
        return (merged.args[0], [merged]) if new.dim() == 4 and spelt(new.shape[2:]) == spelt(x.shape[2:]) else (None, [])
    return (merged, []) if usable(new) and spelt(new.shape[:1]) == ["1"] else (None, [])


def _apart(conv: fx.Node, shape) -> fx.Node | None:
    """Where the images are apart again: [N, O, H, W]."""
    back, wanted = only_user(conv), spelt((*shape[:2], *tensor(conv).shape[2:]))
    if read_any(back) in ("view", "reshape") and spelt(tensor(back).shape) == wanted:
        return back
    return conv if spelt(tensor(conv).shape) == wanted else None


def _closed(parts: list[fx.Node], operands: list[fx.Node]) -> bool:
    """Whether all else that they read are sizes, which are those of the operands."""
    others = {n for part in parts for n in part.all_input_nodes} - {*parts, *operands}
    sizes = {str(size) for node in operands for size in tensor(node).shape}
    return all(tensor(n) is None and _letters(n) <= sizes for n in others)


def _letters(node: fx.Node) -> set[str]:
    """The sizes that are not fixed of which a number is made."""
    value = node.meta.get("example_value")
    return {str(s) for s in value.node.expr.free_symbols} if isinstance(value, torch.SymInt) else {"unknown"}


def noise(value: fx.Node, before: list[Step]) -> Step | None:
    """What is added to all channels alike: [N or 1, 1, H or 1, W or 1]. The op keeps it, so nobody may be able to change it."""
    found, t = both_ways(value, "add"), tensor(value)
    added = None if found is None else tensor(found[1])
    if added is None or added.dtype != t.dtype or added.device != t.device or added.dim() != 4 or spelt(added.shape[1:2]) != ["1"]:
        return None
    fits = all(a == "1" or a == n for a, n in zip(spelt(added.shape), spelt((t.shape[0], 1, *t.shape[2:]))))
    return Step("noise", (found[0],), "add", {"noise": found[1]}, {}) if fits else None
