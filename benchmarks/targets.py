"""What the project set out to reach, printed beside what was measured; a goal is never a reason to leave a row out."""

import math
from typing import NamedTuple

from benchmarks.ratios import added_overhead, against_channels_last, best, geometric_mean, groups, known, ratio, surely_below
from benchmarks.rivals import DEFAULT

LAYERS = ("conv_transpose_act", "upsample_conv_act")
CPU_INFERENCE = {"fp32": 1.4, "bf16": 1.5}
CPU_LAYERS = {"fp32": 1.3, "bf16": 1.8}
CPU_LEAST = 0.95
CPU_NORMS = {"group_norm_act": 2.0, "modulated norm": 2.0}
CPU_RESAMPLING = {"upfirdn": 2.0, "filtered_act": 3.0, "modulated_conv": 1.2}
CPU_RESAMPLING_PEAK = 0.33  # of eager's, of filtered_act
BIGVGAN, CPU_BIGVGAN, GPU_BIGVGAN = "bigvgan-filters-g", 1.5, 2.9  # whole generators; on a GPU inference, the published gain on one
CPU_RESIDUAL = 1.2  # of the pass that adds it
CPU_DECODER = {"fp32": 1.05, "bf16": 1.3}  # a whole VQGAN decoder for 64x64 images
CPU_BLOCK = 1.2
FAMILY_LEAST = 0.97
CPU_FAMILIES = {"train": 1.15, "inference": 1.10}
CPU_CALL_US = 60.0
FIRST_CALL, FIRST_CALL_LAYERS = 5.0, 40  # seconds
CPU_STEP = {"fp32": 1.2, "bf16": 1.8}
CPU_STEP_OVER_DEFAULT = 3.0
CPU_STEPS = {("stylegan2-64", 8): 1.5, ("vocoder", 4): 1.3}  # in float32
OVERHEAD_US = 25.0
GPU_LAYERS, GPU_MAX_AUTOTUNE, GPU_LEAST = 1.5, 1.2, 1.0
GPU_MATRIX, GPU_MATRIX_FLOPS, GPU_MATRIX_C_IN = 75.0, 50e9, 256
GPU_COPY = 85.0
GPU_SMALL_LOSS = 6e-6
GPU_STEP_FLOORS = 2.5
GPU_STEP_OVER = {
    "eager-captured": ("best eager under ganfast.capture", 1.2),
    "max-autotune": ("max-autotune with its graphs", 1.2),
    "eager": ("best eager, not captured", 3.0),
}
GPU_STEP_OVER_DEFAULT, GPU_SMALL_STEP_OVER_DEFAULT, GPU_PIX2PIX_OVER_DEFAULT = 6.0, 4.0, 2.5
GPU_PENALTY = 2.0  # plain steps
CPU_PENALTY = {"r3gan-d": 2.1}  # plain steps; elsewhere what it costs eager
GPU_PEAK = 1.0  # of best eager's


class Finding(NamedTuple):
    """`value` against `goal`; `met` is None where nothing was measured."""

    text: str
    value: str
    goal: str
    met: bool | None


def _at_least(text: str, values: list[float], goal: float, unit: str = "x", of=geometric_mean) -> Finding:
    if not values:
        return Finding(text.removesuffix(", geometric mean of 0"), "not measured", f"{goal:g}{unit}", None)
    value = of(values)
    return Finding(text, f"{value:.2f}{unit}" if unit == "x" else f"{value:.0f}{unit}", f"{goal:g}{unit}", value >= goal)


def _at_most(text: str, values: list[float], goal: float, unit: str) -> Finding:
    """The largest of the values."""
    if not values:
        return Finding(text, "not measured", f"{goal:g} {unit}", None)
    return Finding(text, f"{max(values):.2f} {unit}", f"{goal:g} {unit}", max(values) <= goal)


