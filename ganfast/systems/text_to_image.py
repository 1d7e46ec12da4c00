"""Caption -> picture: a generator of a latent and a caption's vector, and a discriminator that sees pictures with their captions, with
those of others, and generated ones (GAN-CLS).

Source: Reed et al. 2016, "Generative adversarial text to image synthesis" (the three kinds of pairs); Miyato & Koyama 2018 (the projection,
by which a picture's features meet every caption of a library at the price of one matrix product); Zhang et al. 2021 (XMC-GAN: the generator
is told, by the same product, how well its picture can be told from other captions); Mao et al. 2019 (mode seeking).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import ganfast.functional as GF
from ganfast import penalties
from ganfast.models.captions import TextDiscriminator, TextGenerator
from ganfast.systems import form, readers, text
from ganfast.systems.matching import Matcher, matched, mismatched, others_of, owners, told, too_alike
from ganfast.systems.sources import captioned, portraits, shapes
from ganfast.systems.text import Sentences, Words
from ganfast.train import Network, Phase, Trainer
from ganfast.train.data import to_float, to_uint8
from ganfast.train.randomness import mixed

LATENT, DIM = 16, 32  # numbers of a latent, of a caption's vector
NEAR = 4  # captions like its own that each picture is told from
MISMATCHED, TOLD, ALIKE, R1, R1_EVERY = 0.5, 0.5, 1.0, 0.1, 4
SHAPES, OTHERS = {"library": 512, "matching": 500}, {"library": 256, "matching": 3000}
TRUTHS = {"shapes": shapes, "portraits": portraits}  # sources that draw by attributes
GOALS = {"right": (">=", 0.85), "right held out": (">=", 0.7)}


@dataclass(frozen=True)
class Options(form.Options):
    data: str | None = None
    """shapes (none: these), portraits, or a folder of NAME.png with its caption in NAME.txt"""
    steps: int = 3000
    encoder: str = "words"
    """words: learned on the captions; or sentence-transformers/MODEL, where that package is installed"""
    pictures: int = 15000
    """drawn for the training, of shapes or portraits"""
    library: int | None = None
    """captions that each picture is told from, at most: 512, of other data than shapes 256. Where it lacks some, others like the picture's
    own are added"""
    matching: int | None = None
    """500, of other data than shapes 3000: steps on real pairs alone, before the GAN's, by which the encoder and the matcher that leads the
    generator are learned"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.want("pictures", self.pictures >= 64, "at least 64")
        self.want("library", self.library is None or self.library >= 2, "at least 2")
        self.want("matching", self.matching is None or self.matching >= 1, "at least 1")

    @property
    def truth(self):
        return TRUTHS.get(self.data or "shapes")

    def usual(self, name: str) -> int:
        """The option, or what it is where it is not given."""
        given, usual = getattr(self, name), SHAPES if self.truth is shapes else OTHERS
        return usual[name] if given is None else given


class Prepared(NamedTuple):
    """data: images uint8 [N, 3, 32, 32], their captions as the encoder gives them, [N, ...], and for each of them at most NEAR others that
    are `near`, [N, M, ...], unless the library holds all captions. library: different captions [K, ...]."""

    data: dict[str, Tensor]
    library: Tensor
    encoder: Words | Sentences


def prepared(options: Options) -> Prepared:
    """Made once for a run, its measure and its picture. Raises: ValueError for pictures of one caption."""
    found = _prepared(options.truth, options.data, options.pictures, options.encoder, options.usual("library"), options.seed)
    options.want("data", len(found.library) > 1, "pictures with at least two different captions")
    return found


@functools.lru_cache(maxsize=1)
def _prepared(truth, data: str | None, pictures: int, name: str, most: int, seed: int) -> Prepared:
    if truth:
        images, attributes = truth.pictures(pictures, seed=mixed(seed, "pictures"))
        captions = truth.captions(attributes)
    else:
        images, captions = captioned.captioned(data)
    written = sorted(set(captions))
    encoder = text.encoder(name, written)
    different, which = encoder.encode(written).unique(dim=0, return_inverse=True)  # two ways to write one caption are one
    row = dict(zip(written, which.tolist()))
    rows, draw = torch.tensor([row[caption] for caption in captions]), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(different), generator=draw)[:most]
    data = {"images": images, "captions": different[rows]}
    if len(chosen) < len(different):
        among = text.alike(encoder.bags(different), min(4 * NEAR, len(different) - 1))
        picked = torch.rand(len(rows), among.shape[1], generator=draw).argsort(1)[:, :NEAR]
        data["near"] = different[among[rows].gather(1, picked)]
    return Prepared(data, different[chosen], encoder)


@functools.lru_cache(maxsize=1)
def matcher_of(options: Options) -> Matcher:
    """Learned before the GAN; the networks' own encoders begin as its."""
    return matched(*prepared(options), steps=options.usual("matching"), seed=options.seed, fused=options.fused)


