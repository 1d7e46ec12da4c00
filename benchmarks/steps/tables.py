"""The training steps of a results file, a line a rival, as Markdown."""

from benchmarks.results_file import name_of
from benchmarks.rivals import BASELINES, who_and_layout
from benchmarks.steps.cases import planned

_HEAD = """Each step as a user runs it: what is captured (eager-captured, ganfast on a GPU, max-autotune by its own graphs) replays, the
rest launches kernel by kernel. Floor: FLOPs / this run's matrix rate at the dtype + bytes / its copy rate; the FLOPs are those of all
convolutions and products when discriminators are frozen in the generators' turn, the bytes each one's operands and result once for
forward, data gradient and weight gradient, and the optimizers' seven passes over the parameters. default: eager in float32, contiguous,
Adam's own choice. eager: channels_last (contiguous where the case says so), fused Adam, cudnn.benchmark, bf16 by autocast; eager-frozen:
and discriminators frozen in the generators' turn, as ganfast's are; eager-captured: eager under ganfast.capture. gain: the rival's time
over ganfast's. Launches: kernels on a GPU, operators on a CPU. The oracle saw losses, images and gradients of the first step; on a CPU at
the smaller batch and size of `check` in benchmarks/steps/cases.py."""


def _line(row: dict, name: str, rival: dict) -> str:
    who = who_and_layout(name)[0]
    label = f"{row['case']} b{row['batch']}{'*' if row['noisy'] else ''} | {row['dtype']} | {who}"
    if "failed" in rival:
        return f"| {label} | failed | | | | |"
    ours = next(r["median"] for n, r in row["rivals"].items() if who_and_layout(n)[0] == "ganfast")
    gain = "" if who in ("ganfast", *BASELINES) else f"{rival['median'] / ours:.2f}x"
    peak = "" if rival["peak_bytes"] is None else f"{rival['peak_bytes'] / 2**20:.0f}"
    return f"| {label} | {rival['median'] * 1e3:.2f} | {rival['of_floor']:.2f} | {gain} | {rival['launches']} | {peak} |"


def left_out(rows: list[dict]) -> list[str]:
    """What of the plan for a GPU, the whole of it, this run does not have."""
    there = {name_of(row) for row in rows}
    names = {f"{c.name} b{c.batch} {d}": f"step {c.name} b{c.batch} {d} {c.mode}" for c in planned("cuda") for d in ("fp32", "bf16")}
    return [short for short, name in names.items() if name not in there]


def section(rows: list[dict]) -> list[str]:
    """Lines; none where the run had no steps."""
    steps = [row for row in rows if "floor" in row]
    if not steps:
        return []
    lines = ["", "## Training steps", "", *_HEAD.splitlines(), ""]
    for row in steps:
        line = f"- {row['case']} b{row['batch']} {row['dtype']}: floor {row['floor'] * 1e3:.3f} ms ({row['flops'] / 1e9:.1f} GFLOP,"
        lines.append(f"{line} {row['bytes'] / 1e6:.0f} MB)" + (f"; {row['note']}" if row["note"] else ""))
    lines += ["", "| step | dtype | rival | ms | floors | gain | launches | peak MiB |", "|---|---|---|---:|---:|---:|---:|---:|"]
    lines += [_line(row, name, rival) for row in steps for name, rival in row["rivals"].items()]
    missing = left_out(rows)
    return [*lines, "", f"Not in this run, of {len(planned('cuda')) * 2} planned for a GPU: {', '.join(missing)}." if missing else ""]
