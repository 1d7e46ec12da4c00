"""Convolutions as cases for `prove_heap.py`: one call made of a seed and an index, run to the second order against float64.

    python -m benchmarks.heap_cases [--repeat 1] < cases.json

Runs the cases given as a JSON list. Prints a line before each, a line where one of its results is wrong, and at the end "sound".
"""

import argparse
import contextlib
import dataclasses
import json
import math
import random
import sys
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import ganfast.functional as GF
from ganfast import _memo
from ganfast._activations import act_fwd
from ganfast.ops.conv_transpose_act import choice, reference, torch_backend
from ganfast.ops.conv_transpose_act.kernels import conv_output_size, output_size
from ganfast.ops.upsample_conv_act import op as upsample

OPS = ("conv_act", "conv_transpose_act", "upsample_conv_act")
# What runs the passes; "auto" asks the tuner, each of whose candidates then runs too.
PATHS = ("reference", "torch", "torch/nchw", "torch/nhwc", "torch/shuffle", "torch/wide8", "cpu", "auto")
DTYPES = ("float32", "bfloat16", "float16")
# Largest error over the largest value, of results that go through up to four 16-bit roundings (second order): a wrong number, not an
# inexact one. Sums are float32, in other orders than float64's.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.03}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class Case:
    """weight as the op's: [Cout, Cin/groups, *k], or [Cin, Cout/groups, *k] of conv_transpose_act. `stride`: the scale factor of
    upsample_conv_act, which has neither dilation nor output padding."""

    op: str
    path: str
    x: list[int]
    weight: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    output_padding: list[int]
    groups: int = 1
    dtype: str = "float32"
    x_last: bool = False  # channels_last
    weight_last: bool = False
    threads: int = 1
    act: str = "tanh"
    seed: int = 0


def made(seed: int, index: int) -> Case:
    """The case of that index: small sizes, where every edge of a kernel shows."""
    rng = random.Random(f"{seed}/{index}")
    while (case := _drawn(rng, seed * 1_000_003 + index)) is None:
        pass
    return case


