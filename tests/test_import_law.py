"""base < ops < nn, stylegan < dropin < step < train < systems < cli; an op imports another one only where ALLOWED says so; `testing` is for
tests, benchmarks, the demo. The rooms of train/ import those below them alone, and no imports go in a circle anywhere."""

import ast
import re
from pathlib import Path

import pytest

import ganfast

PACKAGE = Path(ganfast.__file__).parent
CSRC = PACKAGE.parent / "csrc"

# First part of a module's name below ganfast -> layer; names with a leading underscore are base.
LAYERS = {"testing": 0, "ops": 1, "functional": 2, "nn": 3, "models": 3, "penalties": 3, "augment": 3, "stylegan": 3, "dropin": 4}
LAYERS |= {"ada": 3, "_ada_matrices": 3, "step": 5, "train": 6, "systems": 7, "cli": 8, "demo": 8, "__main__": 8}
SHARED_KERNELS = "ops.bias_act.kernels"  # the pointwise epilogue: its passes are for every op
# One set of passes serves all convolutions (ops/conv_transpose_act/README.md): op -> the ops it may import.
ALLOWED = {"conv_act": {"conv_transpose_act"}, "upsample_conv_act": {"conv_act", "conv_transpose_act"}}
# The convolution and the filter that stand between its own passes; upfirdn's checks and paddings too.
ALLOWED["modulated_conv"] = {"conv_act", "conv_transpose_act", "upfirdn"}
ALLOWED["group_norm_act"] = {"batch_norm_act"}  # whose passes over blocks serve all norms
ALLOWED["filtered_act"] = {"upfirdn"}  # whose geometry and passes it is made of
# Room of train/ -> the rooms it may import. A file of train/ itself belongs to the loop, or to what all rooms share.
SHARED = {"config", "networks", "parts", "phases", "precision", "randomness", "sampling", "schedules", "thresholds", "trees"}
ROOMS = {
    "shared": set(),
    "data": {"shared"},
    "reconstruction": {"shared"},
    "saving": {"shared"},
    "distributed": {"shared", "saving"},
    "watch": {"shared", "data", "saving"},
    "loop": {"shared", "data", "reconstruction", "objectives", "saving", "distributed", "watch"},
    "objectives": {"shared", "reconstruction", "distributed"},
    "styles": {"shared", "reconstruction", "watch"},
    "known_answers": {"shared", "loop"},
    "command_line": {"shared", "data", "saving", "distributed", "watch", "loop", "styles", "known_answers"},
}
USES_TESTING = {"testing", "report", "demo"}  # last part of a module's name


def layer(module: str) -> int | None:
    """0 for base ... 8 for cli; the package itself, all lazy, belongs below everything."""
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
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ganfast":
            names = [f"ganfast.{node.attr}"]  # lazy: an import where it is used
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        found |= {name.removeprefix("ganfast.") for name in names if name.startswith("ganfast.")}
    return found


def room_of(module: str) -> str | None:
    """Of a module below ganfast, or of a name in it; None outside of train/."""
    parts = module.split(".")
    if parts[0] != "train":
        return None
    inner = parts[1] if len(parts) > 1 else ""
    return "shared" if inner in SHARED else inner if inner in ROOMS else "loop"


def graph_of(package: Path) -> dict[str, set[str]]:
    """Module -> the modules it imports, wherever in the file. A name of a package is the package's, a lazy public name of ganfast its
    module's; to import a module is not counted as importing the packages around it."""
    paths = {module_of(path, package): path for path in package.rglob("*.py")}
    graph = {}
    for module, path in paths.items():
        targets = {ganfast._LAZY.get(target, target).removeprefix("ganfast.") for target in imports(path, module)}
        while unknown := {target for target in targets if target not in paths}:
            targets = (targets - unknown) | {target.rpartition(".")[0] for target in unknown} - {""}
        graph[module] = targets - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import each other, directly or by way of others: the strongly connected components of more than one (Tarjan)."""
    number, lowest, stack, found = {}, {}, [], []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in number:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], number[target])
        if lowest[module] == number[module]:
            component = stack[stack.index(module) :]
            del stack[-len(component) :]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def op_calls(path: Path) -> set[str]:
    """Names under torch.ops.ganfast that a file reaches."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) == "torch.ops.ganfast"}


def op_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "ops" and len(parts) > 1 else None