def overhead(rows: list[dict]) -> list[Finding]:
    """What a call of ganfast costs beyond the same in plain torch, on tiny tensors."""
    found = []
    for (op, mode), group in groups(rows, "op", "mode").items():
        if (costs := added_overhead(group)) is None:
            continue
        plain, ours = costs
        value = f"{ours - plain:+.0f} us ({plain:.0f} plain, {ours:.0f} ganfast)"
        found.append(Finding(f"call overhead, {op} {mode}", value, f"{OVERHEAD_US:g} us", ours - plain <= OVERHEAD_US))
    return found


def families(rows: list[dict]) -> list[Finding]:
    """Whole networks: none slower beyond doubt, at whatever size; the means are of the size that people train."""
    networks = [r for r in rows if r["op"] == "accelerate"]
    judged = [r for r in networks if r.get("paired")]
    slow = [f"{r['case']} {r['dtype']} {r['mode']}" for r in judged if surely_below(r, FAMILY_LEAST)]
    value = f"{len(slow)} of {len(judged)}" + (f": {', '.join(slow)}" if slow else "")
    text = f"accelerated families' rows whose interval lies wholly below {FAMILY_LEAST:g}x of eager, like for like"
    found = [Finding(text, value if judged else "not measured", "0", not slow if judged else None)]
    for mode, goal in CPU_FAMILIES.items():
        chosen = [r for r in networks if (r["dtype"], r["mode"], r.get("size")) == ("fp32", mode, "trained")]
        found.append(_at_least(f"accelerated families {mode} fp32, geometric mean of {len(chosen)}", known(chosen, ratio), goal))
    first = [r["first_call"]["seconds"] for r in networks if r.get("layers", math.inf) <= FIRST_CALL_LAYERS]
    text = f"first call of an accelerated family of up to {FIRST_CALL_LAYERS} layers, longest"
    return [*found, _at_most(text, first, FIRST_CALL, "s")]


def _peaks(rows: list[dict]) -> list[float]:
    """ganfast's peak memory over best eager's."""
    pairs = [(best(r, "ganfast"), best(r, "eager")) for r in rows]
    return [ours[1]["peak_bytes"] / eager[1]["peak_bytes"] for ours, eager in pairs if eager]


def _whole(rows: list[dict], mode: str) -> list[float]:
    return known([r for r in rows if (r["op"], r["case"], r["mode"], r["dtype"]) == ("accelerate", BIGVGAN, mode, "fp32")], ratio)


def resampling(rows: list[dict]) -> list[Finding]:
    """The ops of StyleGAN's family; on a CPU the faster of the forms in which eager has each."""
    found, judged = [], []
    for op, goal in CPU_RESAMPLING.items():
        chosen = [r for r in rows if (r["op"], r["mode"]) == (op, "fwd+bwd")]
        found.append(_at_least(f"{op} fwd+bwd, geometric mean of {len(chosen)}", known(chosen, ratio), goal))
        judged += [r for r in rows if r["op"] == op and r.get("paired")]
    slow = [f"{r['op']} {r['case']} {r['dtype']} {r['mode']}" for r in judged if surely_below(r, FAMILY_LEAST)]
    value = f"{len(slow)} of {len(judged)}" + (f": {', '.join(slow)}" if slow else "")
    text = f"their rows whose interval lies wholly below {FAMILY_LEAST:g}x of eager, like for like"
    found.append(Finding(text, value if judged else "not measured", "0", not slow if judged else None))
    peaks = _peaks([r for r in rows if (r["op"], r["mode"]) == ("filtered_act", "fwd+bwd")])
    found.append(_at_most("peak memory of filtered_act fwd+bwd, largest", peaks, CPU_RESAMPLING_PEAK, "of eager's"))
    return [*found, _at_least("accelerated BigVGAN-base generator train fp32", _whole(rows, "train"), CPU_BIGVGAN)]