def _drawn(rng: random.Random, seed: int) -> Case | None:
    """None where the output would have no pixels, or that path has no such call."""
    op, dims, shuffle = rng.choice(OPS), rng.choice([1, 2, 2, 3]), rng.random() < 0.1
    if shuffle:  # a shape that pixels can be shuffled for is not met by chance
        op, dims = rng.choice(OPS[1:]), 2
    draw = lambda low, high: [rng.randint(low, high) for _ in range(dims)]
    alike = lambda values: values[:1] * dims if rng.random() < 0.5 else values
    groups = 1 if shuffle else rng.choice([1, 1, 1, 2, 3])
    c_in, c_out = (groups * rng.choice([1, 2, 3, 4, 5, 8, 11, 16, 17, 33][: 10 if groups == 1 else 6]) for _ in range(2))
    kernel = [1] * dims if rng.random() < 0.2 else alike(draw(1, (5, 5, 4)[dims - 1]))
    stride = [1] * dims if rng.random() < 0.2 else alike(draw(1, 4))
    dilation = alike([rng.choice([1, 1, 1, 2, 3]) for _ in range(dims)])
    if shuffle:
        stride, dilation = [rng.randint(2, 4)] * 2, [1, 1]
    size = alike(draw(1, (40, 15, 7)[dims - 1]))
    reach = [d * (k - 1) for k, d in zip(kernel, dilation)]
    padding, output_padding = [rng.randint(0, r) for r in reach], [0] * dims
    if op == "conv_act":
        padding = [p + rng.choice([0] * 9 + [r + 1]) for p, r in zip(padding, reach)]
        out = conv_output_size(size, kernel, stride, padding, dilation)
    elif op == "conv_transpose_act":
        size = [max(1, n // s) for n, s in zip(size, stride)]
        output_padding = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation)]
        if shuffle:
            padding = [max(0, k - s + o + 1) // 2 for k, s, o in zip(kernel, stride, output_padding)]
        out = output_size(size, kernel, stride, padding, output_padding, dilation)
    else:
        size, dilation = [max(1, n // s) for n, s in zip(size, stride)], [1] * dims
        padding = [k // 2 if shuffle else rng.randint(0, k - 1) for k in kernel]
        out = [n * s + 2 * p - k + 1 for n, s, p, k in zip(size, stride, padding, kernel)]
    others = [path for path in PATHS if path != "torch/shuffle" and (dims > 1 or "/" not in path)]
    path = "torch/shuffle" if shuffle else rng.choice(others)
    if min(out) < 1 or (shuffle and not _can_shuffle(op, size, kernel, stride, padding, output_padding, dilation, groups)):
        return None
    weight = [c_in, c_out // groups] if op == "conv_transpose_act" else [c_out, c_in // groups]
    return Case(
        op, path, [rng.choice([1, 2, 3, 3, 5]), c_in, *size], [*weight, *kernel], stride, padding, dilation, output_padding, groups,
        rng.choice(DTYPES), dims > 1 and rng.random() < 0.5, dims > 1 and rng.random() < 0.3, rng.choice([1, 2]),
        rng.choice(["tanh", "linear", "silu"]), seed,
    )  # fmt: skip


def _can_shuffle(op, size, kernel, stride, padding, output_padding, dilation, groups) -> bool:
    if op == "upsample_conv_act":  # the transposed convolution it becomes
        kernel, padding = [k + s - 1 for k, s in zip(kernel, stride)], [k - 1 - p for k, p in zip(kernel, padding)]
    return op != "conv_act" and torch_backend.can_shuffle(size, kernel, stride, padding, output_padding, dilation, groups)


@contextlib.contextmanager
def on(path: str):
    """Inside, what `auto` would ask of the tuner is answered with `path`: configurations have no public name."""
    _memo.Memo.forget_all()
    if path == "auto":
        yield
        return
    gradient = "torch" if path == "torch/shuffle" else path  # a way of the forward alone
    with (
        mock.patch.object(choice, "forward", lambda *args: (path, True)),
        mock.patch.object(choice, "conv", lambda *args: (gradient, True)),
        mock.patch.object(choice, "data_grad", lambda *args: gradient),
        mock.patch.object(choice, "weight_grad", lambda *args: gradient),
        mock.patch.object(upsample, "_decided", lambda plan, *args: plan),
    ):
        yield


def call(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The op, with x and weight laid out as the case has them."""
    x, weight = (t.contiguous(memory_format=FORMATS[t.dim()]) if last else t for t, last in ((x, case.x_last), (weight, case.weight_last)))
    options = {"padding": tuple(case.padding), "groups": case.groups, "act": case.act}
    if case.op == "upsample_conv_act":
        return GF.upsample_conv_act(x, weight, bias, scale_factor=tuple(case.stride), **options)
    options |= {"stride": tuple(case.stride), "dilation": tuple(case.dilation)}
    if case.op == "conv_act":
        return GF.conv_act(x, weight, bias, **options)
    return GF.conv_transpose_act(x, weight, bias, output_padding=tuple(case.output_padding), **options)


def exact(case: Case, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The op by its definition, for float64."""
    if case.op == "conv_transpose_act":
        geometry = (case.stride, case.padding, case.output_padding, case.dilation, case.groups)
        return reference.conv_transpose_act(x, weight, bias, *geometry, case.act, None, 0.0)
    if case.op == "upsample_conv_act":
        for axis, times in enumerate(case.stride):
            x = x.repeat_interleave(times, 2 + axis)
    x = F.pad(x, [p for p in reversed(case.padding) for _ in range(2)])
    stride = 1 if case.op == "upsample_conv_act" else case.stride
    return act_fwd(reference.CONV[len(case.stride)](x, weight, bias, stride, 0, case.dilation, case.groups), case.act, None, 0.0)


def two_orders(f, leaves: list[Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """y = f(x, weight, bias), its gradients, and the gradients of those, as a loss with a penalty has them. The cotangents are the same
    numbers, those of `dtype`, whatever precision f computes in."""
    leaves = [t.clone().requires_grad_() for t in leaves]
    generator = torch.Generator().manual_seed(7)
    cotangent = lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(dtype).to(t.dtype)
    y = f(*leaves)
    first = torch.autograd.grad(y, leaves, cotangent(y), create_graph=True)
    second = torch.autograd.grad(first[:2], leaves[:2], [cotangent(g) for g in first[:2]])
    return dict(zip(("y", "gx", "gweight", "gbias", "ggx", "ggweight"), (y, *first, *second)))


def run(case: Case, repeat: int = 1) -> str:
    """Which results are wrong, and how much; empty where none is."""
    torch.set_num_threads(case.threads)
    dtype, generator = getattr(torch, case.dtype), torch.Generator().manual_seed(case.seed)
    channels = (case.weight[1] if case.op == "conv_transpose_act" else case.weight[0] // case.groups) * case.groups
    fan_in = case.x[1] // case.groups * math.prod(case.weight[2:])
    drawn = [torch.randn(case.x, generator=generator), torch.randn(case.weight, generator=generator) / fan_in**0.5]
    leaves = [t.to(dtype) for t in (*drawn, torch.randn(channels, generator=generator))]
    with on(case.path):
        for _ in range(repeat):
            got = two_orders(lambda *given: call(case, *given), leaves, dtype)
    want = two_orders(lambda *given: exact(case, *given), [t.double() for t in leaves], dtype)
    wrong = []
    for name, value in want.items():
        error, scale = (got[name].double() - value).abs().max().item(), max(1.0, value.abs().max().item())
        if got[name].dtype != dtype or not error <= TOLERANCE[case.dtype] * scale:
            wrong.append(f"{name} ({got[name].dtype}) is off by {error:.3g}, largest value {scale:.3g}")
    return "; ".join(wrong)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each case")
    repeat = parser.parse_args(arguments).repeat
    for i, fields in enumerate(json.load(sys.stdin)):
        print(f"at {i}", flush=True)  # the last one tells which ended the process
        if wrong := run(Case(**fields), repeat):
            print(f"wrong {wrong}", flush=True)
    print("sound")
    return 0


if __name__ == "__main__":
    sys.exit(main())
