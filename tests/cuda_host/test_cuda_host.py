"""The CUDA kernels, run on the CPU by cuda_host.h: against float64, for races, for bounds, in both block orders.

Every check is shown to fail: each barrier of the source is turned off in its turn and has to be reported as a race, a
launch past the end of memory as an overflow, and changed sources as wrong numbers.
"""

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda_host.mutations import MUTATIONS

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
pytestmark = pytest.mark.skipif(not CXX, reason="no C++ compiler")

NORMS = ["batch_norm_act", "modulated_norm_act", "group_norm_act"]
OPS = ["conv_transpose_act", "bias_act", *NORMS, "gan_loss", "gather_images", "normalised_weights", "upfirdn"]
FOLDERS = {"modulated_norm_act": "batch_norm_act"}  # in csrc, where it is not called as the op
FLAGS = {
    "plain": ["-O1"],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
    "address": ["-O0", "-g1", "-fsanitize=address,alignment", "-fno-sanitize-recover=all"],
    "alignment": ["-O0", "-g1", "-fsanitize=alignment", "-fno-sanitize-recover=all"],
    "changed": ["-O0"],
}

# Under a checker a case costs up to a second: those that between them take every path through barriers and shuffles.
FEW_CASES = {
    "conv_transpose_act": [
        "fwd large, vectors",
        "fwd large, half",
        "fwd small, rgb",
        "fwd stride",
        "fwd 3d, heap",
        "few signs",
        "few slabs",
        "few nchw, vectors",
    ],
    "bias_act": ["nhwc, bfl", "nchw, odd", "rows, half", "nhwc, added, s"],
    "batch_norm_act": ["nchw, odd", "nhwc, bfloat16", "rows, half", "images nhwc, odd"],
    "modulated_norm_act": ["columns nhwc", "full nchw", "first, eval"],
    "group_norm_act": ["nchw, two teams", "nhwc, runs", "rows, groups", "merge, wide"],
    "gan_loss": ["lsgan disc", "relativistic_average gen", "relativistic_average, several"],
    "gather_images": ["nchw, mirr", "nchw, odd im", "to nhwc, b"],
    "normalised_weights": ["weight, odd", "spectral, v first"],
    "upfirdn": ["nchw, full", "nhwc, d"],
}
# Barriers, and the case that has to notice that one is gone.
BARRIERS = [
    ("conv_transpose_act", "conv_transpose_act/cuda.cu", "fwd large, vectors"),
    ("conv_transpose_act", "conv_transpose_act/cuda_few.cu", "few slabs"),
    ("batch_norm_act", "batch_norm_act/cuda.cu", "nchw, odd"),
    ("batch_norm_act", "common/channel_grid.h", "nchw, odd"),
    ("group_norm_act", "group_norm_act/cuda.cu", "nchw, two teams"),
    ("gan_loss", "common/launch.h", "relativistic_average gen"),
    ("normalised_weights", "normalised_weights/cuda.cu", "spectral, v first"),
]


