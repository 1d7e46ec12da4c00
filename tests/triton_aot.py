"""Compiles, without a GPU, exactly what the Triton launchers would launch: a launcher runs on meta tensors while a recorder stands
where Triton would launch, and each recorded launch is compiled for an architecture with the specialisations Triton would choose.
Shared by the tests and tools/triton_check.py; works with Triton 3.6 and newer."""

import importlib
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
from triton.tools.tensor_descriptor import TensorDescriptor

CUOBJDUMP = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
_TYPES = {
    torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64", torch.uint8: "u8", torch.int32: "i32",
    torch.int64: "i64",
}  # fmt: skip
SHARED_LIMIT = 99 * 1024  # a block's on 8.6, 8.9 and 12.0
SHARED_LIMIT_TMA = 227 * 1024  # on 9.0 and 10.0, where the kernels that the copy engine feeds run
_TENSOR_CORE = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")
_LOOP = re.compile(r"\bscf\.(for|while)\b")
_DOT = re.compile(r"\b(tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma)\b")


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
    tma: int  # the copy engine's instructions there, loads and stores
    k_loops: int  # loops with a matrix product in them, each level of a nest counted
    local_loads: int  # in those loops: loads from shared memory into registers,
    plain_loads: int  # and from device memory into registers, where a copy to shared memory could be asynchronous
    ptx: str
    cubin: bytes


def k_loops(ttgir: str) -> tuple[int, int, int]:
    """Of a kernel's GPU IR: the loops that hold a matrix product, directly or in a loop inside; inside the outermost of them, loads
    from shared memory to registers, and from device memory to registers."""
    open_blocks, loops = [], []  # a loop is [has a product, both kinds of loads, stands inside another]; any other block None
    for line in ttgir.splitlines():
        text = re.sub(r'"[^"]*"', "", line)
        for loop in (block for block in open_blocks if block):
            loop[0] |= bool(_DOT.search(text))
            loop[1] += "ttg.local_load" in text
            loop[2] += "tt.load " in text
        starts = bool(_LOOP.search(text)) or "} do {" in text  # the latter: the body of a while
        for position, character in enumerate(text):
            if character == "{":
                opens_loop = starts and "}" not in text[position:]
                open_blocks.append([False, 0, 0, any(open_blocks)] if opens_loop else None)
            elif character == "}" and (closed := open_blocks.pop()):
                loops.append(closed)
    with_product = [loop for loop in loops if loop[0]]
    outer = [loop for loop in with_product if not loop[3]]
    return len(with_product), sum(loop[1] for loop in outer), sum(loop[2] for loop in outer)


def loop_problems(binary: Binary, straight: bool) -> list[str]:
    """What is wrong with a GEMM's loop; straight: its operands should reach the tensor cores from shared memory."""
    found = []
    if binary.k_loops != 1:
        found.append(f"{binary.name}: {binary.k_loops} K loops, wants one: each level of a nest drains the pipeline")
    if straight and binary.local_loads:
        found.append(f"{binary.name}: {binary.local_loads} ttg.local_load in the K loop: operands go through registers")
    return found


def problems(binary: Binary, tensor_core: bool, stack: int = 0) -> list[str]:
    """What is wrong with it: registers spilled, more shared memory than the smallest GPU it runs on has, no matrix instruction."""
    found = []
    limit = SHARED_LIMIT_TMA if binary.tma else SHARED_LIMIT
    if binary.stack > stack:
        found.append(f"{binary.name}: {binary.stack} bytes of stack a thread, allowed {stack} ({binary.registers} registers)")
    if binary.shared > limit:
        found.append(f"{binary.name}: {binary.shared} bytes of shared memory, the limit is {limit}")
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
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_TYPES[value.base.dtype]}{list(value.block_shape)}>", False
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
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, f"cuobjdump printed no resource line: {usage!r}"
    ptx = built.asm["ptx"]
    matrix = sum(ptx.count(name) for name in _TENSOR_CORE)
    return Binary(
        launch.kernel.__name__, int(found[1]), int(found[2]), built.metadata.shared, matrix, ptx.count("cp.async.bulk.tensor"),
        *k_loops(built.asm["ttgir"]), ptx, built.asm["cubin"],
    )  # fmt: skip


def op(name):
    """The op's Triton module."""
    return importlib.import_module(f"ganfast.ops.{name}.triton")


def meta(*shape, dtype=torch.float32, channels_last=False):
    """A tensor of no memory, for a launcher that is recorded."""
    x = torch.empty(shape, dtype=dtype, device="meta")
    if not channels_last:
        return x
    return x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
