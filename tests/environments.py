"""An environment with nothing in it but what a test installs, and the torch of this one beside it. No network."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def bare(folder: Path) -> Path:
    """Makes one and gives its python. A .pth file in a folder that a .pth file names is not read, so this one's ganfast is not seen."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return folder / "bin" / "python"


def variables(**more: str) -> dict[str, str]:
    """This process's, without those that lead to this ganfast or decide how it runs."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GANFAST_"))} | more


def install(python: Path, *what: str | Path, **more: str) -> None:
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--no-build-isolation", *what], env=variables(**more), check=True)