def compile_program(op: str, kind: str, folder: Path, csrc: Path = CSRC) -> Path:
    """The host program of one op; `csrc` may be a changed copy, beside a copy of this folder."""
    tests = csrc.parent / "tests/cuda_host"
    program = folder / f"{op}_{kind}"
    command = [CXX, "-std=c++20", "-pthread", "-DGANFAST_CUDA_HOST", f"-I{tests}", "-Wno-unknown-pragmas", *FLAGS[kind]]
    done = subprocess.run([*command, str(tests / f"{op}_test.cpp"), "-o", str(program)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return program


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """(op, kind) -> the program, compiled at the first question; workers of pytest-xdist share them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cuda_host"
    folder.mkdir(exist_ok=True)

    def program(op: str, kind: str) -> Path:
        with open(folder / f"{op}_{kind}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = folder / f"{op}_{kind}"
            return made if made.exists() else compile_program(op, kind, folder)

    return program


def run(program: Path, *options: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [program, *options], capture_output=True, text=True, timeout=120, env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
        )
    except subprocess.TimeoutExpired as error:
        return 124, f"timed out: {error.stdout}"
    return done.returncode, done.stdout + done.stderr


def only(prefixes: list[str]) -> list[str]:
    return [word for prefix in prefixes for word in ("--only", prefix)]


def passing_hash(program: Path, *options: str) -> str:
    code, text = run(program, *options)
    assert code == 0, text[-4000:]
    return re.search(r"^hash (\w+)$", text, re.M).group(1)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", ["plain", "address"])
@pytest.mark.prove
def test_right_in_both_block_orders(programs, op, kind):
    program = programs(op, kind)
    assert passing_hash(program) == passing_hash(program, "--reversed")


@pytest.mark.parametrize("op", OPS)
def test_a_few_cases_are_right_in_both_block_orders(programs, op):
    """Under the address checker those that compute their addresses from tiles, or with common/channel_grid.h, which others share. The
    rest is compiled without it, in a third of the time; `make prove` has both."""
    tiled = op in ("conv_transpose_act", "batch_norm_act", "group_norm_act")
    program, few = programs(op, "address" if tiled else "changed"), only(FEW_CASES[op])
    assert passing_hash(program, *few) == passing_hash(program, *few, "--reversed")


# The one barrier of bias_act and modulated_norm_act is batch_norm_act's, of common/channel_grid.h, gather_images and upfirdn have none, and
# gan_loss's is taken out below. Those of group_norm_act and normalised_weights are `make prove`'s: a program of each takes 10 s and more.
_ELSEWHERE = ("bias_act", "modulated_norm_act", "group_norm_act", "gather_images", "gan_loss", "normalised_weights", "upfirdn")


@pytest.mark.parametrize("op", [pytest.param(op, marks=[pytest.mark.prove] if op in _ELSEWHERE else []) for op in OPS])
@pytest.mark.parametrize("order", [[], pytest.param(["--reversed"], marks=pytest.mark.prove)], ids=["as_they_come", "reversed"])
def test_no_race_in_both_block_orders(programs, op, order):
    passing_hash(programs(op, "thread"), *only(FEW_CASES[op]), *order)


def barrier_lines() -> list:
    found = []
    for op, path, case in BARRIERS:
        lines = (CSRC / path).read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if "__syncthreads();" in line:
                later = [pytest.mark.prove] if op in _ELSEWHERE and op != "gan_loss" else []
                found.append(pytest.param(op, f"{Path(path).name}:{number}", case, id=f"{path}:{number}", marks=later))
    return found


@pytest.mark.parametrize(("op", "where", "case"), barrier_lines())
def test_every_barrier_is_missed(programs, op, where, case):
    """By a reported race, by what an index or a value that was read too early does, or by a wrong result."""
    for _ in range(4):  # on a busy machine threads may run one after the other, and then there is no race to see
        code, text = run(programs(op, "thread"), "--only", case, "--drop-barrier", where)
        if code:
            break
    assert (code == 66 and ("data race" in text or "SEGV" in text)) or (code == 1 and ", want " in text), text[-4000:]


@pytest.mark.parametrize(
    ("op", "case"),
    [
        ("conv_transpose_act", "fwd small, rgb"),
        ("conv_transpose_act", "few rgb"),
        ("bias_act", "nhwc, rgb"),
        ("batch_norm_act", "nhwc, rgb"),
        ("batch_norm_act", "images nhwc, odd"),
        pytest.param("modulated_norm_act", "full nhwc", marks=[pytest.mark.prove]),
        ("group_norm_act", "nhwc, odd"),
        ("gan_loss", "hinge disc"),
        ("gather_images", "nhwc, mirr"),
        ("normalised_weights", "weight, odd"),
        ("upfirdn", "nhwc, d"),
    ],
)
def test_an_overrun_is_reported(programs, op, case):
    code, text = run(programs(op, "address"), "--only", case, "--overrun")
    assert code != 0
    assert "heap-buffer-overflow" in text


@pytest.mark.prove
def test_a_misaligned_vector_is_reported(tmp_path):
    """Runs past the alignment test of batch_norm_act: its case with memory one element off must stop the program."""
    code, text = run(
        changed(tmp_path, "batch_norm_act", "common/launch.h", "% (elements * sizeof(T)) == 0", "% sizeof(T) == 0", "alignment"),
        "--only",
        "nchw, un",
    )
    assert code != 0
    assert "misaligned address" in text


def changed(folder: Path, op: str, path: str, old: str, new: str, kind: str = "changed") -> Path:
    """The program of `op` with one place of its source replaced."""
    for part in ("common", FOLDERS.get(op, op)):
        shutil.copytree(CSRC / part, folder / "csrc" / part)
    shutil.copytree(HERE, folder / "tests/cuda_host", ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / "csrc" / path
    text = source.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times: {old}"
    source.write_text(text.replace(old, new))
    return compile_program(op, kind, folder, folder / "csrc")


def mutations() -> list:
    """The first of each op, but for the norms, whose cases the first of bias_act tries too; the others are `make prove`'s."""
    ops = [m[0] for m in MUTATIONS]
    left = lambda place: [pytest.mark.prove] if ops[place].endswith("norm_act") or ops[place] in ops[:place] else []
    return [pytest.param(*m, id=m[2], marks=left(place)) for place, m in enumerate(MUTATIONS)]


def test_every_planted_bug_has_its_place():
    assert {old: (CSRC / path).read_text().count(old) for _, path, old, _ in MUTATIONS} == {m[2]: 1 for m in MUTATIONS}


@pytest.mark.parametrize(("op", "path", "old", "new"), mutations())
def test_a_changed_source_is_wrong(tmp_path, op, path, old, new):
    program = changed(tmp_path, op, path, old, new)
    for cases in (only(FEW_CASES[op]), []):  # most show in these few
        code, text = run(program, *cases)
        if code:
            break
    assert code == 1, text[-4000:]
    assert ", want " in text


def test_half_types_round_as_torch_does(tmp_path):
    """The shim of cuda_host.h against torch: every half and bfloat16, and floats between, around and beyond them."""
    torch = pytest.importorskip("torch")
    source = tmp_path / "shim.cpp"
    source.write_text("""
#include "host_test.h"
using namespace cuda_host;
int main() {
  float v;
  while (std::fread(&v, 4, 1, stdin) == 1) {
    const float back[2] = {half_to_float(float_to_half(v)), bfloat16_to_float(float_to_bfloat16(v))};
    std::fwrite(back, 4, 2, stdout);
  }
}
""")
    command = [CXX, "-std=c++20", "-O1", "-pthread", "-DGANFAST_CUDA_HOST", f"-I{HERE}", str(source), "-o", str(tmp_path / "shim")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    bits = torch.arange(65536, dtype=torch.int32).to(torch.int16)
    exact = torch.cat([bits.view(torch.float16).float(), bits.view(torch.bfloat16).float()])
    exact = exact[exact.isfinite()]
    values = torch.cat([exact, torch.nextafter(exact, torch.tensor(torch.inf)), exact * (1 + 2**-11), exact * (1 + 2**-8), exact * 0.7])
    done = subprocess.run([tmp_path / "shim"], input=values.numpy().tobytes(), capture_output=True, timeout=60, check=True)
    back = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32).view(-1, 2)
    assert torch.equal(back[:, 0], values.half().float())
    assert torch.equal(back[:, 1], values.bfloat16().float())
