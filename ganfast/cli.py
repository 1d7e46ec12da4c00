"""The command `ganfast`: train, run, sample, project, edit, compare, doctor. A user's mistake is one line on stderr and exit code 2."""

import importlib
import importlib.machinery
import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import NoReturn

from ganfast import _checks

USAGE = """usage: ganfast {train,run,sample,project,edit,compare,doctor} [options]

  train    train a GAN on the digits, a folder of images, or a mixture of Gaussians
  run      a GAN application by name, trained, measured and drawn; alone it lists them
  sample   images from a run or a checkpoint, by label or text, and seed
  project  a picture's styles, looked for in a run of `ganfast train --model stylegan2`
  edit     a run's pictures, moved along a direction of its latent space: slant, brightness, a measure of your own
  compare  a model of your own, eager against ganfast: my_file.py:make_generator --shape 64,100,1,1
  doctor   versions, what is available on this machine, and why the rest is not

`ganfast COMMAND --help` lists a command's options; `python -X dev -m ganfast COMMAND` shows the traceback of an error."""


def train(args: list[str]) -> None:
    from ganfast.train.command_line import commands

    commands.train(args)


def run(args: list[str]) -> None:
    from ganfast.systems import command

    command.run(args)


def sample(args: list[str]) -> None:
    from ganfast.systems import command

    command.sample(args)


def project(args: list[str]) -> None:
    from ganfast.train.command_line import project as command

    command.run(args)


def edit(args: list[str]) -> None:
    from ganfast.systems import edit as command

    command.edit(args)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _another(folder: Path, ours: Path) -> str | None:
    """What `import ganfast` finds in a python that is started in `folder`, if that is not the package in `ours`: python looks into the
    folder first, then for what is installed."""
    found = importlib.machinery.PathFinder.find_spec("ganfast", [str(folder), *sys.path])
    if found is None:
        return None
    if found.origin is None:
        return f"{next(iter(found.submodule_search_locations))}, a folder without __init__.py: an empty module"
    there = Path(found.origin)
    return None if there.parent.resolve() == ours.resolve() and there.name == "__init__.py" else str(there)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.strip("()[] ").split(",")
    if not all(size.strip().isdigit() for size in sizes):
        _checks.fail("compare", f"shape is {text!r}, wants sizes such as 64,100,1,1")
    return tuple(int(size) for size in sizes)


def _made(target: str):
    """What `file.py:name` or `package.module:name` gives: the module itself, or what calling it makes."""
    import importlib.util

    from torch import nn

    where, _, name = target.rpartition(":")
    if not where or not name:
        _checks.fail("compare", f"model is {target!r}, wants file.py:name or package.module:name")
    if where.endswith(".py"):
        path = Path(where).resolve()
        if not path.is_file():
            _checks.fail("compare", f"there is no file {where}")
        sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, "")
        try:
            module = importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):  # one that the user's own file imports
                raise
            _checks.fail("compare", f"python finds no module {where} from this folder", f"A file is named with its path: {where}.py:{name}")
    if not hasattr(module, name):
        _checks.nearest("compare", f"a name in {where}", name, [n for n in dir(module) if not n.startswith("_")])
    made = getattr(module, name)
    if isinstance(made, nn.Module):
        return made
    if not callable(made):
        _checks.fail("compare", f"{target} is a {type(made).__name__}, wants a model, or what makes one without arguments")
    try:
        model = made()
    except Exception as error:  # the user's own code
        _checks.fail("compare", f"{target}() failed: {type(error).__name__}: {error}")
    if not isinstance(model, nn.Module):
        _checks.fail("compare", f"{target}() gave a {type(model).__name__}, wants a torch.nn.Module")
    return model


