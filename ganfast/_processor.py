"""Whether this processor has the instructions that the compiled extension uses, asked of the extension's file before it is loaded.

The compiler writes what it may use into the extension (csrc/common/built_for.h). Loading it on a processor without one of them
would end the process by an illegal instruction, maybe in a static initialiser already.
"""

import mmap
import re
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")
_RECORD = re.compile(rb"ganfast built for ([^:;\0]+):([^:;\0]*);")
_WANTS_AVX2 = ("avx2", "fma", "f16c", "bmi1", "bmi2")  # what every processor with AVX2 that torch calls so has


def built_for(path: str | None) -> tuple[str, tuple[str, ...]] | None:
    """(the compiler's name for the processor, instructions by Linux's names) from an extension's file; None where it says nothing."""
    if path is None or not Path(path).is_file() or not Path(path).stat().st_size:
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = _RECORD.search(data)
        return found and (found[1].decode(), tuple(found[2].decode().split()))


def instructions() -> set[str] | None:
    """What this processor has and the system lets programs use; None where the system has no such list, as outside Linux."""
    try:
        with open(CPUINFO) as lines:
            for line in lines:  # the first core's: the file is long, and slow to make, on machines of many cores
                name, _, listed = line.partition(":")
                if name.strip() in ("flags", "Features"):  # x86, Arm
                    return set(listed.split())
    except OSError:
        pass
    return None


def lacking(wanted: tuple[str, ...]) -> list[str]:
    """Which of these instructions this processor lacks. Where the system has no list, torch's own look at the processor decides."""
    here = instructions()
    if here is not None:
        return [name for name in wanted if name not in here]
    level = torch.backends.cpu.get_cpu_capability()
    avx512 = [name for name in wanted if name.startswith("avx512") and level != "AVX512"]
    return avx512 + [name for name in wanted if name in _WANTS_AVX2 and level == "DEFAULT"]
