"""What the tuner compares a convolution's candidates with: its formula in float64 by gathers and matrix products, which no convolution of
any library takes part in; at sampled outputs for the passes whose images are independent, for sampled channels in the weight's gradient,
whose sum over the pixels stays whole.

How far a result may be off, u the roundoff of the dtype, U that of its accumulator (float32, or float64), L the terms of a sum, B a
bound of the sum of their absolute values (Cauchy and Schwarz over the image: a fast algorithm's error at one pixel comes from its
neighbours too):

    (32 + 4 sqrt(L)) U B    summation in any order, or by a minimal filtering, whose transforms enlarge an error some ten times
    8 u (|z| + |bias|) + 4 u B / sqrt(L)    16-bit: the result rounded, and before that a library's sums of a tap or an image
    P B    P the roundoff of a factor where the user allows TF32 or bfloat16 for float32
"""

import itertools
from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from ganfast import _tune_check
from ganfast._activations import act_fwd
from ganfast._statistics import partials_of
from ganfast._tune_check import excess, product_roundoff, random_like, roundoff, usable

_WORK = 2**28  # multiply-adds of a reference at sampled outputs, some tenths of a second in float64 on one core
_LEAST, _MOST = 64, 2**14  # outputs sampled: pixels of an image, with all their channels
_CHUNK = 2**23  # values of a weight gradient's operands in float64 at once


def _sample(count: int, wanted: int, device: torch.device) -> Tensor:
    """Of so many outputs in memory order: all, or the first, the last, and others by chance in between. Whole rows at both ends, as faults
    like borders and remainders."""
    if count <= wanted:
        return torch.arange(count, device=device)
    run = wanted // 4
    between = torch.randint(count, (wanted - 2 * run,), generator=torch.Generator().manual_seed(0)).to(device)
    ends = torch.arange(run, device=device)
    return torch.cat([ends, between, count - 1 - ends])


def _taps(weight: Tensor, groups: int, transposed: bool):
    """(tap's index in each dimension, its weights [groups, inputs, outputs] in float64) for every tap."""
    for tap in itertools.product(*map(range, weight.shape[2:])):
        w = weight[(slice(None), slice(None), *tap)].double().unflatten(0, (groups, -1))
        yield tap, (w if transposed else w.transpose(1, 2))


def _outputs(x: Tensor, weight: Tensor, geometry, size, transposed: bool, at: tuple[Tensor, ...]) -> Tensor:
    """[outputs, channels] of the (transposed) convolution in float64, without a bias, at (image, *pixel)."""
    stride, padding, dilation, groups = geometry
    image, *pixel = at
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    z = torch.zeros(len(image), channels, dtype=torch.float64, device=x.device)
    for tap, w in _taps(weight, groups, transposed):
        ok, where = torch.ones_like(image, dtype=torch.bool), []
        for o, k, s, p, d, length in zip(pixel, tap, stride, padding, dilation, x.shape[2:]):
            i = o + p - d * k if transposed else o * s - p + d * k
            if transposed:
                ok &= i % s == 0
                i = i.div(s, rounding_mode="floor")
            ok &= (i >= 0) & (i < length)
            where.append(i)
        rows = ok.nonzero().squeeze(1)
        seen = x[(image[rows], slice(None), *(i[rows] for i in where))].double().unflatten(1, (groups, -1))
        z[rows] += torch.bmm(seen.transpose(0, 1), w).transpose(0, 1).flatten(1)
    return z


