"""What the samples are worth: precision and recall, how often the digit asked for is read, the run's curves."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast.train.grids import about


def pixels8(images: Tensor) -> Tensor:
    """[N, C, S, S] in [-1, 1] -> [N, C*64] float32: the 8x8 area averages."""
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1).cpu()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Of features [N, D] and [M, D]: the share of fakes inside the real manifold, and of reals inside the fakes'.

    A set's manifold is the union of balls round its points, each out to the point's k-th nearest neighbour in the set.
    Source: Kynkaanniemi et al. 2019.
    """
    between = torch.cdist(real, fake)
    real_radius, fake_radius = (torch.cdist(s, s).kthvalue(k + 1, dim=1).values for s in (real, fake))  # +1: the point itself
    precision = (between <= real_radius[:, None]).any(0).float().mean()
    recall = (between <= fake_radius[None, :]).any(1).float().mean()
    return precision.item(), recall.item()


class Reader(NamedTuple):
    """A classifier of digits, and its accuracy on real ones it was not trained on."""

    classifier: object
    accuracy: float

    def share_read(self, images: Tensor, labels: Tensor) -> float:
        """How often it reads `labels` [N] from images [N, C, S, S] in [-1, 1]."""
        return float((self.classifier.predict(pixels8(images).numpy()) == labels.numpy()).mean())


def train_reader(images: Tensor, labels: Tensor) -> Reader:
    """A support vector machine on the 8x8 area averages, trained on 70 % of the real images, measured on the other 30 %."""
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    halves = train_test_split(pixels8(images).numpy(), labels.numpy(), test_size=0.3, random_state=0, stratify=labels.numpy())
    train_x, held_x, train_y, held_y = halves
    classifier = SVC(C=10.0, gamma="scale").fit(train_x, train_y)
    return Reader(classifier, float(classifier.score(held_x, held_y)))


def write_curves(log: Path, path: Path, model: str, seed: int) -> None:
    """Losses and the discriminator's accuracy over the steps of log.jsonl, as a PNG."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(8, 6), layout="constrained")
    losses, accuracy = figure.subplots(2, 1, sharex=True)
    panels = [
        (losses, {"loss_d": "discriminator", "loss_g": "generator"}, "loss"),
        (accuracy, {"real_accuracy": "on real images", "fake_accuracy": "on fakes"}, "discriminator right"),
    ]
    for axes, curves, title in panels:
        for key, label in curves.items():
            axes.plot(steps, [row[key] for row in rows], label=label)
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend()
    accuracy.set_ylim(0, 1)
    accuracy.set_xlabel("step")
    figure.savefig(path, format="png", dpi=110, metadata=about(model, seed))
