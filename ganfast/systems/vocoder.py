"""A vocoder: mel spectrograms become sound, by a small BigVGAN, beside what Griffin-Lim makes of the same spectrograms.

Source: Lee et al. 2023, "BigVGAN" (generator, resolutions); Kong et al. 2020, "HiFi-GAN" (periods, least squares, features, mels); Yamamoto
    et al. 2020, "Parallel WaveGAN" (the distance of spectra).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

import ganfast.functional as GF
from ganfast.models.vocoder import BigVGANGenerator
from ganfast.models.vocoder_discriminators import MultiPeriodDiscriminator, MultiResolutionDiscriminator
from ganfast.systems import form
from ganfast.systems.form import Sound
from ganfast.systems.sources import speech, wav
from ganfast.systems.spectra import Mel, decibels, distance, griffin_lim, resolutions
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import to_uint8
from ganfast.train.randomness import own_randomness
from ganfast.train.watch.grids import tile

JUDGES = ("periods", "resolutions")
STRETCH = 1.5  # seconds of a held-out sound that are measured at once
MOST = 40  # stretches that are measured
MIDDLE, SPREAD = -5.0, 3.0  # of the logarithms of mels, about


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """a folder of WAV files of your own, a tenth of which, 20 at most, is held out; none: what `sounds` says"""
    steps: int = 2000
    """length of the training; schedules end with it"""
    sounds: Literal["speech", "tones"] | None = None
    """speech, spoken by espeak-ng, or tones and noises that are made here; none: speech where espeak-ng is installed"""
    clips: int = 160
    """how many of these are learned from"""
    sample_rate: int = 8000
    """samples a second; files of another rate are refused"""
    mels: int = 24
    """bands of a mel spectrogram"""
    fft: int = 512
    """samples of its windows"""
    rates: tuple[int, ...] = (8, 4, 4)
    """steps by which a frame becomes samples; they multiply to the samples from one frame to the next"""
    segment: int = 2048
    """samples of the pieces that are learned from, a multiple of that"""
    batch_size: int = 4
    """pieces a step"""
    width: int = 64
    """channels of the generator before the first step; each step halves them"""
    block_kernels: tuple[int, ...] = (7,)
    """residual blocks after each step, by the sizes of their convolutions"""
    dilations: tuple[int, ...] = (1, 3)
    """of the convolutions in a block"""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """by which a discriminator folds the sound"""
    width_d: int = 4
    """channels of the discriminators' first layers"""
    learning_rate: float = 5e-3
    """of the generator"""
    learning_rate_d: float = 1e-3
    """of the discriminators"""
    mel: float = 45.0
    """weight of the mean difference of mel spectrograms"""
    spectrum: float = 15.0
    """weight of the distance that is measured, on what is learned from"""
    adversarial: float = 1.0
    """weight of the adversarial loss; 0: there are no discriminators"""
    features: float = 2.0
    """weight of the mean difference of the discriminators' features"""
    adversarial_every: int = 8
    """steps from one with the discriminators, which take most of the time, to the next"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clips", "batch_size", "width_d", "adversarial_every", "mels", "sample_rate"):
            self.want(name, getattr(self, name) >= 1, "at least 1")
        for name in ("rates", "block_kernels", "dilations", "periods"):
            self.want(name, getattr(self, name) and min(getattr(self, name)) >= 1, "numbers of at least 1")
        halves = 2 ** len(self.rates)
        self.want("width", self.width >= halves and self.width % halves == 0, f"a multiple of {halves}: {len(self.rates)} steps halve it")
        fits = self.fft >= self.hop and (self.fft - self.hop) % 2 == 0
        self.want("fft", fits, f"an even number more than {self.hop}, which is what the rates multiply to")
        whole = self.segment % self.hop == 0 and self.segment >= self.fft
        self.want("segment", whole, f"a multiple of {self.hop}, which is what the rates multiply to, of at least fft, {self.fft}")
        for name in ("learning_rate", "learning_rate_d"):
            self.want(name, getattr(self, name) > 0, "a number above 0")
        for name in ("mel", "spectrum", "adversarial", "features"):
            self.want(name, getattr(self, name) >= 0, "0, which leaves it out, or more")
        self.want("mel", self.mel + self.spectrum > 0, "a weight above 0 where spectrum is 0 too: discriminators alone teach slowly")
        self.of_own_data("sounds", "clips")
        _ = self.analysis  # whose errors come before anything is made

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.rates)

    @property
    def analysis(self) -> Mel:
        return Mel(self.sample_rate, self.fft, self.hop, self.mels)

    @property
    def kind(self) -> str:
        return self.sounds or ("speech" if speech.program() else "tones")


def stretches(sounds: Sequence[Tensor], length: int) -> Tensor:
    """[N, 1, length]: sounds [T] cut; a shorter one gets silence behind it, the rest of a longer one is left out."""
    return torch.cat([F.pad(sound, (0, max(0, length - len(sound)))).unfold(0, length, length) for sound in sounds])[:, None]


def given(mel: Mel, sound: Tensor) -> Tensor:
    """A mel spectrogram [N, mels, T / hop] as the generator takes it: around 0, where its sines can tell numbers apart."""
    return (mel.log_mel(sound) - MIDDLE) / SPREAD


def pieces(sounds: Sequence[Tensor], mel: Mel, length: int, seed: int) -> dict[str, Tensor]:
    """wave [N, 1, length]: each sound [T] cut twice, from random places on, without what is silent; mel [N, mels, length / hop], as the
    sound around the piece has it."""
    random, waves, mels, frames = torch.Generator().manual_seed(seed), [], [], length // mel.hop
    for sound in (*sounds, *sounds):
        start = torch.randint(0, length, (), generator=random).item()
        padded = F.pad(sound, (start, -(len(sound) + start) % length))[None, None]
        waves.append(padded[0].unfold(1, length, length).transpose(0, 1))
        mels.append(given(mel, padded)[0].unfold(1, frames, frames).transpose(0, 1))
    waves, mels = torch.cat(waves), torch.cat(mels)
    heard = waves.abs().amax((1, 2)) > 0.01
    heard = heard if heard.any() else ~heard
    return {"mel": mels[heard].contiguous(), "wave": waves[heard].contiguous()}


@form.remembered("data", "kind", "clips", "sample_rate", "seed")
def sets(o: Options) -> tuple[list[Tensor], list[Tensor]]:
    """Sounds [T] to learn from, and held out."""
    if o.data is not None:
        return speech.folder(o.data, o.sample_rate)
    return speech.made(o.kind, o.sample_rate, o.clips, o.seed)


def mels(mel: Mel) -> Callable:
    return lambda networks, batch: F.l1_loss(mel.log_mel(batch.fake(networks.generator)), mel.log_mel(batch.real))


def spectra(rate: int) -> Callable:
    return lambda networks, batch: distance(batch.fake(networks.generator), batch.real, rate).mean()


def told(backend: str | None) -> Callable:
    """The discriminators' losses, least squares; twice GF's, which has HiFi-GAN's by half."""

    def term(networks, batch) -> Tensor:
        pairs = [pair for name in JUDGES for pair in zip(networks[name](batch.real), networks[name](batch.fake(networks.generator)))]
        return sum(2 * GF.discriminator_loss(real, made, kind="lsgan", backend=backend) for (real, _), (made, _) in pairs)

    return term


