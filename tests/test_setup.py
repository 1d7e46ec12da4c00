"""setup.py's plan: every mode, every refusal, and what is handed to the compilers."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from setuptools import Distribution
from torch.utils import cpp_extension

import ganfast

ROOT = Path(__file__).parents[1]
GPU_ARCHS = "compute_75\ncompute_80\ncompute_86\ncompute_90\ncompute_100\ncompute_100a\n"


@pytest.fixture
def setup_py(monkeypatch):
    spec = importlib.util.spec_from_file_location("ganfast_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    for name in ("GANFAST_BUILD", "GANFAST_CPU_ARCH", "TORCH_CUDA_ARCH_LIST", "GANFAST_CPU_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAX_JOBS", "1")
    return module


CUDA_TORCH, CPU_TORCH, NVCC = ("2.13.0+cu130", "13.0"), ("2.13.0+cpu", None), "/cuda/bin/nvcc"


@pytest.mark.parametrize(
    ("mode", "torch_build", "nvcc", "build", "why"),
    [
        ("auto", CUDA_TORCH, NVCC, "cuda", "nvcc /cuda/bin/nvcc"),
        ("auto", CUDA_TORCH, None, "cpu", "no nvcc"),
        ("auto", CPU_TORCH, NVCC, "cpu", "torch 2.13.0+cpu is a build without CUDA"),
        ("auto", CPU_TORCH, None, "cpu", "without CUDA and no nvcc"),
        ("auto", (None, None), NVCC, "none", "--no-build-isolation"),
        ("cpu", CUDA_TORCH, NVCC, "cpu", "GANFAST_BUILD=cpu"),
        ("cpu", CPU_TORCH, None, "cpu", "GANFAST_BUILD=cpu"),
        ("cuda", CUDA_TORCH, NVCC, "cuda", "nvcc /cuda/bin/nvcc"),
        ("none", CUDA_TORCH, NVCC, "none", "GANFAST_BUILD=none"),
        ("none", (None, None), None, "none", "GANFAST_BUILD=none"),
    ],
)
def test_plan(setup_py, mode, torch_build, nvcc, build, why):
    decided = setup_py.plan(mode, *torch_build, nvcc)
    assert decided.build == build and why in decided.why


@pytest.mark.parametrize(
    ("mode", "torch_build", "nvcc", "words"),
    [
        ("cuda", CUDA_TORCH, None, ["GANFAST_BUILD=cuda", "no nvcc"]),
        ("cuda", CPU_TORCH, NVCC, ["GANFAST_BUILD=cuda", "torch 2.13.0+cpu is a build without CUDA"]),
        ("cuda", CPU_TORCH, None, ["without CUDA", "no nvcc"]),
        ("cuda", (None, None), NVCC, ["GANFAST_BUILD=cuda", "torch is not in the build environment"]),
        ("cpu", (None, None), None, ["GANFAST_BUILD=cpu", "--no-build-isolation"]),
        ("gpu", CUDA_TORCH, NVCC, ["GANFAST_BUILD='gpu'", "auto, cpu, cuda, none"]),
        ("", CUDA_TORCH, NVCC, ["GANFAST_BUILD=''", "auto, cpu, cuda, none"]),
    ],
)
def test_plan_refuses(setup_py, mode, torch_build, nvcc, words):
    with pytest.raises(SystemExit) as raised:
        setup_py.plan(mode, *torch_build, nvcc)
    assert all(word in str(raised.value) for word in ["ganfast", *words])


def test_architectures_are_those_from_8_0_that_nvcc_knows(setup_py):
    assert setup_py.architectures(GPU_ARCHS) == ["80", "86", "90", "100"]
    assert setup_py.architectures("compute_52 compute_75") == []


def test_arch_flags_name_each_architecture_and_ptx_for_later_ones(setup_py):
    assert setup_py.arch_flags(None, "compute_75\ncompute_80\ncompute_90") == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]


def test_arch_list_of_the_user_is_left_to_torch(setup_py):
    assert setup_py.arch_flags("9.0;10.0", GPU_ARCHS) == []
    assert setup_py.arch_flags("9.0", "compute_52") == []


def test_an_nvcc_without_8_0_is_refused(setup_py):
    with pytest.raises(SystemExit, match=r"no architecture from 8\.0"):
        setup_py.arch_flags(None, "compute_52\ncompute_75")


def test_cpu_flags(setup_py):
    assert "-march=native" in setup_py.cpu_flags("x86_64", None) and "-fopenmp" in setup_py.cpu_flags("AMD64", None)
    assert "-mcpu=native" in setup_py.cpu_flags("aarch64", None)
    assert setup_py.cpu_flags("x86_64", "-O2 -march=x86-64-v3") == ["-O2", "-march=x86-64-v3"]
    assert setup_py.cpu_flags("x86_64", "") == []
    assert "-march=x86-64-v4" in setup_py.cpu_flags("x86_64", None, "x86-64-v4")


@pytest.mark.parametrize(
    ("machine", "override", "arch", "words"),
    [
        ("x86_64", None, "x86-64-v5", ["'x86-64-v5' is unknown", "native, x86-64-v3, x86-64-v4"]),
        ("aarch64", None, "x86-64-v3", ["this machine is aarch64"]),
        ("x86_64", "-O1", "x86-64-v3", ["GANFAST_CPU_FLAGS is set", "one of the two"]),
    ],
)
def test_processors_that_cannot_be_built_for_are_refused(setup_py, machine, override, arch, words):
    with pytest.raises(SystemExit) as raised:
        setup_py.cpu_flags(machine, override, arch)
    assert all(word in str(raised.value) for word in ["GANFAST_CPU_ARCH", *words])


@pytest.mark.parametrize(
    ("flags", "name"), [("-O3 -march=native", "native"), ("-march=x -march=znver4", "znver4"), ("-O3", "the compiler's default")]
)
def test_what_the_flags_call_the_processor(setup_py, flags, name):
    assert setup_py.arch_of(flags.split()) == name


def test_sources_of_each_build(setup_py):
    cpu, cuda = set(setup_py.sources("cpu")), set(setup_py.sources("cuda"))
    everything = {str(p.relative_to(ROOT)) for suffix in ("cpp", "cu") for p in (ROOT / "csrc").rglob(f"*.{suffix}")}
    assert cuda == everything, "a source is in no build"
    assert cpu == {name for name in everything if "cuda" not in name} and "csrc/bindings.cpp" in cpu


def test_the_longest_come_first(setup_py):
    """The templates over activations take most; on many files nvcc's."""
    order = setup_py.sources("cpu")
    assert set(order[:2]) == {"csrc/group_norm_act/cpu.cpp", "csrc/bias_act/cpu.cpp"}
    kinds = [name.endswith(".cu") for name in setup_py.sources("cuda")]
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize(
    ("count", "cuda", "jobs", "words"),
    [
        (9, False, 2, "9 files on 2 cores, about 1 minute"),
        (20, False, 1, "20 files on 1 core, about 3 minutes"),
        (20, True, 8, "some minutes for every architecture"),
    ],
)
def test_what_it_will_take_is_said_first(setup_py, count, cuda, jobs, words):
    assert words in setup_py.estimate(count, cuda, jobs)