def _bound(x: Tensor, weight: Tensor, geometry, transposed: bool) -> tuple[Tensor, float]:
    """(B [n, channels] for every output of an image and channel, L)"""
    stride, _, _, groups = geometry
    taps = prod(-(-k // s) if transposed else k for k, s in zip(weight.shape[2:], stride))
    pixel = torch.linalg.vector_norm(x.unflatten(1, (groups, -1)), dim=2, dtype=torch.promote_types(x.dtype, torch.float32))
    brightest = pixel.flatten(2).amax(2).double()  # [n, groups]
    own = weight.unflatten(0, (groups, -1)).double()  # [groups, inputs or outputs, the others, *k]
    filters = own.square().sum([1 if transposed else 2, *range(3, own.dim())]).sqrt()  # [groups, outputs]
    return ((taps**0.5 * brightest)[:, :, None] * filters).flatten(1), x.shape[1] // groups * taps


def _allowed(z: Tensor, bias: Tensor | float, bound: Tensor, terms: float, x: Tensor) -> Tensor:
    """See the head of this file."""
    dtype, acc = x.dtype, torch.promote_types(x.dtype, torch.float32)
    off = ((32 + 4 * terms**0.5) * roundoff(acc) + product_roundoff(x)) * (bound + abs(bias))
    off = off + 4 * roundoff(acc) * z.abs() + torch.finfo(dtype).smallest_normal
    if dtype.itemsize == 2:
        off += roundoff(dtype) * (8 * (z.abs() + abs(bias)) + 4 * bound / terms**0.5)
    # Near the largest number of the dtype a result may be infinite.
    return torch.where(bound < torch.finfo(dtype).max / 8, off, torch.inf)


class Outputs(_tune_check.Check):
    """Of (y, z, partials), (y, z) or a gradient of x. inputs: [x, weight, bias, alpha], read by the candidates at each call, so that
    `prepare` may put random numbers in place of a tensor that shows nothing: zeros, NaN. size: the output's.
    run(backend): a candidate."""

    fallback = "reference"

    def __init__(self, inputs: list[Tensor | None], size, spec, transposed: bool, run: Callable[[str], object]) -> None:
        self.call_fallback = lambda: run(self.fallback)
        self.inputs, self.size, self.transposed = inputs, tuple(size), transposed
        self.geometry = (spec.stride, spec.padding, spec.dilation, spec.groups)
        self.act, self.alpha_value = spec.act, spec.alpha_value
        self.found: dict[str, str] = {}

    def prepare(self) -> None:
        x, weight, bias, alpha = self.inputs
        for i, fine in enumerate([*usable(x, weight), *usable(bias, alpha, zeros=True)]):
            if not fine:
                self.inputs[i] = random_like(self.inputs[i])
        x, weight, bias, alpha = self.inputs
        work = weight.numel() / (prod(self.geometry[0]) if self.transposed else 1)
        at = _sample(x.shape[0] * prod(self.size), min(_MOST, max(_LEAST, int(_WORK / work))), x.device)
        self.at = torch.unravel_index(at, (x.shape[0], *self.size))
        z = _outputs(x, weight, self.geometry, self.size, self.transposed, self.at)
        bias = torch.zeros(z.shape[1], dtype=torch.float64, device=x.device) if bias is None else bias.double()
        self.z = z + bias
        bound, terms = _bound(x, weight, self.geometry, self.transposed)
        self.z_allowed = _allowed(self.z, bias, bound[self.at[0]], terms, x)
        act = lambda z: act_fwd(z, self.act, None if alpha is None else alpha.double(), self.alpha_value)
        self.y = act(self.z)
        # An activation may be steep: what z may be off by, y may be off by as much as it differs there.
        steps = [(act(self.z + off) - self.y).abs() for off in (self.z_allowed, -self.z_allowed)]
        # GELU's tail is a difference of numbers like z, in the accumulator; snake's sine one of the dtype where torch puts it together.
        inside = roundoff(x.dtype if self.act == "snake" else torch.promote_types(x.dtype, torch.float32))
        rounds = 8 * (roundoff(x.dtype) * self.y.abs() + inside * self.z.abs())
        self.y_allowed = torch.maximum(*steps) + rounds + torch.finfo(x.dtype).smallest_normal

    def see(self, name: str, result) -> None:
        y, z, partials = (*(result if isinstance(result, tuple) else (result,)), None, None)[:3]
        why = self._off("the output", y, self.y, self.y_allowed)
        if why is None and z is not None and z.numel():
            why = self._off("the pre-activation", z, self.z, self.z_allowed)
        if why is None and partials is not None and partials.numel():
            why = _moments_off(partials, y)
        if why is not None:
            self.found[name] = why

    def _off(self, what: str, got: Tensor, want: Tensor, allowed: Tensor) -> str | None:
        shape = (self.inputs[0].shape[0], want.shape[1], *self.size)
        if got.shape != shape:
            return f"{what} has shape {tuple(got.shape)} instead of {shape}"
        return _sentence(what, excess(got[(self.at[0], slice(None), *self.at[1:])], want, allowed))

    def wrong(self) -> dict[str, str]:
        return dict(self.found)


def _moments_off(partials: Tensor, y: Tensor) -> str | None:
    """The epilogue's statistics against those of its own y, in float32 both: 1e-3 of a channel's spread is far beyond their rounding, and
    far below what a lost tile does."""
    count, mean, m2 = (t.double() for t in partials[0])
    its_count, its_mean, its_m2 = (t.double() for t in partials_of(y)[0])
    power = (its_m2 / its_count + its_mean.square()).sqrt()
    for what, got, want, allowed in (
        ("the count of the moments", count, its_count, torch.full_like(count, 0.5)),
        ("the mean of the moments", mean, its_mean, 1e-3 * power + 1e-30),
        ("the squared deviation of the moments", m2, its_m2, 1e-3 * its_m2 + 1e-4 * its_count * its_mean.square() + 1e-30),
    ):
        if off := excess(got, want, allowed):
            return _sentence(what, off)
    return None


def _sentence(what: str, off: tuple[float, float, float] | None) -> str | None:
    return off and f"{what} is off by {off[0]:.3g} where it is {off[2]:.3g}, allowed {off[1]:.3g}"


class WeightGradient(_tune_check.Check):
    """Of a weight's gradient. inputs: [gz, x], as in `Outputs`."""

    fallback = "reference"

    def __init__(self, inputs: list[Tensor], weight: Tensor, spec, run: Callable[[str], object]) -> None:
        self.call_fallback = lambda: run(self.fallback)
        self.inputs, self.shape, self.spec = inputs, weight.shape, spec
        self.found: dict[str, str] = {}

    def prepare(self) -> None:
        for i, fine in enumerate(usable(*self.inputs)):
            if not fine:
                self.inputs[i] = random_like(self.inputs[i])
        gz, x = self.inputs
        groups, kernel = self.spec.groups, self.shape[2:]
        sizes = [groups, self.shape[0] // groups, self.shape[1]]
        kept, work = list(sizes), x.numel() // x.shape[1] * prod(kernel)
        while prod(kept) * work > _WORK and max(kept) > 1:
            most = kept.index(max(kept))
            kept[most] = (kept[most] + 1) // 2
        self.at = [_sample(size, count, x.device) for size, count in zip(sizes, kept)]
        gz, x = (self._channels(t, at) for t, at in ((gz, self.at[2]), (x, self.at[1])))
        kept = [len(at) for at in self.at]
        self.want = _weight_gradient(gz, x, (kept[0] * kept[1], kept[2], *kernel), self.spec._replace(groups=kept[0]))
        acc = torch.promote_types(x.dtype, torch.float32)
        norms = [torch.linalg.vector_norm(t, dim=[0, *range(2, t.dim())], dtype=acc).double() for t in (x, gz)]
        norms = [t.unflatten(0, (kept[0], -1)) for t in norms]
        bound = (norms[0][:, :, None] * norms[1][:, None]).flatten(0, 1).view(*self.want.shape[:2], *[1] * (x.dim() - 2))
        self.allowed = _allowed(self.want, 0.0, bound, x.numel() / x.shape[1], x)

    def _channels(self, t: Tensor, at: Tensor) -> Tensor:
        """Those of t [N, C, ...] that are looked at: the same ones of each group."""
        if len(self.at[0]) * len(at) == t.shape[1]:
            return t
        return t.unflatten(1, (self.spec.groups, -1))[:, self.at[0][:, None], at].flatten(1, 2)

    def see(self, name: str, result: Tensor) -> None:
        if result.shape != self.shape:
            self.found[name] = f"the weight's gradient has shape {tuple(result.shape)} instead of {tuple(self.shape)}"
            return
        groups, inputs, outputs = self.at
        seen = result.unflatten(0, (self.spec.groups, -1))[groups[:, None, None], inputs[:, None], outputs].flatten(0, 1)
        if why := _sentence("the weight's gradient", excess(seen, self.want, self.allowed)):
            self.found[name] = why

    def wrong(self) -> dict[str, str]:
        return dict(self.found)


def _weight_gradient(gz: Tensor, x: Tensor, shape, spec) -> Tensor:
    """[Cin, Cout/groups, *k] in float64, some images at a time."""
    total = torch.zeros(spec.groups, shape[0] // spec.groups, *shape[1:], dtype=torch.float64, device=x.device)
    images = max(1, _CHUNK // (gz[0].numel() + x[0].numel()))
    for first in range(0, x.shape[0], images):
        xs, gzs = x[first : first + images].double(), gz[first : first + images].double()
        for tap in itertools.product(*map(range, shape[2:])):
            inputs, outputs = [], []
            for k, s, p, d, length, out in zip(tap, spec.stride, spec.padding, spec.dilation, x.shape[2:], gz.shape[2:]):
                low = max(0, -(-(p - d * k) // s))  # the first and the last input pixel whose output lies in gz
                high = min(length - 1, (out - 1 + p - d * k) // s)
                inputs.append(slice(low, high + 1))
                outputs.append(slice(s * low - p + d * k, s * high - p + d * k + 1, s) if high >= low else slice(0, 0))
            if any(piece.stop <= piece.start for piece in inputs):
                continue
            rows = [
                t[(slice(None), slice(None), *piece)].transpose(0, 1).flatten(1).unflatten(0, (spec.groups, -1))
                for t, piece in ((xs, inputs), (gzs, outputs))
            ]
            total[(..., *tap)] += torch.bmm(rows[0], rows[1].transpose(1, 2))
    return total.flatten(0, 1)
