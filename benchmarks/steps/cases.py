"""The steps that are measured: published recipes with their sources, and what a CPU runs of them. In order of importance, as
a run's time limit cuts the tail."""

from typing import NamedTuple

from benchmarks.steps import games, styled
from benchmarks.steps.games import Game


class StepCase(NamedTuple):
    """`gpu`, `cpu`: the batches of each device. `cpu_size`, `cpu_width`: a smaller image or segment, a narrower network for a CPU;
    `cpu_dtypes`: those it has minutes for. `check`: the largest (batch, size) that a CPU's float64 reference is run at.
    `rounds`: at least so many on a CPU; `cpu_default`: eager as it comes is timed there too, in the bf16 rows.
    `compiled`, `graphed`: the rows, (batch, dtype), in which torch.compile and its max-autotune take part: a compilation takes up to
    minutes, all rows together have eight."""

    name: str
    game: type[Game]
    size: int
    width: int
    batch: int
    source: str
    gpu: tuple[int, ...] = ()
    cpu: tuple[int, ...] = ()
    cpu_size: int | None = None
    cpu_width: int | None = None
    cpu_dtypes: tuple[str, ...] = ("bf16", "fp32")
    check: tuple[int, int] = (4, 64)
    rounds: int = 3
    cpu_default: bool = False
    compiled: tuple[tuple[int, str], ...] = ()
    graphed: tuple[tuple[int, str], ...] = ()
    note: str = ""

    def play(self, **options) -> Game:
        return self.game(self.size, self.width, **options)

    @property
    def mode(self) -> str:
        return {"": "inference", "D": "D update", "DG": "D + G update", "GD": "G + D update"}[self.game.order]

    def checked(self, device: str) -> "StepCase":
        """What the oracle sees: on a CPU float64's convolutions take many times a step's time."""
        if device == "cuda":
            return self
        return self._replace(batch=min(self.batch, self.check[0]), size=min(self.size, self.check[1]))

    def smaller(self) -> str:
        """What the row leaves out of the published recipe, in words."""
        published = next(c for c in STEPS if c.name == self.name)
        size = f"size {self.size}, published {published.size}" if self.size != published.size else ""
        batch = f"batch {self.batch}, published {published.batch}" if self.batch != published.batch else ""
        width = f"width {self.width}, published {published.width}" if self.width != published.width else ""
        return "; ".join(word for word in (batch, size, width, self.note) if word)


_DCGAN = "Radford et al. 2016, width 64, batch 128, Adam 2e-4; with the draw from uint8 images, accuracies and an averaged generator"
_WGAN = "Gulrajani et al. 2017: lambda 10, Adam 1e-4 (0, 0.9), batch 64; DCGAN for 64x64, critic without norm"
_R1 = "Mescheder et al. 2018 (R1, gamma 10) with Jolicoeur-Martineau 2019's paired loss, as R3GAN (Huang et al. 2024); DCGAN-64, no norm"
_PIX2PIX = "Isola et al. 2017: U-Net for 256x256, 70x70 PatchGAN, cross entropy + 100 L1, batch 1"
_CYCLEGAN = "Zhu et al. 2017: two 9-block ResNets for 256x256, two 70x70 PatchGANs, least squares + 10 cycle + 5 identity, batch 1"
_HIFIGAN = "Kong et al. 2020: config_v1.json, segments of 8192 samples, batch 16, multi-period and multi-scale discriminators, AdamW"

_BIGVGAN = "Lee et al. 2023, small: the networks, batch and mel loss of ganfast run vocoder, 8 kHz; its discriminators at every step, AdamW"

_R3GAN = (
    "Huang et al. 2024, discriminator's turn for CIFAR-10: four stages of 768 channels, two blocks a stage, 3x3 in groups of 16, R1 + R2 "
    "at every step, batch 512; pooling by means for its filter"
)

_STYLEGAN2 = (
    "Karras et al. 2020, the published code's configuration for one GPU: 16,384 / size channels, two mapping layers, R1 every 16 steps, "
    "path lengths every 4; at 256x256 it takes 12.53 s for 1,000 images on one A100, all phases and the loop included"
)