def build(options: Options) -> Trainer:
    data, library, encoder = prepared(options)
    matcher = matcher_of(options)
    generator, discriminator = TextGenerator(encoder.network(DIM), LATENT), TextDiscriminator(encoder.network(DIM))
    for network in (generator, discriminator):
        network.reads.load_state_dict(matcher.reads.state_dict())

    def objective(phase, networks, batch):
        discriminator = networks.discriminator
        if phase.name == "r1":
            r1 = penalties.r1_penalty(discriminator, batch.view(batch.real), batch.condition)
            return phase.interval * R1 * r1, {"r1": r1}
        fake, others = batch.fake(networks.generator), others_of(batch.data, library)
        own = owners(batch.condition, others)
        of_fake = discriminator.pairs(discriminator.features(batch.view(fake)), batch.condition)
        if phase.network == "discriminator":
            features = discriminator.features(batch.view(batch.real))
            of_real = discriminator.pairs(features, batch.condition)
            loss_d, stats = GF.discriminator_loss(of_real, of_fake, kind="nonsaturating", return_stats=True)
            wrong = mismatched(discriminator.all_pairs(features, others), own)
            return loss_d + MISMATCHED * wrong, {"loss_d": loss_d, "mismatched": wrong, **stats._asdict()}
        loss_g = GF.generator_loss(of_fake, kind="nonsaturating")
        logits = networks.matcher(fake, torch.cat([batch.condition, others]))
        picked = told(logits[:, : len(fake)].diagonal(), logits[:, len(fake) :], own)
        same = too_alike(fake, batch.real, own)
        return loss_g + TOLD * picked + ALIKE * same, {"loss_g": loss_g, "told": picked, "too_alike": same}

    config = options.config(latent_dim=LATENT, batch_size=64, learning_rate=2e-3)
    networks = {"generator": generator, "discriminator": discriminator, "matcher": Network(matcher, frozen=True)}
    phases = [Phase("d", "discriminator"), Phase("g", "generator", average=True), Phase("r1", "discriminator", interval=R1_EVERY)]
    library = library.to(config.torch_device())
    return Trainer(networks=networks, data=data, config=config, objective=objective, phases=phases, condition="captions")


def made(trainer: Trainer, options: Options, captions: list[str], seed: int) -> Tensor:
    """[N, 3, 32, 32] in [-1, 1], a picture of each caption."""
    return trainer.sample(len(captions), prepared(options).encoder.encode(captions), seed)


def measure(trainer: Trainer, options: Options) -> dict[str, float]:
    """right: the share of pictures with all attributes as their captions say, both by a reader, whose own accuracy is `reader`, and by the
    source's rule, which learns nothing. Parts by the rule alone. For shapes also of captions that were held out; clear: by the rule, and
    as clearly as renderings are (its lead); apart: how far two pictures of a caption are, as a share of how far real ones are."""
    truth = options.truth
    if not truth:
        return {}
    is_shapes = truth is shapes
    heads = {part: len(values) for part, values in truth.parts().items()}
    every = truth.pictures(6000, seed=mixed(options.seed, "reader"))
    if is_shapes:
        more = shapes.pictures(1200, seed=mixed(options.seed, "reader"), held_out=True)
        every = tuple(torch.cat(both) for both in zip(every, more))
    tested = truth.pictures(1000, seed=mixed(options.seed, "tested"))
    reader, own = readers.trained(*every, heads, tested=tested, steps=600 if is_shapes else 2000, seed=options.seed)
    figures = {"reader": own["all"]}
    for part in ("", " held out") if is_shapes else ("",):
        held = {"held_out": True} if part else {}
        images, wanted = truth.pictures(600, seed=mixed(options.seed, f"measured{part}"), **held)
        fakes = made(trainer, options, truth.captions(wanted), options.seed).cpu()
        by_reader = (reader.read(fakes) == wanted).all(1)
        if is_shapes:
            found = shapes.Rule(lead=0.0).read(fakes)
            ruled, clear = found.attributes, found.lead >= shapes.Rule.LEAD
            figures[f"clear{part}"] = ((ruled == wanted).all(1) & clear).float().mean().item()
        else:
            ruled = portraits.read(fakes)
        figures[f"right{part}"] = (by_reader & (ruled == wanted).all(1)).float().mean().item()
        if not part:
            figures |= {name: share for name, share in readers.agreement(ruled, wanted, heads).items() if name != "all"}
        if is_shapes and not part:
            again = shapes.render(wanted, shapes.JITTER * (2 * torch.rand(600, 2) - 1))
            others = made(trainer, options, truth.captions(wanted), options.seed + 1).cpu()
            figures["apart"] = ((fakes - others).abs().mean() / (to_float(images) - to_float(again)).abs().mean()).item()
    return figures


def picture(trainer: Trainer, options: Options) -> Tensor:
    """Six columns of captions, five pictures each; of shapes the last row is of captions that were held out."""
    if options.truth:
        captions = options.truth.captions(options.truth.pictures(24, seed=options.seed)[1])
        held = {"held_out": True} if options.truth is shapes else {}
        captions += options.truth.captions(options.truth.pictures(6, seed=options.seed + 1, **held)[1])
        images = made(trainer, options, captions, options.seed)
    else:
        images = trainer.sample(30, seed=options.seed)
    rows = to_uint8(images.cpu()).view(5, 6, *images.shape[1:]).permute(2, 0, 3, 1, 4)
    return rows.reshape(3, 5 * images.shape[2], 6 * images.shape[3]).contiguous()


def sample(trainer: Trainer, options: Options, count: int, seed: int, text: str) -> Tensor:
    if options.truth:
        attributes = options.truth.parse(text)
        text = options.truth.captions(attributes.clamp_min(0)[None])[0]
    return made(trainer, options, [text] * count, seed)


def credit(options: Options) -> str:
    return portraits.CREDIT if options.truth is portraits else "drawn here" if options.truth is shapes else ""


DOES = "draws what a caption says: shapes, people of known parts, or pictures with captions of your own"
MORE = {"sample": sample, "credit": credit, "sources": tuple(TRUTHS), "restored": {"matching": 1}}  # the matcher is in the checkpoint
SYSTEM = form.System("text-to-image", DOES, Options, build, measure, picture, goals=GOALS, **MORE)
