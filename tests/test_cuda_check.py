"""tools/cuda_check.py has to reject what it is there to reject; each source here carries one planted fault."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import cuda_check  # noqa: E402

needs_nvcc = pytest.mark.skipif(
    not (cuda_check.find_tool("nvcc") and cuda_check.find_tool("cuobjdump")), reason="no nvcc or cuobjdump here"
)

GOOD = """
__global__ void scale_kernel(float* x, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] *= 2.0f;
}
"""
SPILLS = """
__global__ void __launch_bounds__(1024, 2) spilling_kernel(const float* x, float* y) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];
#pragma unroll
  for (int i = 0; i < 64; ++i) y[i * 1024 + threadIdx.x] = v[i] * v[63 - i] + v[(i + 7) % 64];
}
"""
STACK = """
__global__ void stack_kernel(const float* x, const int* at, float* y) {
  float v[32];
  for (int i = 0; i < 32; ++i) v[i] = x[i];
  for (int i = 0; i < 32; ++i) v[at[i] & 31] += v[at[i + threadIdx.x] & 31];
  y[threadIdx.x] = v[at[threadIdx.x] & 31];
}
"""
# One shared load of each operand for every multiply-add: the loop a GEMM must not have.
STARVED = """
__global__ void conv_transpose_act_fwd_kernel(const float* x, float* y) {
  __shared__ float a[1024], b[1024];
  a[threadIdx.x] = x[threadIdx.x], b[threadIdx.x] = x[threadIdx.x + 1024];
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int k = 0; k < 32; ++k) sum += a[k * 32 + threadIdx.x % 32] * b[k * 31 + threadIdx.x % 7];
  y[threadIdx.x] = sum;
}
"""


# A half type's products one by one where tensor cores are wanted.
SCALAR_HALF = """
struct Half { unsigned short bits; };
template <class T> __global__ void conv_transpose_act_fwd_few_kernel(const T* x, float* y) { y[threadIdx.x] = x[threadIdx.x].bits * 2.0f; }
template __global__ void conv_transpose_act_fwd_few_kernel<Half>(const Half*, float*);
"""


def run(folder: Path, source: str, op: str = "op", name: str = "cuda.cu") -> tuple[int, str]:
    path = folder / op / name
    path.parent.mkdir()
    path.write_text(source)
    done = subprocess.run([sys.executable, ROOT / "tools/cuda_check.py", path, "--arch", "90"], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@needs_nvcc
def test_accepts_a_kernel_in_registers(tmp_path):
    code, text = run(tmp_path, GOOD)
    assert code == 0, text
    assert "scale_kernel" in text


@needs_nvcc
@pytest.mark.parametrize(
    ("source", "op", "complaint"),
    [
        (SPILLS, "op", "of spills"),
        (STACK, "op", "bytes of stack"),
        (STARVED, "conv_transpose_act", "FFMA per shared load"),
        (GOOD, "conv_transpose_act", "no kernel called"),
        ("#include <vector>\n", "op", "no kernels"),
        ("__global__ void broken_kernel() { int i = nothing; }", "op", "does not compile"),
    ],
    ids=["spills", "stack", "starved", "renamed", "empty", "broken"],
)
def test_rejects(tmp_path, source, op, complaint):
    code, text = run(tmp_path, source, op)
    assert code == 1, text
    assert complaint in text


@needs_nvcc
def test_rejects_a_half_kernel_without_tensor_cores(tmp_path):
    code, text = run(tmp_path, SCALAR_HALF, "conv_transpose_act", "cuda_few.cu")
    assert code == 1, text
    assert "no tensor-core instruction" in text


def test_checks_every_source(monkeypatch, tmp_path):
    looked_at = []
    tool = tmp_path / "tool"
    tool.touch()
    monkeypatch.setattr(cuda_check, "find_tool", lambda name: str(tool))
    monkeypatch.setattr(cuda_check, "check", lambda source, *_: (looked_at.append(source), ([], []))[1])
    cuda_check.main(["--arch", "90"])
    assert sorted(looked_at) == sorted((ROOT / "csrc").rglob("*.cu")) and len(looked_at) > 3


def test_says_what_is_missing(capsys):
    assert cuda_check.main(["--nvcc", "/nonexistent/nvcc"]) == 2
    assert "no nvcc at /nonexistent/nvcc" in capsys.readouterr().out


def test_counts_the_block_with_the_arithmetic():
    rows = [
        "LDS.128 R0, [R8] ;",
        *["FFMA R1, R2, R3, R1 ;"] * 12,
        "LDS R4, [R8] ;",
        "BRA 0x0000 ;",
        *["LDS R5, [R9] ;"] * 9,
        "FFMA R1, R2, R3, R1 ;",
        "EXIT ;",
    ]
    sass = "\n".join(f"        /*{16 * i:04x}*/                   {row}" for i, row in enumerate(rows))
    assert cuda_check.ffma_per_load(sass) == 6


def test_reads_the_log_of_ptxas():
    log = (
        "ptxas info    : Compiling entry function '_Z1kPf' for 'sm_90'\nptxas info    : Function properties for _Z1kPf\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 96 registers, used 1 barriers, 8 bytes cumulative stack size, 5632 bytes smem\n"
    )
    (kernel,) = cuda_check.parse_ptxas(log).values()
    assert (kernel.registers, kernel.shared, kernel.stack, kernel.spills) == (96, 5632, 8, 16)
    assert kernel.name == ("k" if shutil.which("c++filt") else "_Z1kPf")
