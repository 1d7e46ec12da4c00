"""No backend reads or writes outside its tensors: shapes known to break torch and random ones, under glibc's malloc checking.

Eager torch does break there: `F.conv_transpose3d(x, weight, stride=3, padding=(4, 0, 3), output_padding=(2, 0, 0))` with the
first of SHAPES has the right forward, and its backward ends this process (EAGER below).
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import ganfast.functional as GF
from ganfast.ops.conv_transpose_act import reference

# x, weight, stride, padding, output_padding, dilation: output_padding meets a padding of about kernel - 1
SHAPES = [
    ([1, 8, 2, 3, 4], [8, 17, 5, 5, 4], [3, 3, 3], [4, 0, 3], [2, 0, 0], [1, 1, 1]),
    ([2, 8, 2, 3, 4], [8, 3, 5, 5, 4], [3, 3, 3], [4, 4, 3], [2, 2, 2], [1, 1, 1]),
    ([1, 16, 3, 2, 2], [16, 5, 3, 3, 3], [4, 4, 4], [2, 2, 2], [3, 3, 3], [1, 1, 1]),
    ([1, 3, 2, 2, 2], [3, 8, 2, 4, 3], [2, 3, 4], [1, 3, 2], [1, 2, 3], [1, 1, 1]),
    ([2, 8, 3, 3], [8, 17, 5, 5], [3, 3], [4, 4], [2, 2], [1, 1]),
    ([2, 4, 3, 5], [4, 9, 3, 3], [2, 2], [4, 4], [4, 3], [5, 4]),
    ([2, 8, 5], [8, 17, 5], [3], [4], [2], [1]),
    # minimal filtering: tiles that reach past the image, and past the output
    ([1, 32, 1, 1], [32, 48, 4, 4], [2, 2], [1, 1], [0, 0], [1, 1]),
    ([2, 48, 5, 3], [48, 32, 4, 4], [2, 2], [1, 1], [1, 0], [1, 1]),
]
RANDOM = 100


def random_shape(rng: random.Random):
    """Small sizes with paddings up to the kernel's reach; None where the output would have no pixels."""
    dims = rng.choice([1, 2, 3, 3])
    pick = lambda low, high: [rng.randint(low, high) for _ in range(dims)]
    c_in, c_out = rng.choice([1, 3, 8]), rng.choice([1, 3, 17])
    size, kernel, stride, dilation = pick(1, 3), pick(1, 5 if dims < 3 else 4), pick(1, 4), [rng.choice([1, 1, 2]) for _ in range(dims)]
    padding = [rng.randint(0, d * (k - 1)) for d, k in zip(dilation, kernel)]
    output_padding = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation)]
    out = [(i - 1) * s - 2 * p + d * (k - 1) + op + 1 for i, s, p, d, k, op in zip(size, stride, padding, dilation, kernel, output_padding)]
    return ([2, c_in, *size], [c_in, c_out, *kernel], stride, padding, output_padding, dilation) if min(out) > 0 else None


def two_orders(f, x, weight):
    """[y, gradients of sum y^2, gradients of the gradients' squares], as a loss with a penalty has them."""
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = f(x, weight)
    first = torch.autograd.grad((y * y).sum(), (x, weight), create_graph=True)
    return [y, *first, *torch.autograd.grad(sum((g * g).sum() for g in first), (x, weight))]


def main(backend: str) -> None:
    rng = random.Random(0)
    torch.manual_seed(0)
    shapes = list(SHAPES)
    while len(shapes) < len(SHAPES) + RANDOM:
        shapes += filter(None, [random_shape(rng)])
    for shape in shapes:
        x_size, weight_size, stride, padding, output_padding, dilation = shape
        print(shape, flush=True)  # the last line tells which one ended the process
        x, weight = torch.randn(x_size), torch.randn(weight_size) * (2 / weight_size[0]) ** 0.5
        geometry = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        got = two_orders(lambda x, w: GF.conv_transpose_act(x, w, **geometry, act="tanh", backend=backend), x.clone(), weight.clone())  # noqa: B023
        lists = (stride, padding, output_padding, dilation)
        exact = lambda x, w: reference.conv_transpose_act(x, w, None, *lists, 1, "tanh", None, 0.0)  # noqa: B023
        compare(got, two_orders(exact, x.double(), weight.double()), shape)
        # The convolution it is the data gradient of, and the same with padding past the kernel's reach.
        images = torch.randn(got[0].shape)
        for pads in (padding, [p + d * (k - 1) + 1 for p, d, k in zip(padding, dilation, weight_size[2:])]):
            convolve = lambda x, w: GF.conv_act(x, w, stride=stride, padding=pads, dilation=dilation, act="tanh", backend=backend)  # noqa: B023
            border = [p for p in reversed(pads) for _ in range(2)]
            exact = lambda x, w: reference.CONV[len(stride)](F.pad(x, border), w, None, stride, 0, dilation).tanh()  # noqa: B023
            got = two_orders(convolve, images.clone(), weight.clone())
            compare(got, two_orders(exact, images.double(), weight.double()), (shape, pads))
    print("sound")


def compare(got, want, shape) -> None:
    for a, b in zip(got, want, strict=True):
        error, scale = (a.double() - b).abs().max().item(), b.abs().max().item()
        assert error <= 1e-4 * max(1.0, scale), f"error {error} of {scale} in {shape}"


# What the checker must catch: one byte past a tensor.
OVERRUN = """
import ctypes, torch
x = torch.ones(25)
ctypes.memset(x.data_ptr() + 100, 77, 1)
del x
print("sound")
"""
# Run by hand, for the record; never by the tests.
EAGER = """
import torch
x, weight = torch.randn(1, 8, 2, 3, 4, requires_grad=True), torch.randn(8, 17, 5, 5, 4, requires_grad=True)
y = torch.nn.functional.conv_transpose3d(x, weight, None, 3, (4, 0, 3), (2, 0, 0))
y.sum().backward()
print("sound")
"""


def checked(*command: str) -> subprocess.CompletedProcess:
    """Python under glibc's checking malloc: the environment variable alone misses some overruns."""
    environment = {**os.environ, "LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"}
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module", autouse=True)
def glibc():
    done = checked("-c", "print('here')")
    if sys.platform != "linux" or done.stdout != "here\n" or "cannot be preloaded" in done.stderr:
        pytest.skip("needs glibc's libc_malloc_debug.so.0")


def test_the_checker_is_on():
    done = checked("-c", OVERRUN)
    assert done.returncode < 0 and "sound" not in done.stdout


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_no_byte_outside(backend):
    done = checked("-m", "tests.conv_transpose_act.test_heap", backend)
    assert done.returncode == 0 and done.stdout.endswith("sound\n"), f"{done.returncode} at {done.stdout[-300:]} {done.stderr[-1000:]}"


if __name__ == "__main__":
    main(sys.argv[1])
