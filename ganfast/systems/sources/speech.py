"""Sound to learn from: sentences that espeak-ng speaks, tones and noises that are made here, or a folder of WAV files of your own."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import own, wav
from ganfast.train.randomness import mixed

PROGRAMS = ("espeak-ng", "espeak")
HELD = 12  # clips that are held out of what is made
PEAK, ROOM = 0.8, 3e-4  # of each clip that is made: its largest sample, and the deviation of a noise that it has throughout

VOICE = "en-us+m3"  # one speaker, as the corpora that vocoders are compared on have
SENTENCES = """
The kettle whistled twice before anybody came into the kitchen.
Seven grey geese crossed the river on a cold morning in March.
She folded the map and walked toward the sound of the train.
My brother keeps his old bicycle under a blue sheet in the garage.
We asked for two small boxes and were given a single large one.
A thin line of smoke rose from the chimney across the valley.
Nobody noticed that the clock had stopped at a quarter past three.
Please put the yellow jar back on the shelf above the window.
The violin was older than the house in which it was found.
He counted the steps to the lighthouse and lost count at ninety.
Rain fell on the tin roof through the whole of the night.
The shop on the corner sells bread, cheese, and cheap umbrellas.
Their dog barks at ships but never at people.
In winter the lake freezes and the children skate to school.
I thought that the visitor would leave before supper.
The judge read the letter slowly and put it away.
Fresh paint and sawdust filled the air of the workshop.
An echo answered from the other side of the quarry.
Could you tell me which of these buses goes to the harbour?
The garden is full of beans, onions, and very large pumpkins.
Those photographs were taken from a balloon above the coast.
Every evening the ferry brings newspapers and a few tired travellers.
The youngest of them sang a song about a fox and a crow.
It took four men to push the piano up the narrow stairs.
Without his glasses the teacher read the sign as a warning.
The museum opens at ten and closes when the guard is hungry.
Sugar, flour, and a pinch of salt are all that you need.
The wind turned, and the sails began to flap and crack.
A brass key lay on the table beside the unopened parcel.
Why does the moon look larger when it is near the hills?
They measured the field with a rope and a great deal of patience.
The last page of the book had been torn out long ago.
""".strip().splitlines()
LAST = 8  # sentences that only the held-out clips say


def credit(kind: str) -> str:
    """Where sounds of a kind come from."""
    return f"sentences written for ganfast, spoken by the program {program() or PROGRAMS[0]}" if kind == "speech" else "made here"


def program() -> str | None:
    """The name of the program that speaks, of those on PATH; None where there is none."""
    return next((name for name in PROGRAMS if shutil.which(name)), None)


def made(kind: str, rate: int, clips: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """(for training, held out): sounds float32 [T] at `rate`. What is held out is the same for every seed; its sentences are in no
    training, nor are its tones.

    kind: speech, or tones. Raises: ValueError for speech where no program is found that speaks, RuntimeError where it fails.
    """
    train, held = (clips, rate, mixed(seed, "train")), (HELD, rate, mixed("held out"))
    if kind == "speech":
        return _spoken(*train, SENTENCES[:-LAST]), _spoken(*held, SENTENCES[-LAST:])
    return _tones(*train), _tones(*held)


def _spoken(count: int, rate: int, seed: int, texts: Sequence[str]) -> list[Tensor]:
    name = program()
    if name is None:
        _checks.fail("vocoder", f"sounds got 'speech', wants {' or '.join(PROGRAMS)} on PATH", "--sounds tones is made here")
    random, found = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            file = Path(folder) / f"{i}.wav"
            how = {"-v": VOICE, "-s": random.integers(140, 181), "-p": random.integers(40, 61), "-w": file}
            given = [str(word) for pair in how.items() for word in pair]
            done = subprocess.run([name, *given, texts[i % len(texts)]], capture_output=True, text=True, check=False)
            if done.returncode or not file.exists():
                raise RuntimeError(f"vocoder: {name} failed: {done.stderr.strip() or f'exit status {done.returncode}'}.")
            sound, its_rate = wav.read(file)
            found.append(_recorded(_resampled(sound, its_rate, rate), random))
    return found


def _resampled(sound: Tensor, old: int, new: int) -> np.ndarray:
    from scipy.signal import resample_poly

    return resample_poly(sound.numpy().astype(np.float64), new, old)


def _recorded(sound: np.ndarray, random: np.random.Generator) -> Tensor:
    """As a microphone in a quiet room would have it: loud, and never without noise."""
    sound = sound * (PEAK / max(1e-6, np.abs(sound).max())) + random.normal(0, ROOM, len(sound))
    return torch.from_numpy(sound.astype(np.float32))


def _tones(count: int, rate: int, seed: int) -> list[Tensor]:
    random = np.random.default_rng(seed)
    return [_recorded(_phrase(random, rate), random) for _ in range(count)]


def _phrase(random: np.random.Generator, rate: int) -> np.ndarray:
    """Two to three seconds like speech: syllables of a voice whose pitch glides and trembles, through three resonances that move, hisses
    between them, and silence."""
    voice, parts = random.uniform(95, 125), []
    for _ in range(int(random.integers(8, 13))):
        kind = random.choice(3, p=(0.6, 0.25, 0.15))
        length = int(rate * random.uniform(0.12, 0.32))
        if kind == 0:
            parts.append(_voiced(random, rate, length, voice))
        elif kind == 1:
            parts.append(0.12 * _hiss(random, rate, length // 2))
        else:
            parts.append(np.zeros(length // 2))
    return np.concatenate([np.zeros(rate // 10), *parts, np.zeros(rate // 10)])


def _envelope(length: int, rate: int) -> np.ndarray:
    """Rises within 20 ms and falls within 40."""
    place = np.arange(length)
    return np.minimum(1, np.minimum(place / (0.02 * rate), (length - 1 - place) / (0.04 * rate)))


def _voiced(random: np.random.Generator, rate: int, length: int, voice: float) -> np.ndarray:
    time, share = np.arange(length) / rate, np.linspace(0, 1, length)
    glide = random.uniform(0.85, 1.2, 2)
    trembling = 0.02 * np.sin(2 * np.pi * random.uniform(4, 7) * time + random.uniform(0, 6))
    pitch = voice * (glide[0] + (glide[1] - glide[0]) * share) * (1 + trembling)
    ranges, widths = ((250, 850), (900, 2300), (2400, 3300)), (90, 120, 180)
    ends = [random.uniform(*each, 2) for each in ranges]
    phase, found = 2 * np.pi * np.cumsum(pitch) / rate + random.uniform(0, 6), np.zeros(length)
    for harmonic in range(1, int(rate / 2 / pitch.min()) + 1):
        at = harmonic * pitch
        gain = sum(1 / (1 + ((at - (a + (b - a) * share)) / width) ** 2) / (1 + i) for i, ((a, b), width) in enumerate(zip(ends, widths)))
        found += np.where(at < 0.48 * rate, (gain + 0.02) / harmonic**0.5, 0) * np.sin(harmonic * phase)
    return found * _envelope(length, rate) * random.uniform(0.5, 1)


def _hiss(random: np.random.Generator, rate: int, length: int) -> np.ndarray:
    """Noise around one frequency."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    at, middle = np.fft.rfftfreq(length, 1 / rate), random.uniform(0.15, 0.4) * rate
    return 3 * np.fft.irfft(spectrum * np.exp(-0.5 * ((at - middle) / (0.06 * rate)) ** 2), length) * _envelope(length, rate)


