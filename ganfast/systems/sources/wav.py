"""WAV files: read as they are, never resampled in silence, and written with a comment that says what they are."""

import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganfast.systems.sources import own
from ganfast.train.saving.disk import atomic


def read(file: Path) -> tuple[Tensor, int]:
    """(float32 [T] in [-1, 1], samples a second): PCM of 8, 16, 24 or 32 bits, or floats; several channels become their mean.

    Raises: Unreadable for whatever is no such file, and for one that holds no sound or numbers that are not finite.
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks beside the sound
            rate, found = wavfile.read(file)
    except Exception as error:  # scipy raises anything
        raise own.Unreadable(str(error)) from error
    if found.dtype == np.uint8:
        found = (found.astype(np.float32) - 128) / 128
    elif found.dtype.kind == "i":  # 24 bits come as the upper ones of 32
        found = found.astype(np.float64) / 2 ** (8 * found.dtype.itemsize - 1)
    sound = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))
    sound = sound.mean(1) if sound.dim() == 2 else sound
    if not len(sound) or not sound.isfinite().all():
        raise own.Unreadable("it holds numbers that are not finite" if len(sound) else "it holds no sound")
    return sound, rate


def below(system: str, root: Path) -> list[Path]:
    """The WAV files of a folder and its sub-folders, sorted, but for hidden ones. Raises: ValueError for a folder that cannot be read."""
    found, broken = [], []
    for folder, folders, files in os.walk(root, onerror=lambda error: broken.append(str(error.filename)), followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder) / name for name in files if name.lower().endswith(".wav") and not name.startswith(".")]
    own.none(system, "folders that cannot be read", broken)
    return sorted(found)


def write(path: Path, sound: Tensor, rate: int, fields: Mapping[str, str]) -> None:
    """sound [T] in [-1, 1], which is cut to that, as 16 bits; `fields` become the comment (ICMT) of the file's INFO."""
    samples = (sound.detach().cpu().float().clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()
    comment = "; ".join(f"{key}: {value}" for key, value in fields.items()).encode() + b"\0"
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    chunks = _chunk(b"fmt ", form) + _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", comment)) + _chunk(b"data", samples)
    with atomic(path) as file:
        file.write(_chunk(b"RIFF", b"WAVE" + chunks))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
