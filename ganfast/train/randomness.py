"""Random numbers that depend on a seed and a position alone, whatever was drawn before: seeds, permutations, global generators."""

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def mixed(*numbers: object) -> int:
    """A seed of 32 bits, hashed from all of them; torch's CPU generator uses no more bits of a seed."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:4], "little")


def permutation(length: int, seed: int, epoch: int) -> Tensor:
    """[length] int64 on the CPU, from (seed, epoch) alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mixed(seed, epoch)))


def global_state() -> tuple:
    """The states of Python's, torch's (CPU) and numpy's global generators, which can be compared by ==."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().numpy().tobytes(), (kind, keys.tobytes(), *rest)


def seed_all(seed: int) -> None:
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, the global generators, those of a GPU `device` too, start from `seed`; afterwards they have their old state."""
    on_gpu = device is not None and device.type == "cuda"
    python, torchs, numpys = random.getstate(), torch.get_rng_state(), np.random.get_state()
    gpus = torch.cuda.get_rng_state(device) if on_gpu else None
    try:
        seed_all(seed)
        if on_gpu:
            torch.cuda.default_generators[torch.empty(0, device=device).device.index].manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)
        if on_gpu:
            torch.cuda.set_rng_state(gpus, device)