def on_cpu(rows: list[dict]) -> list[Finding]:
    found = []
    for dtype, goal in CPU_INFERENCE.items():
        chosen = [r for r in rows if r["op"] == "generator" and r["dtype"] == dtype]
        found.append(_at_least(f"generator inference {dtype}", known(chosen, ratio), goal))
    for dtype, goal in CPU_LAYERS.items():
        chosen = [r for r in rows if r["op"] in LAYERS and r["dtype"] == dtype and r["mode"] == "fwd+bwd"]
        found.append(_at_least(f"layers fwd+bwd {dtype}, geometric mean of {len(chosen)}", known(chosen, ratio), goal))
        found.append(_at_least(f"layers fwd+bwd {dtype}, slowest", known(chosen, ratio), CPU_LEAST, of=min))
        chosen = [r for r in rows if (r["op"], r["dtype"], r["mode"]) == ("r3gan_block", dtype, "fwd+bwd")]
        found.append(_at_least(f"R3GAN's residual block fwd+bwd {dtype}, slowest", known(chosen, ratio), CPU_BLOCK, of=min))
    for op, goal in CPU_NORMS.items():
        chosen = [r for r in rows if (r["op"], r["mode"]) == (op, "fwd+bwd")]
        found.append(_at_least(f"{op} fwd+bwd, geometric mean of {len(chosen)}", known(chosen, ratio), goal))
    found += resampling(rows)
    sums = [r for r in rows if (r["op"], r["mode"]) == ("bias_act", "fwd+bwd") and "residual" in r["case"]]
    found.append(_at_least(f"bias_act with a residual fwd+bwd, geometric mean of {len(sums)}", known(sums, ratio), CPU_RESIDUAL))
    for dtype, goal in CPU_DECODER.items():
        chosen = [r for r in rows if (r["op"], r["case"], r["dtype"], r["mode"]) == ("accelerate", "vqgan-decoder", dtype, "train")]
        found.append(_at_least(f"accelerated VQGAN decoder for 64x64 train {dtype}", known(chosen, ratio), goal))
    found += families(rows)
    calls = [(best(r, "ganfast"), best(r, "eager")) for r in rows if r["op"] == "call"]
    added = [(ours[1]["median"] - eager[1]["median"]) * 1e6 for ours, eager in calls if eager]
    found.append(_at_most("what acceleration adds to a call of DCGAN-64, width 8, batch 1, one thread", added, CPU_CALL_US, "us"))
    for dtype, goal in CPU_STEP.items():
        text = f"accelerated DCGAN-64 step, batch 64, {dtype}, like for like"
        found.append(_at_least(text, known(_steps(rows, "dcgan64", 64, dtype), ratio), goal))
    over_default = known(_steps(rows, "dcgan64", 64, "bf16"), lambda r: ratio(r, DEFAULT))
    found.append(_at_least("the same step in bf16 over eager's default (second column)", over_default, CPU_STEP_OVER_DEFAULT))
    for (case, batch), goal in CPU_STEPS.items():
        found.append(_at_least(f"accelerated {case} step, batch {batch}, fp32", known(_steps(rows, case, batch, "fp32"), ratio), goal))
    return found


def _steps(rows: list[dict], case: str, batch: int, dtype: str | None = None) -> list[dict]:
    return [r for r in rows if (r["op"], r["case"], r["batch"]) == ("step", case, batch) and dtype in (None, r["dtype"])]


def gpu_steps(rows: list[dict]) -> list[Finding]:
    """Of both dtypes the worse one; over eager's default ganfast in bf16, as that is what a user changes to."""
    main, captured = _steps(rows, "dcgan64", 128), "captured accelerated DCGAN-64 step, batch 128,"
    floors = [best(r, "ganfast")[1]["of_floor"] for r in main]
    found = [_at_most(f"{captured} in its floor", floors, GPU_STEP_FLOORS, "floors")]
    for who, (words, goal) in GPU_STEP_OVER.items():
        found.append(_at_least(f"{captured} over {words}", known(main, lambda r, who=who: ratio(r, who)), goal, of=min))
    small = [r for batch in (1, 16) for r in _steps(rows, "dcgan64", batch, "bf16")]
    for text, chosen, goal in (
        (f"{captured} in bf16 over eager's default", _steps(rows, "dcgan64", 128, "bf16"), GPU_STEP_OVER_DEFAULT),
        ("the same at batch 1 and 16, slowest", small, GPU_SMALL_STEP_OVER_DEFAULT),
        ("pix2pix step, batch 1, in bf16 over eager's default", _steps(rows, "pix2pix", 1, "bf16"), GPU_PIX2PIX_OVER_DEFAULT),
    ):
        found.append(_at_least(text, known(chosen, lambda r: ratio(r, DEFAULT)), goal, of=min))
    peaks = _peaks([r for r in rows if r["op"] == "step"])
    return [*found, _at_most("peak memory of a step, largest", peaks, GPU_PEAK, "of eager's")]


