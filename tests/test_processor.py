"""An extension for another processor is not loaded: what its file says is compared with /proc/cpuinfo first."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ganfast
import ganfast.functional as GF
from ganfast import _native, _processor, _tell, cli
from ganfast.ops.conv_transpose_act import op as conv_op

ROOT = Path(__file__).parents[1]
V3 = "pni ssse3 sse4_1 sse4_2 popcnt lahf_lm movbe abm bmi1 bmi2 avx avx2 f16c fma cx16"
V4 = V3 + " avx512f avx512cd avx512bw avx512dq avx512vl"
HEADER = ROOT / "csrc" / "common" / "built_for.h"


def forget() -> None:
    _native._load.cache_clear()
    conv_op._plans.clear()
    _tell._told.clear()


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """processor(flags): /proc/cpuinfo lists these."""

    def has(flags: str, name: str = "flags") -> None:
        core = f"processor\t: 0\nmodel name\t: planted\n{name}\t\t: {flags}\nbugs\t\t: avx512f avx512vl\n\n"
        (tmp_path / "cpuinfo").write_text(core * 2)
        monkeypatch.setattr(_processor, "CPUINFO", tmp_path / "cpuinfo")

    return has


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """extension(record): ganfast._C is a Python file with that text in it, which says when it is loaded."""
    folder = tmp_path / "extension"
    folder.mkdir()
    monkeypatch.setattr(ganfast, "__path__", [str(folder)])
    monkeypatch.delattr(ganfast, "_C", raising=False)
    loaded = []
    monkeypatch.setattr(sys, "planted_loads", loaded, raising=False)

    def holds(record: str) -> list:
        info = {"torch": torch.__version__, "cuda": False, "archs": "", "cpu": "planted"}
        (folder / "_C.py").write_text(f"{record!r}\nimport sys\nsys.planted_loads.append(1)\nbuild_info = lambda: {info!r}\n")
        monkeypatch.delitem(sys.modules, "ganfast._C", raising=False)
        importlib.invalidate_caches()
        forget()
        return loaded

    yield holds
    forget()


def test_without_avx512_an_extension_that_wants_it_is_a_reason_and_is_not_loaded(processor, extension, capsys):
    processor(V3)
    loaded = extension(f"ganfast built for x86-64-v4: {V4};")
    entry = ganfast.backends()["cpu"]
    lacks = "built for x86-64-v4, this processor lacks avx512f, avx512cd, avx512bw, avx512dq, avx512vl"
    assert not entry.available and lacks in entry.reason and "wheel for an older instruction set" in entry.reason
    assert loaded == [] and "ganfast._C" not in sys.modules
    with pytest.raises(RuntimeError, match="lacks avx512f"), ganfast.use_backend("cpu"):
        pass
    y = GF.conv_transpose_act(torch.randn(1, 2, 3, 3), torch.randn(2, 3, 4, 4), act="relu")  # by torch's own kernels
    assert y.shape == (1, 3, 6, 6) and bool((y >= 0).all())
    ganfast.backends(), cli.main(["doctor"])
    told = capsys.readouterr()
    assert told.err.count("lacks avx512f") == 1, "the word is said once"
    assert lacks in told.out and "native parts:" in told.out and loaded == []


@pytest.mark.parametrize("record", [f"ganfast built for x86-64-v3: {V3};", f"ganfast built for native: {V4};", "ganfast built for x:;", ""])
def test_an_extension_that_finds_all_it_wants_is_loaded(record, processor, extension, capsys):
    """The last two want nothing, and say nothing, as extensions of before do."""
    processor(V4 + " amx_tile")
    loaded = extension(record)
    assert ganfast.backends()["cpu"] == (True, "native C++ kernels for CPU tensors, built for planted")
    assert loaded == [1] and capsys.readouterr().err == ""


def test_one_missing_instruction_of_an_own_build_is_enough(processor, extension):
    processor(V4)
    loaded = extension(f"ganfast built for native: {V4} avx512_bf16;")
    assert "built for native, this processor lacks avx512_bf16:" in ganfast.backends()["cpu"].reason and not loaded


def test_the_extension_of_another_ganfast_is_not_taken(extension, monkeypatch, tmp_path):
    """An editable install may have a hook that answers for every module below ganfast, whichever ganfast was imported."""
    loaded = extension("")
    other = tmp_path / "extension" / "_C.py"
    (tmp_path / "ours").mkdir()
    monkeypatch.setattr(ganfast, "__path__", [str(tmp_path / "ours")])

    class Hook:
        def find_spec(self, name, path=None, target=None):
            return importlib.util.spec_from_file_location(name, other) if name == "ganfast._C" else None

    monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    assert importlib.util.find_spec("ganfast._C").origin == str(other)
    assert "no compiled extension" in ganfast.backends()["cpu"].reason and not loaded


def test_arms_list_is_read_too(processor):
    processor("fp asimd atomics asimddp", name="Features")
    assert _processor.lacking(("atomics", "asimddp", "sve")) == ["sve"]


@pytest.mark.parametrize(
    ("level", "lacks"), [("DEFAULT", ["avx512f", "avx2", "fma"]), ("AVX2", ["avx512f"]), ("AVX512", []), ("SVE256", ["avx512f"])]
)
def test_where_no_list_is_torchs_look_at_the_processor_decides(level, lacks, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
    for text in (None, "processor : 0\n"):
        if text is not None:
            (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(_processor, "CPUINFO", tmp_path / "cpuinfo")
        assert _processor.lacking(("avx512f", "avx2", "fma", "pni")) == lacks


@pytest.mark.skipif(_native.reason("cpu") is not None, reason="no compiled extension")
def test_the_extension_that_runs_here_says_what_it_was_built_for():
    path = importlib.util.find_spec("ganfast._C").origin
    name, wanted = _processor.built_for(path)
    assert name == _native.build_info()["cpu"] and _processor.lacking(wanted) == []
    if _processor.instructions() and "avx2" in _processor.instructions() and name == "native":
        assert {"avx2", "fma"} <= set(wanted), "the compiler's list is empty"


@pytest.mark.parametrize(("arch", "wanted"), [("x86-64-v3", V3), ("x86-64-v4", V4), ("x86-64", "")])
def test_the_compiler_writes_what_it_may_use(arch, wanted, tmp_path):
    command = ["c++", f"-march={arch}", f'-DGANFAST_CPU_ARCH="{arch}"', "-x", "c++", "-c", "-o", tmp_path / "record.o", "-"]
    done = subprocess.run(command, input=f'#include "{HEADER}"\n', capture_output=True, text=True, check=False)
    if done.returncode and "march" in done.stderr:
        pytest.skip("a compiler for another kind of processor")
    assert done.returncode == 0, done.stderr
    name, found = _processor.built_for(str(tmp_path / "record.o"))
    assert name == arch and sorted(found) == sorted(wanted.split())
