"""Compiles, without a GPU, exactly what the Triton launchers would launch: a launcher runs on meta tensors while a recorder stands
where Triton would launch, and each recorded launch is compiled for an architecture with the specialisations Triton would choose."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_CUOBJDUMP = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
SHARED_LIMIT = 99 * 1024  # a block's on 8.6, 8.9 and 12.0
_TENSOR_CORE = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")


@dataclass
class Launch:
    """One recorded launch: the kernel, its arguments by name, and the compiler's options (num_warps, ...)."""

    kernel: triton.JITFunction
    arguments: dict
    options: dict
    grid: tuple = ()


@dataclass
class Binary:
    """What the compiler made of it."""

    name: str
    registers: int
    stack: int  # bytes of local memory a thread: spills, or an array that did not fit registers
    shared: int
    tensor_core: int  # matrix instructions in the PTX
    ptx: str


def problems(binary: Binary, tensor_core: bool, stack: int = 0) -> list[str]:
    """What is wrong with it: registers spilled, more shared memory than the smallest GPU from 8.0 on has, no matrix instruction."""
    found = []
    if binary.stack > stack:
        found.append(f"{binary.name}: {binary.stack} bytes of stack a thread, allowed {stack} ({binary.registers} registers)")
    if binary.shared > SHARED_LIMIT:
        found.append(f"{binary.name}: {binary.shared} bytes of shared memory, the limit is {SHARED_LIMIT}")
    if tensor_core and not binary.tensor_core:
        found.append(f"{binary.name}: no tensor-core instruction")
    return found


def record(launch) -> list[Launch]:
    """The launches that `launch()` would make."""
    launches = []

    def run(kernel, *args, grid, warmup, **kwargs):
        arguments = dict(zip(kernel.arg_names, args))
        options = {k: v for k, v in kwargs.items() if k not in kernel.arg_names}
        launches.append(Launch(kernel, arguments | {k: v for k, v in kwargs.items() if k in kernel.arg_names}, options, grid))

    with mock.patch.object(triton.JITFunction, "run", run):
        launch()
    return launches


def _specialise(param, value):
    """(type in the signature, divisible by 16) as Triton's launcher sees the argument; pointers come aligned from torch."""
    if param.is_constexpr or value is None or (type(value) is int and value == 1):
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype], True
    if isinstance(value, float):
        return "fp32", False
    return ("i32" if -(2**31) <= value < 2**31 else "i64"), value % 16 == 0


def compile_launch(launch: Launch, capability: int) -> Binary:
    """capability: 80, 90 or 100."""
    signature, constants, attributes = {}, {}, {}
    for index, param in enumerate(launch.kernel.params):
        value = launch.arguments[param.name]
        signature[param.name], aligned = _specialise(param, value)
        if signature[param.name] == "constexpr":
            constants[(index,)] = value
        elif aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run([_CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"cuobjdump printed no resource line: {usage!r}"
    ptx = built.asm["ptx"]
    matrix = sum(ptx.count(name) for name in _TENSOR_CORE)
    return Binary(launch.kernel.__name__, int(found[1]), int(found[2]), built.metadata.shared, matrix, ptx)
