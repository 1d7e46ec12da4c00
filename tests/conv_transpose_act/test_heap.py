"""No backend reads or writes outside its tensors, or what it has not written: shapes known to break torch and a part of
`benchmarks/prove_heap.py`'s random ones, under glibc's malloc checking.

Eager torch does break there: `F.conv_transpose3d(x, weight, stride=3, padding=(4, 0, 3), output_padding=(2, 0, 0))` with the first of
SHAPES has the right forward, and its backward ends this process; so does the backward of a strided 1x1
convolution (STRIDED).
"""

import pytest
import torch

from benchmarks import prove_heap
from benchmarks.heap_cases import Case, made
from ganfast.ops.conv_transpose_act import torch_faults

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
# A kernel of one tap whose strides divide the image, channels_last, an odd batch, two threads; case 0 is the transposed convolution
# whose gradient that convolution is. Then taps that meet padding alone, in bfloat16.
STRIDED = [
    ("conv_transpose_act", [3, 12, 6, 5], [12, 11, 1, 1], [1, 3], [0, 2]),
    ("conv_act", [3, 11, 6, 15], [12, 11, 1, 1], [1, 3], [0, 0]),
    ("conv_act", [3, 8, 15, 6], [3, 8, 1, 1], [3, 1], [0, 0]),
    ("conv_act", [5, 2, 12, 12], [16, 2, 1, 1], [2, 2], [0, 0]),
]
EMPTY_TAPS = [
    ([5, 10, 1, 1], [10, 5, 3, 3], [2, 2], [1, 1], 2),
    ([2, 16, 3, 3, 3], [11, 16, 5, 5, 5], [4, 4, 4], [1, 1, 1], 1),
    ([2, 6, 15, 3], [4, 3, 7, 7], [4, 4], [0, 2], 2),
]
BACKENDS = ["reference", "torch", "cpu"]


def known(backend: str) -> list[Case]:
    found = []
    for x, weight, stride, padding, output_padding, dilation in SHAPES:
        common = {"path": backend, "stride": stride, "dilation": dilation, "threads": 2}
        found.append(Case("conv_transpose_act", x=x, weight=weight, padding=padding, output_padding=output_padding, **common))
        # The convolution that is its data gradient, and the same with padding past the kernel's reach.
        sizes = zip(x[2:], stride, padding, dilation, weight[2:], output_padding)
        image = [x[0], weight[1], *[(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, s, p, d, k, o in sizes]]
        for pads in (padding, [p + d * (k - 1) + 1 for p, d, k in zip(padding, dilation, weight[2:])]):
            found.append(Case("conv_act", x=image, weight=weight, padding=pads, output_padding=[0] * len(pads), **common))
    for op, x, weight, stride, output_padding in STRIDED:
        common = {"padding": [0, 0], "dilation": [1, 1], "output_padding": output_padding, "x_last": True, "threads": 2}
        found.append(Case(op, backend, x, weight, stride, **common))
    for x, weight, stride, padding, groups in EMPTY_TAPS:
        common = {"dilation": [1] * len(stride), "output_padding": [0] * len(stride), "groups": groups, "dtype": "bfloat16"}
        found.append(Case("conv_act", backend, x, weight, stride, padding, **common))
    return found


# What the checker must catch: one byte past a tensor.
OVERRUN = """
import ctypes, torch
x = torch.ones(25)
ctypes.memset(x.data_ptr() + 100, 77, 1)
del x
print("sound")
"""


@pytest.fixture(scope="module", autouse=True)
def glibc():
    if reason := prove_heap.refusal():
        pytest.skip(reason)


def test_the_checker_is_on():
    done = prove_heap.checked("-c", OVERRUN)
    assert done.returncode < 0 and "sound" not in done.stdout


@pytest.mark.parametrize("backend", ["cpu", *(pytest.param(b, marks=pytest.mark.prove) for b in BACKENDS if b != "cpu")])
def test_known_shapes(backend):
    found = prove_heap.look(known(backend), repeat=5)
    assert not found, "\n".join(map(str, found))


def test_random_shapes():
    found = prove_heap.hunt(seed=1, first=0, cases=80, jobs=1)
    assert not found, "\n".join(map(str, found))


def test_a_case_is_the_same_everywhere():
    """The text of a seed decides, not the process's hashes."""
    done = prove_heap.checked("-c", "from benchmarks.heap_cases import made; print(made(0, 7))")
    assert done.stdout.strip() == str(made(0, 7))


@pytest.mark.parametrize("fault", ["crash", "wrong"])
def test_the_hunt_finds_the_one_case(fault, monkeypatch):
    """A process's end is brought down to its case; a wrong number is told with its case."""
    cases = [made(0, i) for i in range(12)]

    def attempt(given, repeat):
        if fault == "wrong":
            return None, "", {given.index(cases[7]): "y is off"}
        # Broken by the eighth, noticed two cases later.
        return (min(given.index(cases[7]) + 2, len(given) - 1) if cases[7] in given else None), "ended by signal 6", {}

    monkeypatch.setattr(prove_heap, "_attempt", attempt)
    (found,) = prove_heap.look(cases, first=100)
    assert (found.first, found.cases) == (107, cases[7:8]) and "107: Case(" in str(found)


def test_taps_that_meet_padding_alone():
    """Against the definition: a tap none of whose windows' positions lies in the image."""
    for n in range(1, 7):
        for k, s, p, d in torch.cartesian_prod(*[torch.arange(*r) for r in ((1, 6), (1, 4), (0, 4), (1, 3))]).tolist():
            out = (n + 2 * p - d * (k - 1) - 1) // s + 1
            if out > 0:
                blind = any(not any(0 <= o * s - p + t * d < n for o in range(out)) for t in range(k))
                want = blind or 2 * p > d * (k - 1)
                assert torch_faults.padding_nears_kernel([n], [k], [s], [p], [d]) == want, (n, k, s, p, d)
