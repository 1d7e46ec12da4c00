"""Settings that suit the data and the networks: what `ganfast train` begins with, before options."""

from pathlib import Path

from ganfast.train.command_line.recipes import Recipe
from ganfast.train.data import folders
from ganfast.train.known_answers import mixtures

# Small networks learn by the number of steps, and batch 128 makes the most of a second; G swings round its modes until the rates have
# fallen, so samples come from its average.
PLANE = {
    "precision": "fp32", "width": 128, "latent_dim": 2, "batch_size": 128, "loss": "relativistic", "penalty_end": 1e-3,
    "learning_rate": 2e-3, "betas": (0.0, 0.99), "decay": "cosine", "decay_from": 0.0, "ema": 0.999,
    "log_every": 100, "sample_every": 500, "metrics_every": 500, "checkpoint_every": 2000,
}  # fmt: skip
IMAGES = {"run_dir": "runs/images", "image_size": 64, "width": 64, "latent_dim": 100}
PRESETS = {
    "digits": {"run_dir": "runs/digits", "noise": 0.3},
    # The penalty's weight goes with the square of the data's width, and falls until D may be as sharp as a mode.
    "ring8": {"run_dir": "runs/ring8", "r1": 0.05, "r2": 0.05, "steps": 8000, **PLANE},
    "grid25": {"run_dir": "runs/grid25", "r1": 1.5, "r2": 1.5, "steps": 12000, **PLANE},
}
FEW = 50_000  # images, below which a discriminator of this kind learns them by heart
SHOWN = 500, 200_000, 25_000_000  # a run shows each image so often, but so many images at least, and at most


def preset(name: str, model: str = "auto", image_size: int | None = None, batch: int | None = None, **changes) -> Recipe:
    """The settings that suit the data called `name`, networks, image size and batch, with `changes`."""
    chosen = {} if image_size is None else {"image_size": image_size}
    if model in STYLED and name not in mixtures.MIXTURES:
        size = image_size or (32 if name == "digits" else 64)
        chosen |= {"run_dir": f"runs/{name if name == 'digits' else 'images'}-{model}", "image_size": size, "model": model}
        chosen |= DIGITS[model] if name == "digits" and size <= 32 else STYLED[model](size, _count(name), batch)
    elif model != "auto":
        chosen["model"] = model
    return Recipe(data=name, **PRESETS.get(name, IMAGES) | chosen | changes)


def _count(name: str) -> int:
    """How many images there are, by the files' names; 0 where that is not known yet, and said later."""
    if name == "digits":
        return 1797
    return len(folders.image_files(Path(name))[0]) if Path(name).is_dir() else 0


def _batch(size: int) -> int:
    return max(4, min(32, 4096 // size))


def _steps(count: int, batch: int) -> int:
    each, least, most = SHOWN
    return min(most, max(least, each * count)) // batch


def stylegan2(size: int, count: int, batch: int | None = None) -> dict:
    """Batch, rates and R1's weight as a rule of the published code's configuration "auto" for one GPU has them."""
    batch = batch or _batch(size)
    return {
        "noise": 0.0, "batch_size": batch, "steps": _steps(count, batch), "width": (32_768 if size >= 512 else 16_384) // size,
        "latent_dim": 512, "mapping_layers": 2, "learning_rate": 2e-3 if size >= 1024 else 2.5e-3, "betas": (0.0, 0.99),
        "decay_from": 1.0, "ema": 0.5 ** (32 / 10_000), "r1": 1e-4 * size**2 / batch, "penalty_every": 16, "path_length": 2.0,
        "lazy_correction": True, "flip": False, "augment": "ada" if count < FEW else "",
    }  # fmt: skip


def r3gan(size: int, count: int, batch: int | None = None) -> dict:
    """Widths, loss, rates and courses as published with the paper for faces, at 64x64 and 256x256 (R1's weight between and beyond along
    their power law); below that widths as for CIFAR-10, R1's weight halved with the size as between the two ImageNets."""
    batch = batch or 8 * _batch(size)
    gamma = 2.0 * (size / 64) ** (3.114 if size > 64 else 1)  # 150 at 256x256
    return {
        "noise": 0.0, "batch_size": batch, "steps": _steps(count, batch), "width": 24_576 // size if size >= 64 else 192,
        "widest": 768 if size >= 64 else 192, "blocks": 2, "latent_dim": 64, "loss": "relativistic", "learning_rate": 2e-4,
        "decay": "cosine", "decay_from": 0.0, "decay_to": 0.25, "betas": (0.0, 0.9), "beta2_end": 0.99, "ema": 0.5 ** (batch / 500_000),
        "ema_ramp": 28.0, "r1": gamma / 2, "r2": gamma / 2, "penalty_end": 0.1, "penalty_decay": "cosine",
        "augment": "ada" if count < FEW else "", "ada_course": 0.3 if count < FEW else None,
    }  # fmt: skip


STYLED = {"stylegan2": stylegan2, "r3gan": r3gan}
# At 32 pixels and less the digits are simple: narrow networks and larger rates learn them in minutes on a CPU. In so short a run StyleGAN2
# loses most ways of writing a digit under the published loss. It keeps them under the paired one, where the penalties are strong at first
# and the discriminator's rate is twice the generator's.
DIGITS = {
    "stylegan2": stylegan2(32, 1797) | {
        "width": 8, "latent_dim": 64, "steps": 2500, "loss": "relativistic", "r1": 10.0, "r2": 10.0, "penalty_every": 8, "penalty_end": 0.1,
        "lazy_correction": False, "learning_rate": 5e-3, "discriminator_learning_rate": 1e-2, "decay_from": 0.5, "ema": 0.99,
        "path_length_every": 16, "augment": "",
    },
    "r3gan": r3gan(32, 1797) | {
        "width": 16, "widest": 256, "blocks": 1, "batch_size": 32, "steps": 2500, "learning_rate": 1.5e-3, "r1": 0.25, "r2": 0.25,
        "penalty_every": 4, "ema": 0.99, "ema_ramp": 10.0, "augment": "", "ada_course": None,
    },
}  # fmt: skip
