"""The command `ganfast`: train, sample, compare, doctor. A user's mistake is one line on stderr and exit code 2."""

import contextlib
import importlib
import importlib.metadata
import io
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ganfast import _checks

if TYPE_CHECKING:
    from ganfast.train.checkpoint import Sampler

USAGE = """usage: ganfast {train,sample,compare,doctor} [options]

  train    train a DCGAN on the digits or on a folder of images
  sample   images from a checkpoint, by label and seed
  compare  a model of your own, eager against ganfast: my_file.py:make_generator --shape 64,100,1,1
  doctor   versions, what is available on this machine, and why the rest is not

`ganfast COMMAND --help` lists a command's options; `python -X dev -m ganfast COMMAND` shows the traceback of an error."""


def _parse(kind: type, command: str, args: list[str], default: Any = None) -> Any:
    """tyro's parser, with its boxed error turned into a ValueError of one line."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"ganfast {command}", args=args, **({} if default is None else {"default": default}))
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip(" │╭╮╰╯─") for line in said.getvalue().splitlines()]
        raise ValueError(" ".join(line for line in lines if line)) from None


def train(args: list[str]) -> None:
    import tyro

    from ganfast.train import TrainConfig, Trainer, checkpoint
    from ganfast.train import config as configs

    @dataclass
    class Train:
        """Train a DCGAN; leaves config.json, log.jsonl, grids/ and checkpoint.pt in the run's folder."""

        config: tyro.conf.OmitArgPrefixes[TrainConfig]
        resume: bool = False
        """continue the run in run_dir: its settings are the defaults, options given here override them"""

    wanted = _parse(Train, "train", args)
    if wanted.resume:
        saved = configs.load(Path(wanted.config.run_dir) / checkpoint.CONFIG)
        wanted = _parse(Train, "train", args, Train(saved, True))
    trainer = Trainer(wanted.config, resume=wanted.resume)
    if trainer.broken:
        where = trainer.run_dir / checkpoint.BROKEN
        print(f"{len(trainer.broken)} images cannot be read and are left out, listed in {where}", file=sys.stderr)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        how = f"`ganfast train --resume --run-dir {trainer.run_dir}` continues from the last checkpoint"
        raise KeyboardInterrupt(f"stopped at step {trainer.steps}; {how}") from None
    print(f"{trainer.steps} steps; `ganfast sample {trainer.run_dir / checkpoint.CHECKPOINT}` makes images")


def _labels(sampler: "Sampler", label: str | None) -> list[int]:
    if label is None:
        return list(range(len(sampler.classes))) or [0]
    if not sampler.classes:
        _checks.fail("sample", f"label got {label!r}, wants none", "The checkpoint is of an unconditional generator")
    if label not in sampler.classes:
        _checks.nearest("sample", "label", label, sampler.classes)
    return [sampler.classes.index(label)]


def sample(args: list[str]) -> None:
    import torch
    import tyro

    from ganfast.train import checkpoint, grids

    @dataclass
    class Sample:
        """Images from a checkpoint's averaged generator: grid.png and each by itself."""

        checkpoint: tyro.conf.Positional[Path]
        label: str | None = None
        """a class by name; none: all of them"""
        seed: int = 0
        count: int = 10
        """images for each class"""
        out: Path | None = None
        """folder to write to; none: one beside the checkpoint, named by step, label and seed"""

    wanted = _parse(Sample, "sample", args)
    if wanted.count < 1:
        _checks.fail("sample", f"count got {wanted.count}, wants at least 1")
    sampler = checkpoint.load_sampler(wanted.checkpoint)
    labels = torch.tensor(_labels(sampler, wanted.label)).repeat_interleave(wanted.count)
    images = sampler(labels, wanted.seed)
    which = "all" if wanted.label is None else _file_name(wanted.label)
    out = wanted.out or wanted.checkpoint.parent / f"sample-step{sampler.step}-{which}-seed{wanted.seed}"
    out.mkdir(parents=True, exist_ok=True)
    fields = grids.about(sampler.name, wanted.seed)
    grids.write_png(out / "grid.png", grids.tile(images, min(wanted.count, 10)), fields)
    for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        name = sampler.classes[label] if sampler.classes else "image"
        grids.write_png(out / f"{_file_name(name)}-{i % wanted.count:03d}.png", image, fields | {"Label": name})
    print(f"{len(images)} images and {out / 'grid.png'}")


def _file_name(name: str) -> str:
    """A class's name comes from a checkpoint, maybe a stranger's: no path separators."""
    return re.sub(r"[^\w-]", "_", name)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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
        module = importlib.import_module(where)
    if not hasattr(module, name):
        _checks.nearest("compare", f"a name in {where}", name, [n for n in dir(module) if not n.startswith("_")])
    made = getattr(module, name)
    if isinstance(made, nn.Module):
        return made
    if not callable(made):
        _checks.fail("compare", f"{target} is a {type(made).__name__}, wants a model, or what makes one without arguments")
    try:
        return made()
    except Exception as error:  # the user's own code
        _checks.fail("compare", f"{target}() failed: {type(error).__name__}: {error}")


def compare(args: list[str]) -> None:
    import argparse

    parser = argparse.ArgumentParser(
        "ganfast compare", description="A model of your own, eager against ganfast: time, memory, errors, and what each layer became."
    )
    parser.add_argument("model", help="file.py:name or package.module:name, a model or what makes one without arguments")
    parser.add_argument(
        "--shape", action="append", required=True, help="sizes of an input, drawn from a normal distribution; once per input"
    )
    parser.add_argument("--device", default=None, help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--seconds", type=float, default=12.0, help="about how long to measure")
    parser.add_argument("--recompute", action="store_true", help="as accelerate(model, recompute=True)")
    wanted = parser.parse_args(args)
    shapes = [_shape(text) for text in wanted.shape]
    import torch

    import ganfast

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

    print(f"ganfast {_version('ganfast')}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}, {torch.get_num_threads()} CPU threads")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            print(f"GPU {i}: {torch.cuda.get_device_name(i)}, sm_{major}{minor}")
    print("\nbackends")
    for name, (available, reason) in ganfast.backends().items():
        print(f"  {name:<10} {'yes' if available else 'no ':<4} {reason}")
    missing = [name for name in ("tyro", "tqdm", "pillow", "numpy", "scikit-learn", "matplotlib") if _version(name) == "not installed"]
    print("\ntraining: " + (f"missing {', '.join(missing)}; pip install 'ganfast[train]'" if missing else "ready"))
    if not ganfast.backends()["cpu"].available:
        print(
            "native parts: install a C++ compiler and ninja, then from a checkout `pip install --no-build-isolation .`"
            " (GANFAST_BUILD=cpu or =cuda says what must be built; cuda wants nvcc)"
        )


COMMANDS = {"train": train, "sample": sample, "compare": compare, "doctor": doctor}


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
        _stop(f"ganfast: {stop}", 130)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if sys.flags.dev_mode:
            raise
        hint = "; pip install 'ganfast[train]'" if isinstance(error, ModuleNotFoundError) else ""
        _stop(f"ganfast: {' '.join(str(error).split())}{hint}")