def judged(backend: str | None, adversarial: float, features: float) -> Callable:
    """What the discriminators say of made sound, and how far their features of it are from those of the real one."""

    def term(networks, batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = {"adversarial": 0.0, "features": 0.0}
        for name in JUDGES:
            with torch.no_grad():
                real = networks[name](batch.real)
            for (logits, seen), (_, wanted) in zip(networks[name](batch.fake(networks.generator)), real):
                found["adversarial"] += 2 * GF.generator_loss(logits, kind="lsgan", backend=backend)
                found["features"] += sum((one - other).abs().mean() for one, other in zip(seen, wanted))
        return adversarial * found["adversarial"] + features * found["features"], found

    return term


def generator(o: Options) -> BigVGANGenerator:
    return BigVGANGenerator(o.mels, o.width, o.rates, [2 * rate + rate % 2 for rate in o.rates], o.block_kernels, o.dilations, bias=False)


def build(options: Options) -> Trainer:
    o = options
    train, _ = sets(o)
    data = pieces(train, o.analysis, o.segment, o.seed)
    networks = {"generator": Network(generator(o))}  # first: `measure` makes it again, by the seed
    settings = {"batch_size": o.batch_size, "latent_dim": 0, "learning_rate": o.learning_rate, "betas": (0.8, 0.99), "loss": "lsgan"}
    config = o.config(**settings, decay_from=0.3, ema=0.98)
    near = {"mel": (mels(o.analysis), o.mel), "spectrum": (spectra(o.sample_rate), o.spectrum)}
    near = {name: term for name, term in near.items() if term[1]}
    phases = [Phase("g", "generator", near, average=True)]
    if o.adversarial:
        backend, every = None if o.fused else "torch", o.adversarial_every
        networks["periods"] = Network(MultiPeriodDiscriminator(o.periods, o.width_d), o.learning_rate_d)
        networks["resolutions"] = Network(MultiResolutionDiscriminator(resolutions(o.sample_rate), o.width_d), o.learning_rate_d)
        terms = near | {"judged": (judged(backend, o.adversarial, o.features), 1.0)}
        d = Phase("d", JUDGES, {"told": (told(backend), 1.0)}, interval=every)
        phases = [d, Phase("gan", "generator", terms, interval=every, average=True), *(phases if every > 1 else [])]
    return Trainer(networks=networks, data=data, config=config, phases=phases, condition="mel", real="wave")


def held(o: Options) -> Tensor:
    """[N, 1, T]: stretches of what is held out."""
    return stretches(sets(o)[1], int(STRETCH * o.sample_rate) // o.hop * o.hop)[:MOST]


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """On held-out sound, from its mel spectrogram: distance, spectra.distance of what is made; distance_start, of the same network as it
    was before the training; griffin_lim, of what Griffin-Lim makes; distance_ratio and over_griffin_lim are the first over these two. mel,
    the mean difference of logarithms of mels."""
    sounds, mel = held(options), options.analysis
    found = heard(trainer, options, sounds, 0)
    with own_randomness(options.seed), torch.no_grad():
        begun = generator(options)(given(mel, sounds))
    far = lambda sound: distance(sound, sounds, options.sample_rate).mean().item()
    figures = {"distance": far(found["generated"]), "distance_start": far(begun), "griffin_lim": far(found["griffin_lim"])}
    ratios = {"distance_ratio": "distance_start", "over_griffin_lim": "griffin_lim"}
    figures |= {name: figures["distance"] / max(figures[of], 1e-9) for name, of in ratios.items()}
    return figures | {"mel": F.l1_loss(mel.log_mel(found["generated"]), mel.log_mel(sounds)).item()}


def heard(trainer: Trainer, options: Options, sounds: Tensor, seed: int) -> dict[str, Tensor]:
    """[N, 1, T] each: the sounds themselves, and what the generator and Griffin-Lim make of their mel spectrograms."""
    mel = options.analysis
    made = trainer.sample(len(sounds), given(mel, sounds)).cpu()
    return {"original": sounds, "generated": made, "griffin_lim": griffin_lim(mel, mel.log_mel(sounds), seed=seed)}


def said(options: Options, name: str, sound: Tensor) -> Sound:
    """With what its file tells of it beside what it tells of all that is made; the original, and what was not made by the network, with
    words of their own alone."""
    credit = SYSTEM.credit_of(options)
    source = {"Credit": credit} if credit else {}
    words = {
        "generated": {},
        "original": {"Original": "held-out sound, not made by the network"} | source,
        "griffin_lim": {"Synthetic": "yes: by Griffin-Lim, which learned nothing, from a mel spectrogram", "Software": "ganfast"} | source,
    }
    return Sound(sound.flatten(), options.sample_rate, words[name], name == "generated")


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Spectrograms of two held-out stretches: the original, below it what the generator made, below that Griffin-Lim's. All stretches as
    sound, in the run's folder: original.wav, generated.wav, griffin_lim.wav."""
    found = heard(trainer, options, held(options), options.seed)
    if trainer.run_dir:
        for name, sounds in found.items():
            sound = said(options, name, sounds)
            fields = SYSTEM.fields_of(trainer, options) if sound.made else {}
            wav.write(trainer.run_dir / f"{name}.wav", sound.wave, sound.rate, fields | sound.fields)
    shown = torch.cat([decibels(sounds[:2], options.sample_rate) for sounds in found.values()])
    bright = ((shown + 80) / 80).clamp(0, 1).flip(1)
    colours = torch.from_numpy(matplotlib.colormaps["magma"](bright.numpy())[..., :3]).float().permute(0, 3, 1, 2)
    return to_uint8(tile(2 * colours - 1, min(2, len(held(options)))))


def sample(trainer: Trainer, options: Options, *, count: int, seed: int) -> dict[str, Sound]:
    """`count` held-out stretches, or all if they are fewer, which follow from the seed, each as three files."""
    sounds = held(options)
    chosen = sounds[torch.randperm(len(sounds), generator=torch.Generator().manual_seed(seed))[:count]]
    found = heard(trainer, options, chosen, seed)
    return {f"sound-{i:03d}-{name}": said(options, name, found[name][i]) for i in range(len(chosen)) for name in found}


def applied(trainer: Trainer, options: Options, file: Path) -> dict[str, Sound]:
    """A WAV file to its mel spectrogram, and that back to sound, with what Griffin-Lim makes of it."""
    sound, rate = wav.read(file)
    speech.check_rates("input", {file.name: rate}, options.sample_rate)
    length = max(len(sound), options.fft)
    padded = F.pad(sound, (0, length + -length % options.hop - len(sound)))[None, None]
    found = heard(trainer, options, padded, options.seed)
    return {f"-{name}": said(options, name, found[name][..., : len(sound)]) for name in ("generated", "griffin_lim")}


SYSTEM = form.System(
    "vocoder",
    "makes sound of mel spectrograms, as text-to-speech needs it: sentences, or tones and noises",
    Options,
    build,
    measure,
    picture,
    goals={"distance_ratio": ("<=", 0.5), "over_griffin_lim": ("<=", 1.0)},
    credit=lambda options: "" if options.data else speech.credit(options.kind),
    sample=sample,
    applied=applied,
    hears=True,
    fixed=("sounds", "clips", "sample_rate", "mels", "fft", "rates"),
)
