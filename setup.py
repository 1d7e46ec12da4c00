"""The native build: a plan made by small pure functions from what is at hand, then handed to torch's BuildExtension.

GANFAST_BUILD=auto|cpu|cuda|none says what to build. Nothing here looks for a GPU: nvcc and torch's own CUDA decide, so
a machine without one builds for those that have one. GANFAST_CPU_ARCH names the processors that the CPU kernels are for.
"""

import os
import platform
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from setuptools import setup

MODES = ("auto", "cpu", "cuda", "none")
ARCHES = {"native": "", "x86-64-v3": "v3", "x86-64-v4": "v4"}  # GANFAST_CPU_ARCH -> what the version's local part calls it
X86 = ("x86_64", "AMD64")


@dataclass(frozen=True)
class Plan:
    """What will be built ("cpu", "cuda" or "none"), and the sentence that says why."""

    build: str
    why: str


def plan(mode: str, torch_version: str | None, torch_cuda: str | None, nvcc: str | None, nvcc_version: str | None = None) -> Plan:
    """Decides. `torch_version`: None without torch in the build environment; `torch_cuda`: the CUDA torch was built
    with; `nvcc`: the compiler's path, `nvcc_version` its release. Raises SystemExit where an explicit wish cannot be met."""
    if mode not in MODES:
        raise SystemExit(f"ganfast: GANFAST_BUILD={mode!r} is unknown; valid: {', '.join(MODES)}")
    if mode == "none":
        return Plan("none", "GANFAST_BUILD=none")
    if torch_version is None:
        why = "torch is not in the build environment; install torch first and pass --no-build-isolation for the native kernels"
        if mode == "auto":
            return Plan("none", why)
        raise SystemExit(f"ganfast: GANFAST_BUILD={mode} cannot be met: {why}")
    missing = [
        *([] if torch_cuda else [f"torch {torch_version} is a build without CUDA"]),
        *([] if nvcc else ["no nvcc on the PATH or under CUDA_HOME"]),
    ]
    if torch_cuda and nvcc_version and torch_cuda.split(".")[0] != nvcc_version.split(".")[0]:
        missing.append(f"nvcc is release {nvcc_version}, torch was built with CUDA {torch_cuda}; their major versions must agree")
    if mode == "cuda" and missing:
        raise SystemExit(f"ganfast: GANFAST_BUILD=cuda cannot be met: {' and '.join(missing)}")
    if mode == "cpu":
        return Plan("cpu", "GANFAST_BUILD=cpu")
    return Plan("cpu", f"CPU kernels only: {' and '.join(missing)}") if missing else Plan("cuda", f"CPU and CUDA kernels, nvcc {nvcc}")


def architectures(listing: str) -> list[str]:
    """Compute capabilities from 8.0 on in `nvcc --list-gpu-arch`'s output, as ["80", ...]."""
    found = {int(number) for number in re.findall(r"compute_(\d+)\b", listing)}
    return [str(a) for a in sorted(found) if a >= 80]


def arch_flags(arch_list: str | None, listing: str) -> list[str]:
    """nvcc's -gencode flags; none where TORCH_CUDA_ARCH_LIST is set, as torch reads that itself."""
    if arch_list:
        return []
    archs = architectures(listing)
    if not archs:
        raise SystemExit("ganfast: this nvcc knows no architecture from 8.0 on; CUDA 11.1 or newer is wanted")
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
    return [*flags, f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}"]


def cpu_flags(machine: str, override: str | None, arch: str = "native") -> list[str]:
    """Compiler flags of the CPU kernels: for the building machine or the named processors, unless GANFAST_CPU_FLAGS says otherwise."""
    if arch not in ARCHES:
        raise SystemExit(f"ganfast: GANFAST_CPU_ARCH={arch!r} is unknown; valid: {', '.join(ARCHES)}")
    if arch != "native" and (override is not None or machine not in X86):
        why = f"this machine is {machine}" if override is None else "GANFAST_CPU_FLAGS is set and takes its place; set one of the two"
        raise SystemExit(f"ganfast: GANFAST_CPU_ARCH={arch} cannot be met: {why}")
    if override is not None:
        return override.split()
    return [
        "-O3",
        "-g0",  # Python's own flags ask for debug information of all of torch's headers, which doubles the time
        f"-march={arch}" if machine in X86 else "-mcpu=native",
        "-fopenmp",
        "-fno-math-errno",
        "-fno-trapping-math",
    ]


def arch_of(flags: list[str]) -> str:
    """What the flags name the processor, for people to read; the exact instructions are known to the compiler alone, which writes them
    into the extension (csrc/common/built_for.h)."""
    named = [flag.split("=", 1)[1] for flag in flags if flag.startswith(("-march=", "-mcpu="))]
    return named[-1] if named else "the compiler's default"


def version(arch: str = "native", cuda: bool = False) -> str:
    """ganfast.__version__. Kernels for named processors add a local part, 0.2.0+v3, by which their wheels are told apart."""
    public = re.search(r'^__version__ = "(.+)"$', Path("ganfast/__init__.py").read_text(), re.MULTILINE)[1]
    return f"{public}+{'cuda.' * cuda}{ARCHES[arch]}" if ARCHES[arch] else public


