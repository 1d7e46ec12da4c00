"""The script of docs/first-speedup.md, edit by edit: python -m benchmarks.first_speedup [--width 32] [--batch 64] [--rounds 9] [--out FILE]

`first_speedup_plain.py` is plain PyTorch. Each of EDITS changes a few words of it and keeps the edits before; the scripts that come of it
take turns in one process, on one batch. bfloat16 is left out, with a word, where the processor has no units for it.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.machine import commit, device_name, versions
from ganfast._place import has_bf16_units
from ganfast._timing import interleaved

PLAIN = Path(__file__).with_name("first_speedup_plain.py")


class Edit(NamedTuple):
    """why: what it does, for the page; changes: pairs of old and new words, each old one in one place."""

    name: str
    why: str
    changes: tuple[tuple[str, str], ...]


_UNITS = "  # leave out on a CPU without AVX512-BF16 or AMX"
_AUTOCAST = f"    with torch.autocast(device, torch.bfloat16):{_UNITS}\n"
_FORWARD = """    fake = generator(torch.randn(len(real), 100, 1, 1, device=device))
    loss_d = loss(discriminator(real)) + loss(-discriminator(fake.detach()))
"""
_FAKE = "    loss_g = loss(discriminator(fake))\n"
EDITS = (
    Edit(
        "autocast",
        "convolutions in bfloat16; weights, optimizers and losses stay float32",
        ((_FORWARD, _AUTOCAST + _FORWARD.replace("    ", "        ")), (_FAKE, f"{_AUTOCAST}    {_FAKE}")),
    ),
    Edit(
        "channels_last",
        "weights and images in the memory format in which convolutions are fastest; the generator's images follow its weights",
        (
            ("nn.Tanh()).to(device)", "nn.Tanh()).to(device, memory_format=torch.channels_last)"),
            ("8 * w, 1, 4)).to(device)", "8 * w, 1, 4)).to(device, memory_format=torch.channels_last)"),
            ("def step(real):\n", "def step(real):\n    real = real.contiguous(memory_format=torch.channels_last)\n"),
        ),
    ),
    Edit(
        "accelerate",
        "ganfast's kernels for convolution, norm and activation as one, wherever they are measured to be faster than torch's own",
        (
            ("from torch import nn\n", "from torch import nn\n\nimport ganfast\n"),
            ("opt_g, opt_d =", "ganfast.accelerate(generator), ganfast.accelerate(discriminator)\nopt_g, opt_d ="),
        ),
    ),
    Edit(
        "fused losses",
        "a loss and its gradient in one pass each, in float32",
        (
            ("import torch.nn.functional as F\n", ""),
            ("import ganfast\n", "import ganfast\nimport ganfast.functional as GF\n"),
            ('loss = lambda logits: F.softplus(-logits.float()).mean()  # -log sigmoid(logits): cross entropy with the label "real"\n', ""),
            (
                "loss(discriminator(real)) + loss(-discriminator(fake.detach()))",
                "GF.discriminator_loss(discriminator(real), discriminator(fake.detach()))",
            ),
            ("loss(discriminator(fake))", "GF.generator_loss(discriminator(fake))"),
        ),
    ),
    Edit(
        "frozen discriminator",
        "no gradients of the discriminator's weights in the generator's turn, where nobody uses them; plain PyTorch can do this too",
        (("loss_g.backward()", "loss_g.backward(inputs=list(generator.parameters()))"),),
    ),
)


def script(names: tuple[str, ...] = ()) -> str:
    """The plain script with the edits of these names, without its docstring."""
    text = PLAIN.read_text().partition('"""\n\n')[2]
    for edit in EDITS:
        for old, new in edit.changes if edit.name in names else ():
            if text.count(old) != 1:
                raise ValueError(f"{edit.name}: {text.count(old)} places for {old!r}, wants one")
            text = text.replace(old, new)
    return text


def made(names: tuple[str, ...], width: int, batch: int) -> tuple[Callable, tuple[float, float]]:
    """(a script's step, the losses of the one step that it makes itself, its first)"""
    source = script(names).replace("w, batch, device = 32, 64,", f"w, batch, device = {width}, {batch},")
    space: dict = {}
    torch.manual_seed(0)
    exec(compile(source, f"<{' + '.join(names) or 'plain'}>", "exec"), space)
    return space["step"], tuple(loss.item() for loss in space["losses"])


def stages(bf16: bool) -> list[tuple[str, ...]]:
    """The edits of each script, one more from one to the next."""
    names = [edit.name for edit in EDITS if bf16 or edit.name != "autocast"]
    return [tuple(names[:i]) for i in range(len(names) + 1)]


def measure(width: int, batch: int, rounds: int) -> dict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16, real = has_bf16_units(device), torch.rand(batch, 3, 64, 64, device=device) * 2 - 1
    ways, rows = {}, []
    for names in stages(bf16):
        began = time.perf_counter()
        step, _ = made(names, width, batch)
        ways[names] = lambda step=step: step(real)
        rows.append({"edit": names[-1] if names else "plain PyTorch", "first_seconds": time.perf_counter() - began})
    for row, timing in zip(rows, interleaved(ways, rounds).values()):
        row |= {"seconds": timing.median, "spread": timing.spread}
    about = {"commit": commit(), "device": device_name(), "versions": versions(), "date": time.strftime("%Y-%m-%d")}
    return about | {"width": width, "batch": batch, "rounds": rounds, "bf16_units": bf16, "rows": rows}


def table(found: dict) -> str:
    """Markdown."""
    plain, before = found["rows"][0]["seconds"], found["rows"][0]["seconds"]
    lines = ["| edit | a step, ms | by this edit | all in all | first step, s |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in found["rows"]:
        now = row["seconds"]
        gains = ("", "") if row is found["rows"][0] else (f"{before / now:.2f}x", f"{plain / now:.2f}x")
        lines.append(f"| {row['edit']} | {now * 1e3:.4g} | {gains[0]} | {gains[1]} | {row['first_seconds']:.1f} |")
        before = now
    if not found["bf16_units"]:
        lines.insert(3, "| autocast | not measured: this processor has no units for bfloat16 | | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_speedup", description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=None)
    wanted = parser.parse_args()
    found = measure(wanted.width, wanted.batch, wanted.rounds)
    print(f"DCGAN-64, width {wanted.width}, batch {wanted.batch}; {found['device']}; torch {found['versions']['torch']}\n\n{table(found)}")
    if wanted.out:
        wanted.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
