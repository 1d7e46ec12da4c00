"""What an answer of the tuner depends on besides its question and the versions of the cache file: the machine and its switches."""

import functools
import os
import platform
import re
from pathlib import Path

import torch


def place(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{_gpu(device)}, conv {torch.backends.cudnn.conv.fp32_precision}, cudnn.benchmark {torch.backends.cudnn.benchmark}"
    return f"cpu {cpu()}, {torch.get_num_threads()} threads"


@functools.cache
def _gpu(device: torch.device) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"


@functools.cache
def cpu() -> str:
    """The processor and its instruction set. Torch's capability alone is the same with and without AMX, by which oneDNN takes other
    kernels, of which some are wrong. oneDNN reads ONEDNN_MAX_CPU_ISA once a process, so it is read once here."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return (
        f"{processor()} {torch.backends.cpu.get_cpu_capability()}{' with AMX' if amx else ''}"
        f"{f', ONEDNN_MAX_CPU_ISA={limit}' if limit else ''}"
    )


def has_bf16_units(device: torch.device) -> bool:
    """Whether products of bfloat16 have hardware of their own: tensor cores from Ampere on, AMX or AVX512-BF16 on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