def sources(build: str) -> list[str]:
    """What takes longest first, so that no core is left with it at the end."""
    found = ["csrc/bindings.cpp", *glob("csrc/*/cpu*.cpp")]
    if build == "cuda":
        found += [*glob("csrc/*/*.cu"), *glob("csrc/*/cuda*_bind.cpp")]
    templates = {name: len(re.findall(r"with_(?:act|sines)\(", Path(name).read_text())) for name in found}  # each an instance per act
    return sorted(found, key=lambda name: (not name.endswith(".cu"), -templates[name], -os.path.getsize(name), name))


def estimate(count: int, cuda: bool, jobs: int) -> str:
    """What is about to be built, and for how long: some 10 s a C++ file on a server's core of 2023; nvcc's hang on the architectures."""
    minutes = max(1, round(count * 10 / jobs / 60))
    takes = f"about {minutes} minute{'s' * (minutes > 1)}" if not cuda else "some minutes for every architecture"
    return f"{count} files on {jobs} core{'s' * (jobs > 1)}, {takes}"


class Progress:
    """ninja's lines made short: which file of how many is done, and the seconds since the start. All other lines pass."""

    BUILT = re.compile(r"\[(\d+)/(\d+)\].* -c (\S+)")

    def __init__(self, clock=time.monotonic):
        self.clock, self.began = clock, clock()

    def line(self, text: str) -> str:
        built = self.BUILT.match(text)
        if not built:
            return text
        return f"ganfast: {built[1]} of {built[2]} files built after {self.clock() - self.began:.0f} s, {os.path.relpath(built[3])}\n"

    @contextmanager
    def over_output(self):
        """Whatever is written to the standard output inside, by child processes too, goes through `line`."""
        sys.stdout.flush()
        kept = os.dup(1)
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(write)

        def pump():
            with open(read, errors="replace") as lines:
                for text in lines:
                    os.write(kept, self.line(text).encode())

        reader = threading.Thread(target=pump)
        reader.start()
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)  # closes the pipe's end, so that the reader comes to the last line
            reader.join()
            os.close(kept)


def telling(build_ext: type, count: int, cuda: bool) -> type:
    """torch's build_ext, which says what it does while it does it."""

    class Telling(build_ext):
        def build_extensions(self) -> None:
            with Progress().over_output():
                print("ganfast:", estimate(count, cuda, int(os.environ["MAX_JOBS"])), flush=True)
                super().build_extensions()

    return Telling


def extension_arguments() -> dict:
    """setup's arguments: the version, and the extension with its build where one is built."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        torch = cpp_extension = None
    home = cpp_extension.CUDA_HOME if torch else None
    nvcc = str(Path(home, "bin", "nvcc")) if home and Path(home, "bin", "nvcc").exists() else None
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout if nvcc else ""
    release = re.search(r"release (\d+\.\d+)", told)
    decided = plan(
        os.environ.get("GANFAST_BUILD", "auto"), torch and torch.__version__, torch and torch.version.cuda, nvcc, release and release[1]
    )
    print(f"ganfast: building {decided.build}: {decided.why}", file=sys.stderr)
    if decided.build == "none":
        return {"version": version()}
    os.environ.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    headers = sorted(glob("csrc/*/*.h"))
    arch = os.environ.get("GANFAST_CPU_ARCH", "native")
    cxx = cpu_flags(platform.machine(), os.environ.get("GANFAST_CPU_FLAGS"), arch)
    macros = [("GANFAST_CPU_ARCH", f'"{arch_of(cxx)}"')]
    if decided.build == "cpu":
        extension = cpp_extension.CppExtension(
            "ganfast._C", sources("cpu"), extra_compile_args={"cxx": cxx}, define_macros=macros, depends=headers
        )
    else:
        listing = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
        flags = arch_flags(wanted, listing)
        known = wanted or " ".join(architectures(listing))
        extension = cpp_extension.CUDAExtension(
            "ganfast._C",
            sources("cuda"),
            depends=headers,
            extra_compile_args={"cxx": cxx, "nvcc": ["-O3", "--expt-relaxed-constexpr", *flags]},
            define_macros=[*macros, ("GANFAST_WITH_CUDA", None), ("GANFAST_CUDA_ARCHS", f'"{known}"')],
        )
    told = telling(cpp_extension.BuildExtension, len(extension.sources), decided.build == "cuda")
    return {"version": version(arch, decided.build == "cuda"), "ext_modules": [extension], "cmdclass": {"build_ext": told}}


# An editable install is a line in a .pth file. The hook that setuptools would install instead comes after the search through sys.path, so
# in a folder that holds the clone `import ganfast` would find the clone's folder, which is no package, and give an empty module.
OPTIONS = {"editable_wheel": {"mode": "compat"}}

if __name__ == "__main__":
    setup(options=OPTIONS, **extension_arguments())