_HALF = ("bf16",)
_SINGLE = ("fp32",)

STEPS = [
    StepCase(
        "dcgan64", games.DCGAN, 64, 64, 128, _DCGAN, gpu=(128, 1, 16, 64), cpu=(64, 16, 1), rounds=5, cpu_default=True,
        compiled=((128, "bf16"), (1, "bf16")), graphed=((128, "bf16"),),
    ),
    StepCase(
        "pix2pix", games.Pix2Pix, 256, 64, 1, _PIX2PIX, gpu=(1, 16), cpu=(1,), cpu_dtypes=_HALF, check=(1, 256), compiled=((1, "bf16"),)
    ),
    StepCase(
        "wgan-gp64", games.WGANGP, 64, 64, 64, _WGAN, gpu=(64,), cpu=(16,),
        note="one critic step and one generator step, published are five to one",
    ),
    StepCase("r1-relativistic64", games.R1, 64, 64, 64, _R1, gpu=(64,), cpu=(16,), note="R1 at every step"),
    StepCase(
        "r3gan-d", games.R3GAN, 32, 128, 512, _R3GAN, gpu=(32,), cpu=(32,), cpu_dtypes=("fp32",), check=(4, 32),
        note="width 128, published 768",
    ),
    StepCase(
        "stylegan2-64", styled.StyleGAN2, 64, 256, 32, _STYLEGAN2, gpu=(32,), cpu=(8,), cpu_width=32, cpu_dtypes=_SINGLE, check=(4, 16),
        compiled=((32, "bf16"),), note="without lazy penalties",
    ),
    StepCase(
        "stylegan2-64-penalised", styled.StyleGAN2Penalised, 64, 256, 32, _STYLEGAN2, gpu=(32,), cpu=(8,), cpu_width=32, cpu_dtypes=_SINGLE,
        check=(4, 16), note="with both penalties at every step",
    ),
    StepCase("stylegan2-256", styled.StyleGAN2, 256, 64, 16, _STYLEGAN2, gpu=(16,), note="without lazy penalties"),
    StepCase(
        "stylegan2-256-penalised", styled.StyleGAN2Penalised, 256, 64, 16, _STYLEGAN2, gpu=(16,), note="with both penalties at every step"
    ),
    StepCase(
        "dcgan128", games.DCGAN, 128, 64, 128, _DCGAN + "; one level more", gpu=(128, 1, 16), cpu=(16,), cpu_dtypes=_HALF, check=(2, 128)
    ),
    StepCase(
        "cyclegan", games.CycleGAN, 256, 64, 1, _CYCLEGAN, gpu=(1,), cpu=(1,), cpu_size=64, cpu_dtypes=_HALF, check=(1, 64),
        note="without the pool of images",
    ),
    StepCase(
        "hifigan-v1", games.HiFiGAN, 8192, 512, 16, _HIFIGAN, gpu=(16,), cpu=(1,), cpu_size=2048, cpu_dtypes=_HALF, check=(1, 1024),
        rounds=2, note="magnitudes of the spectrogram in place of its log-mels",
    ),
    StepCase(
        "vocoder", games.SmallBigVGAN, 2048, 64, 4, _BIGVGAN, gpu=(4,), cpu=(4,), cpu_dtypes=("fp32",), check=(1, 1024),
    ),
    StepCase(
        "hifigan-v1-g", games.Vocoder, 65536, 512, 1, _HIFIGAN, gpu=(1,), cpu=(1,), cpu_size=8192, cpu_dtypes=_HALF, check=(1, 2048)
    ),
]  # fmt: skip


def dtypes(case: StepCase, device: str) -> tuple[str, ...]:
    return ("bf16", "fp32") if device == "cuda" else case.cpu_dtypes


def planned(device: str) -> list[StepCase]:
    """A row's case for each batch of this kind of device."""
    found = []
    for case in STEPS:
        size = case.cpu_size if device == "cpu" and case.cpu_size else case.size
        width = case.cpu_width if device == "cpu" and case.cpu_width else case.width
        found += [case._replace(batch=batch, size=size, width=width) for batch in (case.gpu if device == "cuda" else case.cpu)]
    return found