def module_of(path: Path, package: Path) -> str:
    """Its name below the package, which is "" itself."""
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def violations(package: Path) -> list[str]:
    found = [f"a circle of imports: {', '.join(circle)}" for circle in circles(graph_of(package))]
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        mine = layer(module)
        if mine is None:
            found.append(f"{module} has no layer; add it to LAYERS")
            continue
        if module.startswith("train.") and path.parent.name not in ("train", *ROOMS):
            found.append(f"{module} has no room; add its folder to ROOMS")
        for target in sorted(imports(path, module)):
            theirs = layer(ganfast._LAZY.get(target, target).removeprefix("ganfast."))
            if not module and theirs != 0:
                found.append(f"ganfast/__init__.py imports {target}; its names are lazy")
            elif theirs is not None and theirs > mine:
                found.append(f"{module} imports {target}, a layer above it")
            room, their_room = room_of(module), room_of(target)
            if room and their_room and room != their_room and their_room not in ROOMS[room]:
                found.append(f"{module} imports {target}, of {their_room}; the room {room} may not")
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
            common = "common/" if path.parent == csrc else "../common/"
            if "/" in name and not (name.startswith(common) and path.parent.name != "common"):
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
        ("nn.layers", "from ganfast.dropin.accelerate import accelerate", "a layer above"),
        ("nn.layers", "import ganfast\nganfast.accelerate(1)", "a layer above"),
        ("dropin.groups", "from ganfast.step.capture import capture", "a layer above"),
        ("dropin.groups", "from ganfast import testing", "imports testing"),
        ("train.loop", "import ganfast.cli", "a layer above"),
        ("train.command_line.commands", "from ganfast.systems import command", "a layer above"),
        ("systems.a", "from ganfast import cli", "a layer above"),
        ("train.loop", "from ganfast import testing", "imports testing"),
        ("functional", "from .nn import layers", "a layer above"),
        ("", "from ganfast.functional import f", "lazy"),
        ("newcomer", "", "no layer"),
    ],
)
def test_planted_imports_are_found(tmp_path, module, line, word):
    plant(tmp_path, {module.replace(".", "/") or "__init__": line})
    (found,) = violations(tmp_path / "ganfast")
    assert word in found and module in found


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"nn/a": "from ganfast.nn import b", "nn/b": "from ganfast.nn.a import f"}, "nn.a, nn.b"),
        ({"nn/a": "def f():\n    from . import b", "nn/b": "import ganfast.nn.c", "nn/c": "from .a import f"}, "nn.a, nn.b, nn.c"),
        ({"step/a": "if TYPE_CHECKING:\n    from ganfast.step.b import T", "step/b": "from ganfast.step import a"}, "step.a, step.b"),
        ({"train/__init__": "from .loop import Trainer", "train/loop": "from ganfast.train import Trainer"}, "train, train.loop"),
        ({"train/__init__": "from .loop import Trainer", "train/loop": "from ganfast import Trainer"}, "train, train.loop"),
        ({"train/__init__": "import ganfast.train.loop", "train/loop": "import ganfast\nt: ganfast.TrainConfig"}, "train, train.loop"),
        ({"train/loop": "from ganfast.train import checks", "train/checks": "if TYPE_CHECKING:\n    from .loop import T"}, "train.checks"),
        ({"train/watch/a": "import ganfast.train.watch.b", "train/watch/b": "def f():\n    from .a import g"}, "train.watch.a"),
    ],
)
def test_planted_circles_are_found(tmp_path, files, words):
    plant(tmp_path, files)
    (found,) = violations(tmp_path / "ganfast")
    assert f"circle of imports: {words}" in found


@pytest.mark.parametrize(
    ("module", "line", "word"),
    [
        ("train/data/a", "from ganfast.train.watch.b import f", "of watch; the room data may not"),
        ("train/data/a", "from ganfast.train import loop", "of loop; the room data may not"),
        ("train/data/a", "from ..turns import Turn", "of loop; the room data may not"),
        ("train/saving/a", "if TYPE_CHECKING:\n    from ganfast.train.loop import Trainer", "of loop; the room saving may not"),
        ("train/watch/a", "def f():\n    from ganfast.train.known_answers import mixtures", "of known_answers; the room watch may not"),
        ("train/watch/a", "import ganfast.train.checks", "of loop; the room watch may not"),
        ("train/watch/a", "from ganfast.train import Trainer", "of loop; the room watch may not"),
        ("train/distributed/a", "from ganfast.train.data import folder", "of data; the room distributed may not"),
        ("train/config", "from ganfast.train.watch.alarms import T", "of watch; the room shared may not"),
        ("train/loop", "from ganfast.train.command_line.recipes import trainer", "of command_line; the room loop may not"),
        ("train/newcomer/a", "", "has no room"),
    ],
)
def test_planted_imports_between_rooms_are_found(tmp_path, module, line, word):
    plant(tmp_path, {module: line})
    (found,) = violations(tmp_path / "ganfast")
    assert word in found and module.replace("/", ".") in found


def plant(folder: Path, files: dict[str, str]) -> None:
    for module, lines in files.items():
        path = folder / "ganfast" / f"{module}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines + "\n")


def test_allowed_imports_pass(tmp_path):
    files = {
        "ops/a/op": "from ganfast import _checks, _native\nfrom ganfast.ops.a import reference\nfrom . import kernels",
        "ops/b/autograd": "from ganfast.ops.bias_act import kernels as bias_act",
        "ops/conv_act/op": "from ganfast.ops.conv_transpose_act import kernels",
        "functional": "from ganfast.ops.a.op import a",
        "nn/report": "from ganfast import testing, functional",
        "cli": "from ganfast.train import loop\nfrom ganfast.systems import command",
        "systems/a": "from ganfast.systems.form import System\nfrom ganfast.train import Trainer",
        "__init__": "import importlib\nnames = {'Trainer': 'ganfast.train'}\nimportlib.import_module(names['Trainer'])",
        "train/loop": "from ganfast.train.watch import alarms\nfrom ganfast.train import checks",
        "train/checks": "from ganfast.train.config import TrainConfig",
        "train/watch/alarms": "from ganfast.train.data import to_uint8\nfrom ganfast.train.thresholds import T\nfrom . import curves",
        "train/known_answers/densities": "from ganfast.train import Trainer",
    }
    plant(tmp_path, files)
    assert violations(tmp_path / "ganfast") == []


def test_planted_includes_are_found(tmp_path):
    for name, line in {"a/cpu.cpp": "../b/b.h", "common/launch.h": "../a/a.h", "b/cpu.cpp": "../common/rows.h"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'#include "{line}"\n')
    assert include_violations(tmp_path) == ["a/cpu.cpp includes ../b/b.h", "common/launch.h includes ../a/a.h"]