def _percent(rows: list[dict], key: str) -> list[float]:
    return [rival[1][key] for row in rows if (rival := best(row, "ganfast")) and key in rival[1]]


def on_gpu(rows: list[dict]) -> list[Finding]:
    layers = [r for r in rows if r["op"] == "conv_transpose_act"]
    heavy = [r for r in layers if (r["flops"] or 0) >= GPU_MATRIX_FLOPS and r["c_in"] >= GPU_MATRIX_C_IN]
    # A tensor that the last-level cache holds is read faster than any copy: such rows would flatter.
    streaming = [r for r in rows if (r["op"] in ("batch_norm_act", "gather_images") or r.get("large")) and not r["fits_cache"]]
    small = [best(r, "ganfast")[1] for r in rows if r["case"] == "logits-128"]
    worst = max((r["median"] for r in small), default=0.0)
    return [
        _at_least("conv_transpose_act over eager channels_last, geometric mean", known(layers, against_channels_last), GPU_LAYERS),
        _at_least("conv_transpose_act over max-autotune", known(layers, lambda r: ratio(r, "max-autotune")), GPU_MAX_AUTOTUNE),
        _at_least("accelerated BigVGAN-base generator inference fp32", _whole(rows, "inference"), GPU_BIGVGAN),
        _at_least("conv_transpose_act, slowest", known(layers, against_channels_last), GPU_LEAST, of=min),
        _at_least("matrix rate from 50 GFLOP and Cin >= 256, lowest", _percent(heavy, "percent_matrix"), GPU_MATRIX, " %", min),
        _at_least("copy bandwidth of norms, batches and large losses, lowest", _percent(streaming, "percent_copy"), GPU_COPY, " %", min),
        Finding("loss of 128 logits with gradients", f"{worst * 1e6:.1f} us" if small else "not measured", f"{GPU_SMALL_LOSS * 1e6:g} us",
                worst < GPU_SMALL_LOSS if small else None),
    ]  # fmt: skip


def penalties(rows: list[dict], kind: str) -> list[Finding]:
    """What a gradient penalty makes a step cost, in steps without one that were timed in the same rounds; on a CPU beside what it
    costs eager."""
    found = []
    for row in rows:
        costs = [best(row, who)[1]["median"] / best(row, f"plain-{who}")[1]["median"] for who in ("eager", "ganfast")
                 if best(row, who) and best(row, f"plain-{who}")]  # fmt: skip
        if len(costs) == 2:
            goal, words = (GPU_PENALTY, f"{GPU_PENALTY:g} plain steps") if kind == "cuda" else (costs[0], f"eager's {costs[0]:.2f}")
            if kind != "cuda" and (least := CPU_PENALTY.get(row["case"])):
                goal, words = least, f"{least:g} plain steps (eager's {costs[0]:.2f})"
            text = f"a step of {row['case']} with its penalty, {row['dtype']}"
            found.append(Finding(text, f"{costs[1]:.2f} plain steps", words, costs[1] <= goal))
    return found


def findings(results: dict) -> list[Finding]:
    rows = results["rows"]
    kind = results["kind"]
    return (on_gpu(rows) + gpu_steps(rows) if kind == "cuda" else on_cpu(rows)) + penalties(rows, kind) + overhead(rows)
