"""Readers: small classifiers trained on real or rendered pictures, which say what generated ones show.

A learned reader answers for any picture, noise included, and a generator can please it without drawing the thing: where there is a rule
that measures pictures, believe that; and look at the reader's own accuracy, which comes with it.
"""

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast
from ganfast import _checks
from ganfast.augment import diff_augment
from ganfast.train.parts import as_networks_see

_CHUNK = 256  # pictures in one forward


class Reader(nn.Module):
    """Pictures to logits of one or several questions, such as {"digit": 10} or {"size": 2, "colour": 6}.

    Shapes: images [N, channels, H, W] in [-1, 1], sides of 16 to 64 pixels -> a list of logits [N, answers], one for each question.
    """

    def __init__(self, channels: int, heads: Mapping[str, int], width: int = 16) -> None:
        super().__init__()
        self.heads = dict(heads)
        c = [channels, width, 2 * width, 4 * width]
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in itertools.pairwise(c)]
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.answers = nn.Linear(16 * c[-1], sum(self.heads.values()))

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.answers(self.blocks(images)).split(list(self.heads.values()), 1))

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Tensor:
        """int64 [N, questions] of pictures, uint8 or floats in [-1, 1]."""
        was = self.training
        self.eval()
        try:
            chunks = [torch.stack([logits.argmax(1) for logits in self(as_networks_see(chunk))], 1) for chunk in pictures.split(_CHUNK)]
        finally:
            self.train(was)
        return torch.cat(chunks)


def agreement(read: Tensor, wanted: Tensor, names: Mapping[str, object] | list[str]) -> dict[str, float]:
    """Share of the pictures read as wanted, by question, and in all of them at once; read and wanted int64 [N, questions]."""
    right = read == wanted
    return {name: right[:, i].float().mean().item() for i, name in enumerate(names)} | {"all": right.all(1).float().mean().item()}


def trained(
    pictures: Tensor,
    answers: Tensor,
    heads: Mapping[str, int],
    *,
    tested: tuple[Tensor, Tensor],
    steps: int = 600,
    batch: int = 64,
    seed: int = 0,
) -> tuple[Reader, dict[str, float]]:
    """A reader of uint8 pictures [N, C, H, W] with answers int64 [N] or [N, questions], and its own accuracy on `tested`, other pictures
    and their answers. It sees its pictures moved a little and under noise of several strengths, as generated ones are less clean.

    Raises: ValueError for answers that do not fit pictures or questions.
    """
    answers, wanted = (a[:, None] if a.dim() == 1 else a for a in (answers, tested[1]))
    if answers.shape != (len(pictures), len(heads)):
        _checks.fail("readers", f"answers have shape {list(answers.shape)}, wants [{len(pictures)}, {len(heads)}], a row for each picture")
    for i, (name, count) in enumerate(heads.items()):
        if not 0 <= int(answers[:, i].min()) <= int(answers[:, i].max()) < count:
            span = f"{int(answers[:, i].min())} to {int(answers[:, i].max())}"
            _checks.fail("readers", f"answers to {name!r} go from {span}, wants 0 to {count - 1}")
    draw = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(*shape, generator=draw)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reader = Reader(pictures.shape[1], heads)
    ganfast.accelerate(reader)
    optimizer = torch.optim.Adam(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        rows = torch.randint(len(pictures), (batch,), generator=draw)
        images = diff_augment(as_networks_see(pictures[rows]), "translation", uniform=uniform)
        strength = 0.3 * uniform(batch, 1, 1, 1)
        images = images + strength * torch.randn(images.shape, generator=draw)
        loss = sum(F.cross_entropy(logits, answers[rows, i]) for i, logits in enumerate(reader(images)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return reader.eval(), agreement(reader.read(tested[0]), wanted, list(heads))


def of_digits(images: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, *, steps: int = 1200) -> tuple[Reader, float]:
    """A reader of uint8 digits, and its own accuracy on others."""
    reader, own = trained(images, labels, {"digit": 10}, tested=(others, other_labels), steps=steps)
    return reader, own["all"]
