"""base < ops < nn < step < train < cli; an op imports another one only where ALLOWED says so; `testing` is for tests, benchmarks,
compare, demo."""

import ast
import re
from pathlib import Path

import pytest

import ganfast

PACKAGE = Path(ganfast.__file__).parent
CSRC = PACKAGE.parent / "csrc"

# First part of a module's name below ganfast -> layer; names with a leading underscore are base.
LAYERS = {"testing": 0, "ops": 1, "functional": 2, "nn": 3, "models": 3, "penalties": 3, "augment": 3, "step": 4, "train": 5}
LAYERS |= {"cli": 6, "demo": 6, "__main__": 6}
SHARED_KERNELS = "ops.bias_act.kernels"  # the pointwise epilogue: its passes are for every op
# One set of passes serves all convolutions (ops/conv_transpose_act/README.md): op -> the ops it may import.
ALLOWED = {"conv_act": {"conv_transpose_act"}, "upsample_conv_act": {"conv_act", "conv_transpose_act"}}
USES_TESTING = {"testing", "report", "compare", "demo"}  # last part of a module's name


def layer(module: str) -> int | None:
    """0 for base ... 6 for cli; the package itself, all lazy, belongs below everything."""
    first = module.split(".")[0]
    return 0 if not first or (first.startswith("_") and first not in LAYERS) else LAYERS.get(first)


def imports(path: Path, module: str) -> set[str]:
    """Modules below ganfast that a file imports anywhere, deferred imports and import_module with a literal included."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ["ganfast", *[p for p in package if p]]
                base = ".".join([*parent[: len(parent) - node.level + 1], *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        found |= {name.removeprefix("ganfast.") for name in names if name.startswith("ganfast.")}
    return found


def op_calls(path: Path) -> set[str]:
    """Names under torch.ops.ganfast that a file reaches."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) == "torch.ops.ganfast"}


def op_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "ops" and len(parts) > 1 else None


def violations(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        mine = layer(module)
        if mine is None:
            found.append(f"{module} has no layer; add it to LAYERS")
            continue
        for target in sorted(imports(path, module)):
            theirs = layer(target)
            if not module and theirs != 0:
                found.append(f"ganfast/__init__.py imports {target}; its names are lazy")
            elif theirs is not None and theirs > mine:
                found.append(f"{module} imports {target}, a layer above it")
            others = {op_of(module), *ALLOWED.get(op_of(module), ())}
            if op_of(module) and op_of(target) and op_of(target) not in others and target != SHARED_KERNELS:
                found.append(f"{module} imports {target}, another op")
            if target.split(".")[0] == "testing" and module.split(".")[-1] not in USES_TESTING:
                found.append(f"{module} imports testing")
        if op_of(module):
            found += [f"{module} calls {name}, another op's" for name in sorted(op_calls(path)) if not name.startswith(op_of(module))]
    return found


def include_violations(csrc: Path) -> list[str]:
    """C++ files of an op include their own folder and common/ alone; common/ includes nothing outside itself."""
    found = []
    for path in sorted([*csrc.rglob("*.h"), *csrc.rglob("*.cpp"), *csrc.rglob("*.cu")]):
        for name in re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.M):
            if "/" in name and not (name.startswith("../common/") and path.parent.name != "common"):
                found.append(f"{path.relative_to(csrc)} includes {name}")
    return found


def test_the_package_keeps_the_law():
    assert violations(PACKAGE) == []


@pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc")
def test_the_sources_keep_the_law():
    assert include_violations(CSRC) == []


@pytest.mark.parametrize(
    ("module", "line", "word"),
    [
        ("_checks", "from ganfast.ops.a.op import f", "a layer above"),
        ("_checks", "def f():\n    from ganfast import nn", "a layer above"),
        ("_checks", "import importlib\nimportlib.import_module('ganfast.train')", "a layer above"),
        ("ops.a.op", "from ganfast.ops.b.op import f", "another op"),
        ("ops.a.op", "from ganfast.ops import b", "another op"),
        ("ops.a.op", "from ..b import op", "another op"),
        ("ops.a.op", "from ganfast.ops.conv_transpose_act import kernels", "another op"),
        ("ops.conv_transpose_act.op", "from ganfast.ops.conv_act.op import conv_act", "another op"),
        ("ops.conv_act.op", "from ganfast.ops.upsample_conv_act import op", "another op"),
        ("ops.a.op", "from ganfast.ops import bias_act", "another op"),
        ("ops.a.op", "from ganfast.ops.bias_act import reference", "another op"),
        ("ops.a.op", "from ganfast.ops.bias_act.op import bias_act", "another op"),
        ("ops.a.op", "import torch\ntorch.ops.ganfast.bias_act_bwd(1)", "another op"),
        ("ops.a.op", "import torch\ntorch.ops.ganfast.b_fwd(1)", "another op"),
        ("ops.a.op", "import ganfast.functional", "a layer above"),
        ("nn.layers", "from ganfast.train.loop import run", "a layer above"),
        ("nn.layers", "from ganfast.testing import check", "imports testing"),
        ("train.loop", "import ganfast.cli", "a layer above"),
        ("train.loop", "from ganfast import testing", "imports testing"),
        ("functional", "from .nn import layers", "a layer above"),
        ("", "from ganfast.functional import f", "lazy"),
        ("newcomer", "", "no layer"),
    ],
)
def test_planted_imports_are_found(tmp_path, module, line, word):
    path = tmp_path / "ganfast" / (module.replace(".", "/") + ".py" if module else "__init__.py")
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    (found,) = violations(tmp_path / "ganfast")
    assert word in found and module in found


def test_allowed_imports_pass(tmp_path):
    for module, line in {
        "ops/a/op": "from ganfast import _checks, _native\nfrom ganfast.ops.a import reference\nfrom . import kernels",
        "ops/b/autograd": "from ganfast.ops.bias_act import kernels as bias_act",
        "ops/conv_act/op": "from ganfast.ops.conv_transpose_act import kernels",
        "functional": "from ganfast.ops.a.op import a",
        "nn/report": "from ganfast import testing, functional",
        "cli": "from ganfast.train import loop",
        "__init__": "import importlib\nnames = {'Trainer': 'ganfast.train'}\nimportlib.import_module(names['Trainer'])",
    }.items():
        path = tmp_path / "ganfast" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n")
    assert violations(tmp_path / "ganfast") == []


def test_planted_includes_are_found(tmp_path):
    for name, line in {"a/cpu.cpp": "../b/b.h", "common/launch.h": "../a/a.h", "b/cpu.cpp": "../common/rows.h"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'#include "{line}"\n')
    assert include_violations(tmp_path) == ["a/cpu.cpp includes ../b/b.h", "common/launch.h includes ../a/a.h"]