def compare(args: list[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        "ganfast compare", description="A model of your own, eager against ganfast: time, memory, errors, and what each layer became."
    )
    parser.add_argument("model", help="file.py:name or package.module:name, a model or what makes one without arguments")
    parser.add_argument(
        "--shape", action="append", required=True, help="sizes of an input, drawn from a normal distribution; once per input"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None, help="default: cuda where there is one")
    how_long = "about how long to measure; a report that lacks a row says how many it wants"
    parser.add_argument("--seconds", type=float, default=12.0, help=how_long)
    parser.add_argument("--recompute", action="store_true", help="as accelerate(model, recompute=True)")
    wanted = parser.parse_args(args)
    shapes = [_shape(text) for text in wanted.shape]
    import torch

    import ganfast

    if wanted.device == "cuda" and not torch.cuda.is_available():
        _checks.fail("compare", "device is cuda, and torch sees no CUDA device", "`ganfast doctor` says what is here")
    device = wanted.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _made(wanted.model)
    inputs = [torch.randn(shape, device=device) for shape in shapes]
    print(ganfast.compare(model.to(device), *inputs, seconds=wanted.seconds, recompute=wanted.recompute))


def doctor(args: list[str]) -> None:
    usage = (
        "usage: ganfast doctor [--tuning]\n\nVersions, what is available on this machine, and why the rest is not."
        "\n--tuning: instead, what the tuner chose for each op and shape here, and the times it chose by."
    )
    if args == ["--tuning"]:
        from ganfast import _tune

        print(_tune.report())
        return
    if args in (["-h"], ["--help"]):
        print(usage)
        return
    if args:
        _stop(usage)
    import torch

    import ganfast
    from ganfast.ops.conv_transpose_act import torch_faults

    ours = Path(ganfast.__file__).parent
    print(f"ganfast {ganfast.__version__} in {ours}, Python {platform.python_version()}, {platform.platform()}")
    if (other := _another(Path.cwd(), ours)) is not None:
        print(f"NOT the ganfast that python imports when it is started in this folder, which is {other}; start it in another folder")
    print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            print(f"GPU {i}: {torch.cuda.get_device_name(i)}, sm_{major}{minor}")
    print("\nbackends")
    for name, (available, reason) in ganfast.backends().items():
        print(f"  {name:<10} {'yes' if available else 'no ':<4} {reason}")
    print("\ntorch's convolutions on the CPU")
    for line in torch_faults.report():
        print(f"  {line}")
    wanted = ("tyro", "tqdm", "pillow", "numpy", "scikit-learn", "matplotlib", "safetensors")
    missing = [name for name in wanted if _version(name) == "not installed"]
    print("\ntraining: " + (f"missing {', '.join(missing)}; pip install 'ganfast[train]'" if missing else "ready"))
    missing = [name for name in ("scikit-learn", "mlxtend", "robohash") if _version(name) == "not installed"]
    print("data of systems: " + (f"missing {', '.join(missing)}; pip install 'ganfast[systems]'" if missing else "ready"))
    if not ganfast.backends()["cpu"].available:
        print(
            "native parts: install a C++ compiler and ninja, then from a checkout `pip install --no-build-isolation .`"
            " (GANFAST_BUILD=cpu or =cuda says what must be built; cuda wants nvcc)"
        )


COMMANDS = {"train": train, "run": run, "sample": sample, "project": project, "edit": edit, "compare": compare, "doctor": doctor}


def _stop(message: str, code: int = 2) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)


def main(args: list[str] | None = None) -> None:
    args = sys.argv[1:] if args is None else args
    if args[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    if not args:
        _stop(USAGE)
    try:
        if args[0] not in COMMANDS:
            _checks.nearest("ganfast", "command", args[0], COMMANDS)
        COMMANDS[args[0]](args[1:])
    except KeyboardInterrupt as stop:
        _stop(f"ganfast: {str(stop) or 'stopped at once; what was saved before stays, and --resume goes on from it'}", 130)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if sys.flags.dev_mode:
            raise
        hint = "; pip install 'ganfast[train]'" if isinstance(error, ModuleNotFoundError) else ""
        _stop(f"ganfast: {' '.join(str(error).removeprefix('ganfast: ').split())}{hint}")