def test_a_build_says_where_it_is_and_hides_no_word_of_the_compiler(setup_py, capfd):
    """What a child process writes, too: one line for a file that is done, every other line as it is."""
    ticks = iter([100.0, 131.4])
    progress = setup_py.Progress(clock=lambda: next(ticks))
    lines = f"[3/9] c++ -O3 -c {ROOT}/csrc/bias_act/cpu.cpp -o /tmp/cpu.o\\ncpu.cpp:7: warning: unused\\nninja: build stopped"
    with progress.over_output():
        subprocess.run(["printf", lines], check=True)
    print("afterwards")
    assert capfd.readouterr().out.splitlines() == [
        "ganfast: 3 of 9 files built after 31 s, csrc/bias_act/cpu.cpp", "cpu.cpp:7: warning: unused", "ninja: build stoppedafterwards",
    ]  # fmt: skip


def test_a_build_that_fails_gives_the_output_back(setup_py, capfd):
    with pytest.raises(RuntimeError), setup_py.Progress().over_output():
        print("FAILED: cpu.o")
        raise RuntimeError
    print("afterwards")
    assert capfd.readouterr().out == "FAILED: cpu.o\nafterwards\n"


def test_none_builds_nothing(setup_py, monkeypatch, capsys):
    monkeypatch.setenv("GANFAST_BUILD", "none")
    assert setup_py.extension_arguments() == {"version": ganfast.__version__}
    assert "building none: GANFAST_BUILD=none" in capsys.readouterr().err


