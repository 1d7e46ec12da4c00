"""Compile every csrc/<op>/*.cu for each architecture, without a GPU, and look at what ptxas made of it.

Prints registers, shared memory (what is allocated at launch comes on top), stack and spills per kernel; fails on any stack or
spill, where the inner loop of a float32 GEMM kernel does fewer than MIN_FFMA multiply-adds per shared load, and where one that
should use tensor cores has no HMMA.  Exit: 0 good, 1 a kernel is not, 2 a tool is missing.
"""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Source -> the GEMM kernel that has to be there, and whether its half types run on tensor cores.
GEMM_KERNELS = {
    "conv_transpose_act/cuda.cu": ("conv_transpose_act_fwd_kernel", False),
    "conv_transpose_act/cuda_few.cu": ("conv_transpose_act_fwd_few_kernel", True),
}
MIN_FFMA = 3.0  # per shared load; each load feeds at least that much arithmetic, or the loop waits for shared memory


@dataclass
class Kernel:
    name: str
    registers: int
    shared: int
    stack: int
    spills: int
    ffma_per_load: float | None = None
    hmma: int | None = None  # where tensor cores are wanted


def find_tool(name: str) -> str | None:
    """A CUDA tool from CUDA_HOME, the PATH, or the triton wheel of this python (found without importing it)."""
    homes = [Path(os.environ[key]) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    spec = importlib.util.find_spec("triton")
    wheel = [Path(spec.origin).parent / "backends/nvidia/bin"] if spec and spec.origin else []
    for folder in homes:
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name) or next((str(folder / name) for folder in wheel if (folder / name).is_file()), None)


def short_name(mangled: str) -> str:
    """conv_transpose_act_fwd_kernel<float, 128, 64> of a mangled kernel name; the mangled one where c++filt is missing."""
    if not shutil.which("c++filt"):
        return mangled
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = re.sub(r"\(anonymous namespace\)::|ganfast::|^void ", "", name)
    return name.split("(")[0]


def parse_ptxas(log: str) -> dict[str, Kernel]:
    """Mangled name -> resources, from the output of `ptxas -v`."""
    kernels = {}
    for block in log.split("Compiling entry function '")[1:]:
        mangled = block.split("'")[0]

        def number(pattern: str, block: str = block) -> int:
            return sum(int(n) for n in re.findall(pattern, block))

        kernels[mangled] = Kernel(
            short_name(mangled),
            number(r"Used (\d+) registers"),
            number(r"(\d+) bytes smem"),
            number(r"(\d+) bytes stack frame"),
            number(r"(\d+) bytes spill (?:stores|loads)"),
        )
    return kernels


def ffma_per_load(sass: str) -> float:
    """Multiply-adds per shared load in the basic block with the most multiply-adds: the unrolled inner loop of a GEMM."""
    rows = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+(\S.*?;)", sass)]
    targets = {int(to, 16) for _, text in rows for to in re.findall(r"BRA\S*\s.*?0x([0-9a-f]+)", text)}
    best, ffma, loads = (0, 0), 0, 0
    for at, text in [*rows, (-1, "EXIT")]:
        if at in targets or "BRA" in text or "EXIT" in text:
            best = max(best, (ffma, loads))
            ffma = loads = 0
        ffma += bool(re.search(r"\bFFMA2?\b", text)) * (2 if "FFMA2" in text else 1)  # FFMA2 is two at once (sm_100)
        loads += bool(re.search(r"\bLDS\b", text))
    return best[0] / max(best[1], 1)


def check(source: Path, arch: str, nvcc: str, cuobjdump: str) -> tuple[list[Kernel], list[str]]:
    """The kernels of one source on one architecture, and what is wrong with them."""
    where = f"{source.parent.name}/{source.name} sm_{arch}"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernels.cubin"
        command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return [], [f"{where}: does not compile\n{done.stderr}"]
        kernels = parse_ptxas(done.stdout + done.stderr)
        wanted, tensor_cores = GEMM_KERNELS.get(f"{source.parent.name}/{source.name}", (None, False))
        gemms = [mangled for mangled in kernels if wanted and wanted in mangled]
        if gemms:
            sass = subprocess.run([cuobjdump, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
            bodies = {body.split("\n")[0].strip(): body for body in sass.split("Function : ")[1:]}
            for mangled in gemms:
                if tensor_cores and re.search("Half|BFloat16", mangled):
                    kernels[mangled].hmma = bodies[mangled].count("HMMA")
                else:
                    kernels[mangled].ffma_per_load = ffma_per_load(bodies[mangled])
    faults = [f"{where}: no kernels"] if not kernels else []
    if wanted and not gemms:
        faults.append(f"{where}: no kernel called {wanted}")
    for kernel in kernels.values():
        if kernel.stack or kernel.spills:
            faults.append(f"{where}: {kernel.name} has {kernel.stack} bytes of stack, {kernel.spills} of spills")
        if kernel.ffma_per_load is not None and kernel.ffma_per_load < MIN_FFMA:
            faults.append(f"{where}: {kernel.name} does {kernel.ffma_per_load:.1f} FFMA per shared load, at least {MIN_FFMA:.0f} wanted")
        if kernel.hmma == 0:
            faults.append(f"{where}: {kernel.name} has no tensor-core instruction")
    return list(kernels.values()), faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", type=Path, help="default: every csrc/*/*.cu")
    parser.add_argument("--arch", action="append", metavar="90", help="compute capability without its dot; default 80, 90 and 100")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--nvcc", help="default: CUDA_HOME, then the PATH")
    args = parser.parse_args(argv)
    sources = args.sources or sorted(ROOT.glob("csrc/*/*.cu"))
    tools = {"nvcc": args.nvcc or find_tool("nvcc"), "cuobjdump": find_tool("cuobjdump")}
    for name, path in tools.items():
        if not path or not Path(path).is_file():
            print(f"cuda-check: no {name}" + (f" at {path}" if path else ": not in CUDA_HOME, on the PATH, or in the triton wheel"))
            return 2
    runs = [(source, arch) for source in sources for arch in args.arch or ["80", "90", "100"]]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(pool.map(lambda run: check(*run, tools["nvcc"], tools["cuobjdump"]), runs))
    print(f"{'kernel':62} {'arch':>6} {'regs':>5} {'shared':>7} {'stack':>6} {'spills':>7} {'FFMA/LDS':>9} {'HMMA':>5}")
    for (_, arch), (kernels, _) in zip(runs, results):
        for k in kernels:
            ratio = "" if k.ffma_per_load is None else f"{k.ffma_per_load:.1f}"
            products = "" if k.hmma is None else k.hmma
            print(f"{k.name:62} {'sm_' + arch:>6} {k.registers:>5} {k.shared:>7} {k.stack:>6} {k.spills:>7} {ratio:>9} {products:>5}")
    faults = [fault for _, found in results for fault in found]
    print("\n".join(faults) if faults else f"cuda-check: {sum(len(k) for k, _ in results)} kernels, no stack, no spills")
    return 1 if faults or not runs else 0


if __name__ == "__main__":
    sys.exit(main())
