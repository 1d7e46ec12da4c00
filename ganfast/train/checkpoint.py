"""A run's folder: what is in it, what may be written there, and the checkpoint's format."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast.models import DCGANDiscriminator, DCGANGenerator
from ganfast.train import config as configs
from ganfast.train.config import TrainConfig

FORMAT, VERSION = "ganfast-checkpoint", 1
CHECKPOINT, CONFIG, LOG, BROKEN, GRIDS = "checkpoint.pt", "config.json", "log.jsonl", "broken.txt", "grids"


def save(state: dict, path: Path) -> None:
    """`state`: tensors, numbers, strings, lists and dicts of these; all that weights_only=True reads back."""
    with configs.atomic(path) as file:
        torch.save({"format": FORMAT, "version": VERSION} | state, file)


def load(path: Path) -> dict:
    """The state that `save` was given, on the CPU.

    Raises: ValueError for a file that is missing, damaged, of another program, or of a newer ganfast.
    """
    if not path.is_file():
        raise ValueError(f"checkpoint: there is no file {path}.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # by where the damage lies: RuntimeError, UnpicklingError, EOFError, KeyError, ...
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"checkpoint: {path} cannot be read; it is cut short, damaged, or no checkpoint ({first[:120]}).") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("version"), int):
        raise ValueError(f"checkpoint: {path} was written by another program, wants one that `ganfast train` wrote.")
    if state["version"] > VERSION:
        raise ValueError(f"checkpoint: {path} has format version {state['version']}, this ganfast reads up to {VERSION}; update ganfast.")
    return state


def open_run(run_dir: Path, resume: bool) -> dict | None:
    """Before anything slow: makes the folder, sees that it takes files, and that no earlier run is lost. The state to resume from.

    Raises: ValueError with what to do.
    """
    state = load(run_dir / CHECKPOINT) if resume else None
    if not resume and (held := [name for name in (CHECKPOINT, CONFIG, LOG) if (run_dir / name).exists()]):
        raise ValueError(f"train: run_dir {run_dir} already holds a run ({', '.join(held)}); resume it, or choose another one.")
    try:
        (run_dir / GRIDS).mkdir(parents=True, exist_ok=True)
        with configs.atomic(run_dir / "writable"):
            pass
        (run_dir / "writable").unlink()
    except OSError as error:
        raise ValueError(f"train: run_dir {run_dir} cannot be written: {error.strerror or error}.") from None
    return state


def begin_run(run_dir: Path, config: TrainConfig, steps: int, broken: list[str]) -> None:
    """Writes the settings and the list of unreadable images; drops what a stopped run logged after its checkpoint at `steps`."""
    configs.save(config, run_dir / CONFIG)
    if broken:
        with configs.atomic(run_dir / BROKEN) as file:
            file.write("".join(line + "\n" for line in broken).encode())
    if (run_dir / LOG).is_file():
        lines = [line for line in (run_dir / LOG).read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= steps]
        with configs.atomic(run_dir / LOG) as file:
            file.write("".join(line + "\n" for line in lines).encode())


def check_same(state: dict, config: TrainConfig, classes: list[str]) -> None:
    """A resumed run keeps its networks and classes; the other settings may change."""
    saved, new = state["config"], configs.to_dict(config)
    for name in ("image_size", "channels", "latent_dim", "condition_dim", "width", "conditional"):
        if saved[name] != new[name]:
            raise ValueError(f"train: {name} got {new[name]!r}, the checkpoint has {saved[name]!r}; a resumed run keeps its networks.")
    if classes != state["classes"]:
        raise ValueError(f"train: data got the classes {classes}, the checkpoint has {state['classes']}; a resumed run keeps its classes.")


def networks(config: TrainConfig, classes: int) -> tuple[DCGANGenerator, DCGANDiscriminator]:
    """Freshly initialised from config.seed, which leaves torch's own random state as it was."""
    condition_dim = config.condition_dim if classes else None
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        generator = DCGANGenerator(config.image_size, config.latent_dim, config.width, config.channels, condition_dim, fused=config.fused)
        return generator, DCGANDiscriminator(config.image_size, config.width, config.channels, condition_dim, fused=config.fused)


class Sampler(NamedTuple):
    """A checkpoint's averaged generator, ready to sample."""

    generator: DCGANGenerator
    config: TrainConfig
    classes: list[str]
    conditions: Tensor | None  # [classes, condition_dim]
    source: str  # the run's folder or the checkpoint's file
    step: int

    @property
    def name(self) -> str:
        return f"DCGAN, {self.source}, step {self.step}"

    @torch.no_grad()
    def __call__(self, labels: Tensor, seed: int) -> Tensor:
        """[N, channels, S, S] in [-1, 1], one image per label (ignored if unconditional); the same for the same seed and labels."""
        device = next(self.generator.parameters()).device
        rng = torch.Generator().manual_seed(seed)  # on the CPU: the same latents on every device
        latent = torch.randn(len(labels), self.config.latent_dim, generator=rng).to(device)
        pairs = [(latent[i : i + 250], labels[i : i + 250].to(device)) for i in range(0, len(labels), 250)]
        conditions = self.conditions
        return torch.cat([self.generator(z, None if conditions is None else conditions[k]).float() for z, k in pairs])


@contextlib.contextmanager
def whole(path: Path, what: str) -> Iterator[None]:
    """Turns what goes wrong when a state is taken apart into a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0].rstrip(" :")
        raise ValueError(f"checkpoint: {path} does not hold a whole {what}; {reason}.") from None


def load_sampler(path: Path, device: torch.device | str = "cpu") -> Sampler:
    """Raises: ValueError as `load`, or for a checkpoint whose parts are missing or do not fit together."""
    state = load(path)
    with whole(path, "generator"):
        config = configs.from_dict(state["config"], str(path))
        generator, _ = networks(config, len(state["classes"]))
        generator.load_state_dict(state["ema"])
        conditions = None if state["conditions"] is None else state["conditions"].to(device)
        return Sampler(generator.to(device).eval(), config, state["classes"], conditions, str(path), state["steps"])