def test_without_torch_a_pure_python_install_results(setup_py, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch now raises ImportError
    assert setup_py.extension_arguments() == {"version": ganfast.__version__}
    assert "--no-build-isolation" in capsys.readouterr().err


def test_cpu_build(setup_py, monkeypatch, capsys):
    monkeypatch.setenv("GANFAST_BUILD", "cpu")
    monkeypatch.setenv("GANFAST_CPU_FLAGS", "-O1")
    (extension,) = setup_py.extension_arguments()["ext_modules"]
    assert extension.name == "ganfast._C" and extension.extra_compile_args["cxx"][0] == "-O1"
    assert ("GANFAST_CPU_ARCH", '"the compiler\'s default"') in extension.define_macros
    assert sorted(extension.sources) == sorted(setup_py.sources("cpu"))
    assert "building cpu" in capsys.readouterr().err


@pytest.fixture
def cuda_home(tmp_path, monkeypatch):
    """A CUDA tree whose nvcc only lists architectures, under a torch that says it was built with CUDA."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\ncat <<LIST\n{GPU_ARCHS}LIST\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    return tmp_path


def test_cuda_build_compiles_for_every_architecture_nvcc_knows(setup_py, cuda_home, capsys):
    (extension,) = setup_py.extension_arguments()["ext_modules"]
    assert sorted(extension.sources) == sorted(setup_py.sources("cuda"))
    flags = extension.extra_compile_args["nvcc"]
    assert [f.split("=sm_")[1] for f in flags if "=sm_" in f] == ["80", "86", "90", "100"]
    assert ("GANFAST_CUDA_ARCHS", '"80 86 90 100"') in extension.define_macros
    assert ("GANFAST_WITH_CUDA", None) in extension.define_macros
    assert f"building cuda: CPU and CUDA kernels, nvcc {cuda_home}/bin/nvcc" in capsys.readouterr().err


def test_cuda_build_honours_the_arch_list(setup_py, cuda_home, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    (extension,) = setup_py.extension_arguments()["ext_modules"]
    assert not any("gencode" in flag for flag in extension.extra_compile_args["nvcc"])
    assert ("GANFAST_CUDA_ARCHS", '"9.0"') in extension.define_macros


def test_no_visible_gpu_is_asked(setup_py, cuda_home, monkeypatch):
    def asked(*_):
        raise AssertionError("setup.py asks for a GPU")

    for name in ("is_available", "device_count", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, asked)
    assert setup_py.extension_arguments()["ext_modules"]


def test_an_explicit_cuda_without_nvcc_fails_with_the_reason(setup_py, monkeypatch, tmp_path):
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("GANFAST_BUILD", "cuda")
    with pytest.raises(SystemExit, match="no nvcc"):
        setup_py.extension_arguments()


def test_an_editable_install_is_a_path(setup_py):
    """Not a hook, which comes after the search through sys.path: tests/test_wrong_folder.py installs one."""
    assert "setup(options=OPTIONS," in (ROOT / "setup.py").read_text()
    distribution = Distribution({"name": "ganfast", "options": setup_py.OPTIONS})
    command = distribution.get_command_obj("editable_wheel")
    command.ensure_finalized()
    assert command.mode == "compat"
