"""`make wheel`: a wheel for each instruction set, and one without compiled kernels, each from a clean copy of the sources.

    python tools/make_wheels.py [--out dist] [x86-64-v3 x86-64-v4 python]

A copy, as setuptools would put into a wheel what an earlier build left in build/, and would rename the source tree's own metadata.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("ganfast", "csrc", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
KINDS = {
    "x86-64-v3": {"GANFAST_BUILD": "cpu", "GANFAST_CPU_ARCH": "x86-64-v3"},
    "x86-64-v4": {"GANFAST_BUILD": "cpu", "GANFAST_CPU_ARCH": "x86-64-v4"},
    "python": {"GANFAST_BUILD": "none"},
}
DECIDES = ("GANFAST_BUILD", "GANFAST_CPU_ARCH", "GANFAST_CPU_FLAGS", "TORCH_CUDA_ARCH_LIST")  # what the caller's shell may have set


def environment(kind: str, python: str = sys.executable) -> dict[str, str]:
    """With `python`'s own ninja on the path."""
    kept = {name: value for name, value in os.environ.items() if name not in DECIDES}
    return kept | {"PATH": f"{Path(python).parent}{os.pathsep}{kept.get('PATH', '')}"} | KINDS[kind]


def build(kind: str, out: Path, python: str = sys.executable) -> Path:
    """Builds one wheel with `python`'s torch and gives its path."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "ganfast-source")
        tree.mkdir()
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
            else:
                shutil.copy2(source, tree / name)
        made = Path(folder, "made")
        command = [python, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", made, tree]
        subprocess.run(command, env=environment(kind, python), check=True)
        (wheel,) = made.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, out / wheel.name))


def main() -> None:
    parser = argparse.ArgumentParser("make_wheels.py", description="Wheels of ganfast, each for an instruction set.")
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"which: {', '.join(KINDS)}; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    asked = parser.parse_args()
    for kind in asked.kinds:
        if kind not in KINDS:
            parser.error(f"{kind!r} is unknown; valid: {', '.join(KINDS)}")
    for kind in asked.kinds or KINDS:
        print(f"ganfast: {kind}", flush=True)
        began = time.monotonic()
        wheel = build(kind, asked.out)
        print(f"ganfast: {wheel} after {time.monotonic() - began:.0f} s, {wheel.stat().st_size / 2**20:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
