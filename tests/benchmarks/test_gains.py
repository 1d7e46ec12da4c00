"""The README's table of gains: which rows it takes, from which file, and that it says what was not measured and what is slower."""

from benchmarks.gains import gains, newest_of_each
from tests.benchmarks.rows import results, row

EAGER = {"eager-nchw": 9.0, "eager-frozen-nchw": 2.4, "eager-frozen-nhwc": 3.0, "ganfast-nchw": 9.0, "ganfast-nhwc": 2.0}  # 1.2x


def network(case="g", mode="train", dtype="fp32", size="trained", ratio=1.0, **times):
    rivals = {"eager-nchw": ratio, "ganfast-nchw": 1.0} | {f"{name}-nhwc": t for name, t in times.items()}
    return row(rivals, op="accelerate", case=case, mode=mode, dtype=dtype, size=size)


def table(*suites):
    lines = gains(list(suites)).splitlines()
    return [line for line in lines if line.startswith("|")][2:]


def line_of(lines, *words):
    (found,) = [line for line in lines if all(word in line for word in words)]
    return found


def test_each_line_has_its_rows_and_no_others():
    step = row(EAGER, op="step", case="dcgan64", batch=64, mode="D + G update")
    others = [
        row({"eager": 9.0, "ganfast": 1.0}, op="step", case="dcgan64", batch=32),
        row({"eager": 9.0, "ganfast": 1.0}, op="step", case="p"),
    ]
    layers = [row({"eager": 1.0, "ganfast": 1.0}), row({"eager": 4.0, "ganfast": 1.0}, op="bias_act")]
    others += [row({"eager": 99.0, "ganfast": 1.0}, op=op, mode=mode) for op, mode in (("bias_act", "fwd"), ("gather_images", "fwd+bwd"))]
    networks = [network("a", ratio=1.0), network("b", ratio=4.0, compile=3.0), network("a", "inference", ratio=1.5)]
    lines = table(results(step, *others, *layers, *networks))
    assert "| fp32 | DCGAN-64 step, drop-in + fused losses, batch 64 | 1.20x | not measured |" in line_of(lines, "DCGAN-64", "fp32")
    assert "| 2 fused layers, forward + backward | 2.00x / not measured | not measured |" in line_of(lines, "fused layers", "fp32")
    found = line_of(lines, "networks, ", "fp32")
    assert found.endswith("| 2 networks, train / inference | 2.00x / 1.50x, median 2.50x / 1.50x | 3.00x (of 1) / not measured |")
    assert all("| Stub 9000 |" in line for line in lines if "fp32" in line) and len(lines) == 7


def test_what_was_not_measured_says_so_and_a_gpu_stands_in_a_line_of_its_own():
    lines = table(results(row()))
    assert line_of(lines, "DCGAN-64", "bf16").endswith("| not measured | not measured |")
    assert line_of(lines, "networks, ", "fp32").endswith("| not measured | not measured |")
    assert "not measured yet" in line_of(lines, "| GPU |") and "x |" not in line_of(lines, "| GPU |")
    assert not [line for line in lines if "slowest" in line] and len(lines) == 6


def test_the_slowest_network_of_any_size_is_shown():
    networks = [network("good", ratio=2.0), network("bad", size="small", ratio=0.5), network("bad", "inference", "bf16", ratio=0.7)]
    found = line_of(table(results(*networks)), "slowest")
    assert "| fp32 | slowest of 3 rows: bad, train | 0.50x | not measured |" in found


def test_each_line_is_of_the_newest_file_that_has_its_rows_and_of_its_kind_of_device():
    old = results(row(device="Old"), network("a", ratio=3.0), device="Old")
    new = results(network("a", ratio=1.1), device="New")
    gpu = results(row(EAGER, op="step", case="dcgan64", batch=128, dtype="bf16"), network("z", ratio=0.1), kind="cuda", device="H200")
    lines = table(gpu, new, old)
    assert "| New | fp32 |" in line_of(lines, "networks, ", "fp32")
    assert "1.10x" in line_of(lines, "networks, ", "fp32") and "| Old |" in line_of(lines, "fused layers", "fp32")
    assert line_of(lines, "H200") == "| H200 | bf16 | DCGAN-64 step, drop-in + fused losses, batch 128 | 1.20x | not measured |"
    assert "1.10x" in line_of(lines, "slowest") and len(lines) == 7


def test_the_file_with_most_networks_counts_and_the_slowest_of_all_devices():
    many = results(
        *(network(case, ratio=2.0) for case in "ab"), network("c", "inference", ratio=0.4), device="Intel(R) Xeon(R) Processor, 2 threads"
    )
    few = results(network("a", ratio=1.1), device="New")
    lines = table(few, many)
    assert "| Xeon | fp32 |" in line_of(lines, "networks, ", "fp32") and "| 0.40x |" in line_of(lines, "slowest of 4 rows")
    older = results(network("a", ratio=0.1), device="New")  # of a device that has newer ones
    assert "| 0.40x |" in line_of(table(few, many, older), "slowest of 4 rows")


def test_rows_that_are_measured_anew_take_the_place_of_those_alone():
    old, new = results(network("a", ratio=0.3), network("b", ratio=0.4)), results(network("a", ratio=2.0))
    (pairs,) = newest_of_each([new, old], lambda row: True).values()
    assert [(row["case"], of is new) for row, of in pairs] == [("a", True), ("b", False)]
    assert "| 0.40x |" in line_of(table(new, old), "slowest of 2 rows")
