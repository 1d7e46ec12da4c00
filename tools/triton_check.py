"""Compile conv_transpose_act's Triton forward for real layers, without a GPU, and look at its K loops.

For the configurations that the launcher offers a layer, on every architecture: fails on more than one K loop, on operands that go
through registers (ttg.local_load in the loop), on stack, on too much shared memory, on a GEMM without matrix instructions.
Operands straight from shared memory are wanted of the copy engine's kernel, and of the pointer kernel from 64 rows on, where 9.0 and
10.0 have instructions that read them there; smaller tiles run on mma.sync, which takes registers.  A plain load in the K loop
(contiguous x: 2 bytes are too few for an asynchronous copy) is only shown.  Exit: 0 good, 1 a kernel is not, 2 something is missing.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Layer(NamedTuple):
    """A transposed convolution of a published network, as its training or its inference runs it."""

    name: str
    shape: tuple[int, ...]
    c_out: int
    kernel: int
    output_padding: int
    dtype: str
    act: str
    save_z: bool
    partials: bool
    channels_last: bool = True


# Stride 2, padding 1. DCGAN: width 128 up to 64x64 pixels, with partials for its batch norm; StyleGAN2: its last step to 256x256,
# padded to twice the pixels; pix2pix: the U-Net's decoder at batch 1.
LAYERS = [
    Layer("dcgan 4x4", (128, 1024, 4, 4), 512, 4, 0, "bfloat16", "linear", False, True),
    Layer("dcgan 8x8", (128, 512, 8, 8), 256, 4, 0, "bfloat16", "linear", False, True),
    Layer("dcgan 16x16", (128, 256, 16, 16), 128, 4, 0, "bfloat16", "relu", False, True),
    Layer("dcgan 32x32", (128, 128, 32, 32), 64, 4, 0, "float16", "silu", True, False),
    Layer("stylegan2 256", (8, 256, 128, 128), 128, 3, 1, "bfloat16", "leaky_relu", False, False),
    Layer("pix2pix 16x16", (1, 512, 16, 16), 256, 4, 0, "bfloat16", "relu", False, False),
    Layer("dcgan 8x8 tf32", (128, 512, 8, 8), 256, 4, 0, "float32", "linear", False, True),
    Layer("dcgan 8x8 nchw", (128, 512, 8, 8), 256, 4, 0, "bfloat16", "linear", False, True, False),
]


class Row(NamedTuple):
    """A compiled configuration, and what is wrong with it."""

    layer: str
    config: str
    arch: int
    cells: tuple
    faults: list[str]


def examine(name: str, config: str, launch, arch: int) -> Row:
    """Compile one recorded launch."""
    from tests import triton_aot

    binary = triton_aot.compile_launch(launch, arch)
    copied = config.startswith("tma")
    straight = arch >= 90 and (copied or launch.arguments["BLOCK_M"] >= 64)
    faults = triton_aot.problems(binary, True) + triton_aot.loop_problems(binary, straight)
    if copied and not binary.tma:
        faults.append(f"{binary.name}: no copy-engine instruction")
    # 9.0 and 10.0 have 228 KiB a multiprocessor, of which a block takes 1 KiB more than it asks for, and 64 Ki registers.
    threads = 32 * launch.options["num_warps"]
    blocks = min(228 * 1024 // (binary.shared + 1024), 65536 // (-(-binary.registers // 8) * 8 * threads))
    cells = (binary.registers, binary.stack, binary.shared, binary.tensor_core, binary.tma)
    cells += (binary.local_loads, binary.plain_loads, binary.k_loops, blocks)
    return Row(name, config, arch, cells, [f"{name}, {config}, sm_{arch}: {fault}" for fault in faults])


def offers(layer: Layer, arch: int) -> list[tuple[str, object]]:
    """(configuration, recorded launch): all of the copy engine's that the layer is offered, and the first of the pointer kernel's."""
    import torch

    from ganfast.ops.conv_transpose_act import triton
    from tests import triton_aot

    fmt = torch.channels_last if layer.channels_last else torch.contiguous_format
    dtype = getattr(torch, layer.dtype)
    x = torch.empty(layer.shape, dtype=dtype, device="meta").contiguous(memory_format=fmt)
    weight = torch.empty((layer.shape[1], layer.c_out, layer.kernel, layer.kernel), dtype=dtype, device="meta").contiguous(
        memory_format=fmt
    )
    bias = torch.empty(layer.c_out, device="meta")
    geometry = ([2, 2], [1, 1], [layer.output_padding] * 2, [1, 1], 1)
    last, capability = layer.channels_last, (arch // 10, arch % 10)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    names = triton.configurations(x, weight, *geometry, last, layer.save_z, capability)
    names = [name for name in names if name.startswith("tma")] + [name for name in names if name.startswith("ptr")][:1]
    found = []
    for name in names:
        (launch,) = triton_aot.record(
            lambda name=name: triton.conv_transpose_act_fwd_triton(
                x, weight, bias, None, *geometry, layer.act, 0.2, last, layer.save_z, layer.partials, name, capability
            )
        )
        found.append((name, launch))
    return found


def check(job: tuple[Layer, int]) -> list[Row]:
    layer, arch = job
    rows = [examine(layer.name, config, launch, arch) for config, launch in offers(layer, arch)]
    if not rows:
        rows = [Row(layer.name, "", arch, (), [f"{layer.name}, sm_{arch}: nothing is offered"])]
    elif layer.channels_last and arch >= 90 and not rows[0].config.startswith("tma"):
        rows[0].faults.append(f"{layer.name}, sm_{arch}: the copy engine's kernel is not offered first")
    return rows


def missing(wanted: str | None) -> str | None:
    try:
        import triton

        from tests import triton_aot
    except ImportError as error:
        return f"{error}"
    if wanted and triton.__version__ != wanted:
        return f"triton {wanted} was asked for, {triton.__version__} is what Python finds ({triton.__file__})"
    return None if Path(triton_aot.CUOBJDUMP).is_file() else f"no cuobjdump at {triton_aot.CUOBJDUMP}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, action="append", metavar="90", help="compute capability without its dot; default 90 and 100")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--triton", metavar="3.6.0", help="fail unless this is the version that Python finds")
    parser.add_argument("--layer", action="append", choices=[layer.name for layer in LAYERS], help="default: all")
    args = parser.parse_args(argv)
    if why := missing(args.triton):
        print(f"triton-check: {why}")
        return 2
    import triton

    jobs = [(layer, arch) for layer in LAYERS if layer.name in (args.layer or [layer.name]) for arch in args.arch or [90, 100]]
    with ProcessPoolExecutor(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        rows = [row for found in (pool.map if pool else map)(check, jobs) for row in found]
    print(f"triton {triton.__version__}; local_load, plain load: of the K loop's operands, into registers; blocks: a multiprocessor's")
    print(f"{'layer':15} {'config':26} {'arch':>6}  regs stack  shared  mma  tma local_load plain K-loops blocks")
    for row in rows:
        cells = "{:>5} {:>5} {:>7} {:>4} {:>4} {:>10} {:>5} {:>7} {:>6}".format(*row.cells) if row.cells else ""
        print(f"{row.layer:15} {row.config:26} {'sm_' + str(row.arch):>6} {cells}")
    faults = [fault for row in rows for fault in row.faults]
    print("\n".join(faults) if faults else f"triton-check: {len(rows)} kernels, one K loop each, no stack, operands as wanted")
    return 1 if faults or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
