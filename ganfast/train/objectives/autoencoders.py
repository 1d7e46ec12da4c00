"""An autoencoder and a discriminator: reconstruction, perceptual and adversarial losses, weighed as in VQGAN and latent diffusion."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast._autograd import autocast_dtype, no_autocast
from ganfast.train.config import TrainConfig
from ganfast.train.distributed.world import World
from ganfast.train.networks import Network, Networks
from ganfast.train.objectives.terms import Adversarial, adversarial, logits_of
from ganfast.train.phases import Batch, Phase
from ganfast.train.randomness import own_randomness
from ganfast.train.reconstruction.given import Reconstruction, given_by, last_weight, levels, named_weight, reconstructed
from ganfast.train.reconstruction.perceptual import checked, loss_of
from ganfast.train.sampling import IMITATED, INHERITED, in_eval_mode

DISTANCES = {"l1": F.l1_loss, "l2": F.mse_loss}
_DELTA, _MOST = 1e-4, 1e4  # VQGAN's: below the adversarial gradient's norm; of the adaptive weight
_FLOAT16_SCALE = 2.0**10


def autoencoding(
    config: TrainConfig,
    *,
    start: int = 0,
    distance: Literal["l1", "l2"] = "l1",
    perceptual: object = "laplacian",
    perceptual_weight: float = 1.0,
    kl: float = 1e-6,
    codebook: float = 1.0,
    weight: float = 0.5,
    adaptive: bool = True,
    last_layer: object = None,
    reconstruct: Callable | None = None,
    generator: str = "generator",
    discriminator: str = "discriminator",
) -> "Autoencoding":
    """The objective of an autoencoder that a discriminator judges too (VAE-GAN, VQGAN, the autoencoder of latent diffusion).

        objective = ganfast.train.autoencoding(config, perceptual=my_features, kl=1e-6, start=5000)
        trainer = ganfast.Trainer(autoencoder, discriminator, images, config, objective=objective)

    The generator is the autoencoder: it is called as autoencoder(image), with no latent and no condition, and minimises distance +
    perceptual_weight * perceptual + kl * KL + codebook * its codebook's loss + adaptive * weight * adversarial. The discriminator minimises
    the config's loss ("hinge" in the papers) with its penalties, and both are logged: reconstruction, perceptual, kl, codebook, loss_g,
    adaptive_weight, loss_d. `trainer.sample(16)` gives reconstructions of the data, `trainer.sample(len(x), x)` of images x. It serves as
    a term too, as `adversarial` does.

    Arguments:
        start: the first step of both the discriminator's learning and the adversarial term; before it neither runs, but for one forward
            of the discriminator at the first step, so that a mistake in it shows then.
        distance: of the reconstruction, a mean over all its numbers, where latent diffusion adds over an image's: its kl=1e-6 is 1e-6 /
            numbers of an image here.
        perceptual: None: none. "laplacian": by the bands of a pyramid. "random": by features of a network with fixed random weights.
            A module or function of one argument: features [N, D, ...] of images, or several of them, compared as LPIPS does, without
            learned weights. One of two arguments (reconstruction, image): a loss, such as LPIPS's. It gets images as they are, in
            [-1, 1]. A module is put on the device, in eval mode, and frozen.
        kl: weight of the divergence from N(0, 1) in nats, added over an image's latents, averaged over images.
        weight: of the adversarial term. adaptive: times |d(distance + perceptual) / dw| / (|d adversarial / dw| + 1e-4), at most 1e4, w
            the last layer's weight, gradients being those of the whole batch, of all processes.
        last_layer: its name, as in named_modules or named_parameters, the layer, or its weight; None: that whose weight is nearest to the
            reconstruction in autograd's graph.
        reconstruct: what is called instead of autoencoder(image): a function (autoencoder, image) that gives one of the forms below.
    Shapes: the autoencoder gives a tensor of the image's shape; (reconstruction, mean, logvar); (reconstruction, codebook_loss, ...);
        (reconstruction, posterior) with a posterior's mean and logvar; (reconstruction, {name: loss}), names other than kl and codebook
        weigh 1; an object or dict with `sample`, and `commit_loss` if it has one. diffusers' AutoencoderKL is known by its forward's
        arguments, and called as encode, sample of the posterior, decode.
    Dtypes: distances and KL are computed in float32; under float16 the adaptive weight's gradients are scaled on the way.
    Raises: TypeError, ValueError for settings and outputs of another kind, a last layer that is not in the reconstruction's graph, an
        autoencoder with an `output`; by Trainer for a loss, smoothing, penalty or `fused` that differs from its own config's.
    Source: Esser, Rombach & Ommer 2021, "Taming transformers for high-resolution image synthesis", equation 7 (the adaptive weight);
        Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models"; Larsen et al. 2016, "Autoencoding beyond
        pixels using a learned similarity metric" (VAE-GAN).
    """
    settings = {"perceptual_weight": perceptual_weight, "kl": kl, "codebook": codebook, "weight": weight}
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            _checks.fail("autoencoding", f"{name} is {value!r}, wants no negative number")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        _checks.fail("autoencoding", f"start is {start!r}, wants the number of a step")
    if distance not in DISTANCES:
        _checks.nearest("autoencoding", "distance", distance, DISTANCES)
    if reconstruct is not None and not callable(reconstruct):
        _checks.fail("autoencoding", f"reconstruct is a {type(reconstruct).__name__}, wants a function, or None", error=TypeError)
    if config.mode_seeking:
        _checks.fail("autoencoding", "mode_seeking compares samples of two latents, and an autoencoder draws none", "Leave it off")
    usual = adversarial(config, generator=generator, discriminator=discriminator)
    return Autoencoding(usual, settings, start, distance, perceptual, adaptive, last_layer, reconstruct)


class Autoencoding(Adversarial):
    """See `autoencoding`, which makes it."""

    def __init__(self, usual, settings, start, distance, given, adaptive, last_layer, reconstruct) -> None:
        super().__init__(usual.config, usual.generator, usual.discriminator, None, None, False, usual.terms)
        self.weights, self.start, self.distance, self.adaptive = settings, start, DISTANCES[distance], adaptive
        self.given, self.last_layer, self.own = checked(given), last_layer, reconstruct
        self.perceptual: Callable | None = None
        self.world = World()

    def reconstruct(self, autoencoder: nn.Module, *images: Tensor) -> Reconstruction:
        return reconstructed(autoencoder, *images) if self.own is None else given_by(self.own(autoencoder, *images))

    def arranged(self, settings: dict[str, Network]) -> dict[str, Network]:
        """The settings of its two networks, so that the autoencoder is called with images, or with a condition of its own."""
        for name in (self.generator, self.discriminator):
            if name not in settings:
                _checks.nearest("train", "a network of autoencoding", name, settings)
        network = settings[self.generator]
        if network.output is not None or network.call not in (None, self.reconstruct):
            cause = "autoencoding(reconstruct=) takes a function (autoencoder, image) that gives the reconstruction"
            _checks.fail("train", f"the autoencoder {self.generator!r} has an output or call of its own", cause)
        given = IMITATED if network.condition is INHERITED else network.condition
        return {
            self.generator: dataclasses.replace(network, latent=False, condition=given, call=self.reconstruct),
            self.discriminator: dataclasses.replace(settings[self.discriminator], latent=False),
        }

    def prepare(self, networks: Networks, real: Tensor, world: World) -> None:
        """Puts what the perceptual loss needs beside the autoencoder, and looks for the last layer there."""
        held = {p: name for name in networks for p in networks[name].parameters()}
        shared = [held[p] for p in self.given.parameters() if p in held] if isinstance(self.given, nn.Module) else []
        if shared:
            cause = "A function of one argument is not frozen: lambda image: discriminator.features(image)"
            _checks.fail("train", f"perceptual would be frozen, and shares parameters with the network {shared[0]!r}", cause)
        self.perceptual, self.world = loss_of(self.given, real.shape[1], real.device), world
        if self.last_layer is not None:
            named_weight(self.last_layer, networks[self.generator])

    def rehearse(self, discriminator: nn.Module, real: Tensor, given: tuple) -> None:
        """One forward of a discriminator that begins later, which changes nothing: a mistake shows now, and not in hours."""
        with torch.compiler.set_stance("force_eager"), in_eval_mode(discriminator), own_randomness(0, real.device):
            logits_of(discriminator, real, given)

    def _generator(self, phase: Phase, networks: Networks, batch: Batch, terms: dict[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        autoencoder, image = networks[self.generator], self._reals(networks, batch).float()
        made, losses = batch.fake(autoencoder)
        if made.shape != image.shape:
            shapes = f"the autoencoder gives shape {list(made.shape)}, the images have {list(image.shape)}"
            _checks.fail("train", f"{shapes}; both must be the same")
        judged = self.discriminator not in batch.waiting
        layer = self._last(made, autoencoder) if self.adaptive else None  # looked for before the start too: it may not be there
        balanced = judged and self.adaptive
        # Apart from the graph behind it: each loss is differentiated once, down to here, and their sum goes on from here.
        seen = made.detach().float().requires_grad_() if balanced else made.float()
        loss, found = self._unlike(seen, image)
        if judged:
            found["loss_g"] = against = self._judged(networks, batch, seen)
            if balanced:
                loss, found["adaptive_weight"] = self._balanced(loss, against, seen, made, layer)
            else:
                loss = loss + self.weights["weight"] * against
        for name, part in losses.items():
            if name in (*found, "loss_g", "adaptive_weight"):
                _checks.fail("train", f"the autoencoder gives a loss {name!r}, and there is one of that name", "Give it another")
            loss, found[name] = loss + (self.weights[name] if name in ("kl", "codebook") else 1.0) * part, part
        return terms["adversarial"] * loss, found

    def _unlike(self, made: Tensor, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.distance(made, image)
        found = {"reconstruction": loss}
        if self.perceptual is not None:
            found["perceptual"] = self.perceptual(made, image)
            loss = loss + self.weights["perceptual_weight"] * found["perceptual"]
        return loss, found

    def _balanced(self, loss: Tensor, against: Tensor, seen: Tensor, made: Tensor, layer: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both losses, whose gradient is that of `made`, and the adaptive weight."""
        scale = _FLOAT16_SCALE if torch.float16 in (made.dtype, autocast_dtype(made)) else 1.0
        with no_autocast(made):
            (down,) = torch.autograd.grad(loss * scale, seen)
            (up,) = torch.autograd.grad(against * scale, seen)
            through = lambda gradient: torch.autograd.grad(made, layer, gradient.to(made.dtype), retain_graph=True)[0]
            both = torch.stack((through(down), through(up))).float()
        norms = torch.linalg.vector_norm(self.world.mean(both).flatten(1), dim=1)
        adaptive = (norms[0] / (norms[1] + scale * _DELTA)).clamp(0, _MOST)
        factor = self.weights["weight"] * adaptive
        carrier = (made.float() * ((down + factor * up) / scale)).sum()
        return (loss + factor * against - carrier).detach() + carrier, adaptive

    def _last(self, made: Tensor, autoencoder: nn.Module) -> Tensor:
        if self.last_layer is None:
            return last_weight(made, autoencoder)
        found = named_weight(self.last_layer, autoencoder)
        if not any(getattr(node, "variable", None) is found for level in levels(made) for node in level):
            _checks.fail("train", f"last_layer {self.last_layer!r} is not in the reconstruction's graph", "It does not pass through it")
        return found