def folder(data: str, rate: int) -> tuple[list[Tensor], list[Tensor]]:
    """(for training, held out) of the WAV files at or below `data`, in the order of their names: every tenth is held out, of more than 200
    files fewer, of fewer than ten the last.

    Raises: ValueError for a folder that is missing or holds fewer than two files, for files that cannot be read, and for those of another
        sample rate, which nothing here resamples.
    """
    root = Path(data).expanduser()
    files = wav.below("vocoder", root) if root.is_dir() else []
    if len(files) < 2:
        got = f"holds {len(files)} WAV files" if root.is_dir() else "is no folder"
        _checks.fail("vocoder", f"data got {data!r}, which {got}, wants a folder of at least two", "One of them is held out")
    found, broken = {}, []
    for file in files:
        try:
            found[str(file.relative_to(root))] = wav.read(file)
        except own.Unreadable as error:
            broken.append(f"{file.relative_to(root)} ({error})")
    own.none("vocoder", "files that cannot be read", broken)
    check_rates("data", {name: its for name, (_, its) in found.items()}, rate, "--sample-rate {} takes these as they are, and")
    every = max(10, -(-len(found) // 20)) if len(found) >= 10 else len(found)
    sounds = [sound for sound, _ in found.values()]
    return [sound for i, sound in enumerate(sounds) if i % every != every - 1], sounds[every - 1 :: every]


def check_rates(option: str, rates: dict[str, int], rate: int, remedy: str = "") -> None:
    """Raises: ValueError where some of these files have another sample rate than the run's. remedy: what else may be done if all of them
    have one other rate, {}."""
    if not (wrong := {name: its for name, its in rates.items() if its != rate}):
        return
    others = set(wrong.values())
    remedy = remedy.format(*others) if len(others) == 1 and len(wrong) == len(rates) else ""
    got = f"{option} has {len(wrong)} files whose sample rate is not {rate} Hz"
    listed = own.listed([f"{name} ({its} Hz)" for name, its in wrong.items()])
    cause = f"Nothing is resampled here: {remedy} ffmpeg -i IN.wav -ar {rate} OUT.wav resamples one"
    _checks.fail("vocoder", f"{got}: {listed}", " ".join(cause.split()))
