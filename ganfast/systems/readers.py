"""Readers: small classifiers trained on real or rendered pictures, which say what generated ones show.

A learned reader answers for any picture, noise included, and a generator can please it without drawing the thing: where there is a rule
that measures pictures, believe that; and look at the reader's own accuracy, which comes with it.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ganfast
from ganfast import _checks
from ganfast.augment import diff_augment
from ganfast.models import MLPGenerator
from ganfast.train.parts import as_networks_see

_CHUNK = 256  # pictures in one forward


class Reader(nn.Module):
    """Pictures to logits of one or several questions, such as {"digit": 10} or {"size": 2, "colour": 6}.

    pooled: maxima over 2x2 pixels in place of strides, which is slower, and reads better what was learned from few pictures.
    pixels: H * W, where neighbouring pixels have nothing in common: fully connected layers read them then, in place of convolutions.

    Shapes: images [N, channels, H, W] in [-1, 1], sides of 16 to 64 pixels -> a list of logits [N, answers], one for each question.
    """

    def __init__(self, channels: int, heads: Mapping[str, int], width: int = 16, pooled: bool = False, pixels: int | None = None) -> None:
        super().__init__()
        self.heads = dict(heads)
        if pixels is not None:
            self.blocks = nn.Sequential(nn.Flatten(), MLPGenerator(channels * pixels, 16 * width, 16 * width, depth=1), nn.ReLU())
            self.answers = nn.Linear(16 * width, sum(self.heads.values()))
            return
        c = [channels, width, 2 * width, 4 * width]
        stride = 1 if pooled else 2
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in itertools.pairwise(c)]
        if pooled:
            for block in blocks[1:]:
                block.append(nn.MaxPool2d(2))
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


def balanced_accuracy(reader: Reader, pictures: Tensor, labels: Tensor) -> float:
    """Of a reader of one question on pictures with labels int64 [N]: the mean of its accuracy in each class that is there."""
    right = (reader.read(pictures)[:, 0] == labels).float()
    return torch.stack([right[labels == label].mean() for label in labels.unique()]).mean().item()


@torch.no_grad()
def surest(reader: Reader, images: Tensor, labels: Tensor, keep: float) -> tuple[Tensor, Tensor]:
    """Of images [N, C, H, W] in [-1, 1] and their labels int64 [N] those, `keep` of each class, in which a reader of one question
    sees their class most surely."""
    sure = torch.cat([reader(some)[0].log_softmax(1) for some in images.split(_CHUNK)]).gather(1, labels[:, None])[:, 0]
    classes = [(labels == label).nonzero()[:, 0] for label in labels.unique()]
    kept = torch.cat([rows[sure[rows].argsort(descending=True)[: max(1, round(keep * len(rows)))]] for rows in classes])
    return images[kept], labels[kept]


def learn(reader: Reader, batch: Callable[[], tuple[Tensor, Sequence[Tensor]]], steps: int) -> None:
    """Trains a reader in place. batch() gives images in [-1, 1] and, question by question, answers int64 [B] or how much of each,
    floats [B, answers]."""
    optimizer = torch.optim.Adam(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    for _ in range(steps):
        images, answers = batch()
        loss = sum(F.cross_entropy(logits, wanted) for logits, wanted in zip(reader(images), answers, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reader = Reader(pictures.shape[1], heads)
    ganfast.accelerate(reader)

    def seen() -> tuple[Tensor, Sequence[Tensor]]:
        rows = torch.randint(len(pictures), (batch,), generator=draw)
        uniform = lambda *shape: torch.rand(*shape, generator=draw)
        images = diff_augment(as_networks_see(pictures[rows]), "translation", uniform=uniform)
        strength = 0.3 * uniform(batch, 1, 1, 1)
        return images + strength * torch.randn(images.shape, generator=draw), answers[rows].unbind(1)

    learn(reader, seen, steps)
    return reader.eval(), agreement(reader.read(tested[0]), wanted, list(heads))


def of_digits(images: Tensor, labels: Tensor, others: Tensor, other_labels: Tensor, *, steps: int = 1200) -> tuple[Reader, float]:
    """A reader of uint8 digits, and its own accuracy on others."""
    reader, own = trained(images, labels, {"digit": 10}, tested=(others, other_labels), steps=steps)
    return reader, own["all"]
