"""`make help`, and the GPU targets that need no GPU to be seen through: which tests they select, what they do where a tool refuses the
machine."""

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CAPTURES = ("CUDAGraph", "graph", "capture", "trainer")  # calls that record a CUDA graph, as the tests of tests/gpu make them
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make")


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(tmp_path, target: str, *more: str, **environment: str) -> subprocess.CompletedProcess:
    """The recipe alone, with `python` for PYTHON, which writes down how it was called."""
    executable(tmp_path / "python", '#!/bin/sh\nif [ "$1" = -c ]; then exit ${XDIST:-1}; fi\necho "ran: $MODE $*"\n')
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "TORCH_CUDA_ARCH_LIST": ""} | environment
    command = ["make", "-s", "-o", "gpu-build", target, f"PYTHON={tmp_path}/python", *more]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_a_sanitizer_that_refuses_the_machine_is_a_word(tool, tmp_path):
    executable(tmp_path / "compute-sanitizer", "#!/bin/sh\necho 'Error: the device does not allow it'\nexit 1\n")
    result = make(tmp_path, f"gpu-{tool}")
    assert result.returncode == 0 and "ran:" not in result.stdout
    assert f"gpu-{tool}: compute-sanitizer cannot run here, NOTHING WAS CHECKED: Error: the device does not allow it" in result.stdout


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_a_sanitizer_that_works_runs_tests_without_graphs(tool, tmp_path):
    wrapper = '#!/bin/sh\ncase "$*" in *" -c "*) exit 0;; esac\necho "sanitizer: $PYTORCH_NO_CUDA_MEMORY_CACHING $*"\nexit ${RESULT:-0}\n'
    executable(tmp_path / "compute-sanitizer", wrapper)
    for code in ("0", "1"):
        result = make(tmp_path, f"gpu-{tool}", RESULT=code)
        assert (result.returncode == 0) == (code == "0"), "what a sanitizer finds must fail"
        (line,) = [line for line in result.stdout.splitlines() if line.startswith("sanitizer:")]
        assert "-m gpu and not captures -k small and cuda" in line and f"--tool {tool} --error-exitcode 1" in line
        assert line.startswith("sanitizer: 1 ") == (tool == "memcheck")  # without the pool of memory, bounds are known


@pytest.mark.parametrize("installed", [True, False])
def test_tests_run_in_eight_processes_where_xdist_is(installed, tmp_path):
    result = make(tmp_path, "gpu-test", "PYTEST_OPTIONS=--maxfail=25", XDIST="0" if installed else "1")
    most, alone = [line for line in result.stdout.splitlines() if line.startswith("ran:")]
    processes = "-n 8 " if installed else ""
    assert most.endswith(f"tests/gpu tests/step -m gpu and not alone -v {processes}--maxfail=25")
    assert alone.endswith("tests/gpu tests/step -m gpu and alone -v --maxfail=25")


def marked(node: ast.FunctionDef, module: ast.Module) -> bool:
    of_module = [n for n in module.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "pytestmark"]
    return any("mark.captures" in ast.unparse(n) for n in (*node.decorator_list, *of_module))


def records(node: ast.AST) -> bool:
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return any((getattr(f, "attr", None) or getattr(f, "id", None)) in CAPTURES for f in calls)


def test_what_records_a_graph_is_marked():
    """So memcheck, under which torch has no pool of memory and refuses to record, does not select it."""
    seen = {True: 0, False: 0}
    for file in sorted((ROOT / "tests/gpu").glob("test_*.py")):
        module = ast.parse(file.read_text())
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert marked(node, module) >= records(node), f"{file.name}: {node.name} records a graph and is not marked `captures`"
                seen[marked(node, module)] += 1
    assert min(seen.values()) > 3


@pytest.mark.prove
def test_four_layers_are_tuned_without_a_failure():
    """The command of CONTRIBUTING's GPU hour, on this machine."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "tools/tuned.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "12 questions, 0 with a candidate that failed" in result.stdout and "weight gradient of conv_transpose_act" in result.stdout


def test_help_has_a_line_for_every_target():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", text, re.MULTILINE))
    phony = set(" ".join(re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)).split()) - {"FORCE"}
    assert set(listed) == targets == phony and {"help", "wheel", "test", "gpu-bench-steps"} <= targets
    assert all(len(line) <= 120 for line in done.stdout.splitlines()) and done.stderr == ""
