"""Metrics of samples: precision and recall, FID, KID, how often the digit asked for is read; and Evaluate, the callback that measures
them during a run."""

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.train import parts, trees
from ganfast.train.data.sources import source_of
from ganfast.train.watch.callbacks import Callback, TrainerLike
from ganfast.train.watch.curves import write_curves
from ganfast.train.watch.features import Features, features_of, inception, pixels8

__all__ = [
    "Evaluate", "Features", "Reader", "features_of", "frechet_distance", "inception", "kernel_distance", "pixels8", "precision_recall",
    "psnr", "scores", "train_reader", "write_curves",
]  # fmt: skip

LARGER_IS_BETTER = ("precision", "recall", "modes", "within_3_sigma")
SCORES = ("precision", "recall", "kid", "fid")


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two tensors of images in [-1, 1], of all pixels together; infinite where they are equal."""
    return -10 * torch.log10((a - b).square().mean() / 4).item()


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Of features [N, D] and [M, D]: the share of fakes inside the real manifold, and of reals inside the fakes'.

    A set's manifold is the union of balls round its points, each out to the point's k-th nearest neighbour in the set.
    Raises: ValueError for sets that cannot be compared, or of k points or fewer.
    Source: Kynkaanniemi et al. 2019.
    """
    _check_sets("precision_recall", real, fake, k + 1)
    between = torch.cdist(real, fake)
    real_radius, fake_radius = (torch.cdist(s, s).kthvalue(k + 1, dim=1).values for s in (real, fake))  # +1: the point itself
    precision = (between <= real_radius[:, None]).any(0).float().mean()
    recall = (between <= fake_radius[None, :]).any(1).float().mean()
    return precision.item(), recall.item()


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """The Frechet distance of the Gaussians with the moments of features [N, D] and [M, D]; on Inception's features it is the FID.

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), in float64. With C = F^T F, the roots of C1 C2's eigenvalues are the singular values of
    F1 F2^T, which needs no root of a matrix and is right for covariances without an inverse, N <= D among them.
    Few samples make it too large, and more so for the worse of two generators: compare numbers of equal counts alone, and below some ten
    times D look at `kernel_distance`, which has no such bias.

    Raises: ValueError for sets that cannot be compared, or of fewer than 2 points.
    Source: Heusel et al. 2017; Chong & Forsyth 2020 (the bias).
    """
    _check_sets("frechet_distance", real, fake, 2)
    (mean_r, factor_r), (mean_f, factor_f) = _moments(real), _moments(fake)
    traces = factor_r.square().sum() + factor_f.square().sum()
    roots = torch.linalg.svdvals(factor_r @ factor_f.T).sum()
    return max(0.0, ((mean_r - mean_f).square().sum() + traces - 2 * roots).item())  # rounding alone makes it negative


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and F [min(N, D), D] with F^T F the unbiased covariance, in float64."""
    x = x.double()
    mean = x.mean(0)
    centred = (x - mean) / math.sqrt(len(x) - 1)
    return mean, torch.linalg.qr(centred, mode="r").R


def kernel_distance(real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> float:
    """The kernel distance of features [N, D] and [M, D]: the squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, in float64;
    on Inception's features it is the KID.

    Unbiased, so that it may fall below 0 where both are alike. The mean over random subsets of both, as published; sets of up to
    subset_size are taken whole, which estimates the same with less noise.

    Raises: ValueError for sets that cannot be compared, or of fewer than 2 points.
    Source: Binkowski et al. 2018, section 4 and its published code.
    """
    _check_sets("kernel_distance", real, fake, 2)
    real, fake = real.double(), fake.double()
    if max(len(real), len(fake)) <= subset_size:
        return _discrepancy(real, fake).item()
    size, rng = min(subset_size, len(real), len(fake)), torch.Generator().manual_seed(seed)
    drawn = lambda x: x[torch.randperm(len(x), generator=rng)[:size].to(x.device)]
    return torch.stack([_discrepancy(drawn(real), drawn(fake)) for _ in range(subsets)]).mean().item()


def _discrepancy(x: Tensor, y: Tensor) -> Tensor:
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
    within = lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1))  # without the pairs of a point with itself, which would bias
    return within(kernel(x, x)) + within(kernel(y, y)) - 2 * kernel(x, y).mean()


def _check_sets(op: str, real: Tensor, fake: Tensor, least: int) -> None:
    for name, x in (("real", real), ("fake", fake)):
        _checks.check_tensor(op, name, x)
        if x.dim() != 2 or len(x) < least:
            _checks.fail(op, f"{name} has shape {list(x.shape)}, wants features [N, D] of at least {least} samples")
        if not x.isfinite().all():
            _checks.fail(
                op, f"{name} holds values that are inf or NaN", "The generator has left the finite numbers" if name == "fake" else ""
            )
    if real.shape[1] != fake.shape[1]:
        _checks.fail(op, f"real has {real.shape[1]} features, fake {fake.shape[1]}; both must come from one function")


def scores(real: Tensor, fake: Tensor) -> dict[str, float]:
    """SCORES of features [N, D] and [M, D]."""
    precision, recall = precision_recall(real, fake)
    return {"precision": precision, "recall": recall, "kid": kernel_distance(real, fake), "fid": frechet_distance(real, fake)}


class Evaluate(Callback):
    """Measures the averaged generator at the first log line from every `every` steps on, and at the last; keeps the best in `trainer.best`
    and its state in the run's best.pt.

    The numbers go into the log row, named with what they were made of: "kid (pixels8)". The reals are the first `samples` of the source's
    fixed shuffle, the fakes as many, from latents of `seed` and the reals' own labels: at every measurement the same. Training is not
    touched: neither a random number of its own nor a network's mode or statistics.

    Arguments:
        features: what images are compared by: None for "pixels8", "inception", `Features`, or a network or function [N, C, H, W] in
            [-1, 1] -> [N, D].
        measure: instead of features, a function of the samples -> {name: number}, as `mixtures.MIXTURES["ring8"].measure`; or of (samples,
            reals, conditions), for errors against the truth: the samples are made from what the data tell of these very reals, and
            conditions is what the generator was called with, None without.
        network: which one is measured, by name; None: the generator.
        data: what the reals are taken from instead of the run's data, such as held-out ones: all that Trainer takes, of the same form.
        best: the number that decides, without its features; None: none does; "auto": kid, with a measure none. Of precision, recall,
            modes and within_3_sigma larger is better, of others smaller.
    Raises: ValueError for what is no interval, number or feature; at the first line for a `best` that the measure does not give.
    """

    def __init__(
        self,
        every: int,
        *,
        samples: int = 1000,
        features: object = None,
        measure: Callable[..., dict[str, float]] | None = None,
        best: str | None = "auto",
        seed: int = 0,
        network: str | None = None,
        data: object = None,
    ) -> None:
        for name, value in (("every", every), ("samples", samples)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                _checks.fail("Evaluate", f"{name} got {value!r}, wants a whole number of at least 1")
        if measure is not None and features is not None:
            _checks.fail("Evaluate", "features and measure were given, wants one of them", "Both want two Evaluates, one with best=None")
        if best == "auto":
            best = "kid" if measure is None else None
        if measure is None and best is not None and best not in SCORES:
            _checks.nearest("Evaluate", "best", best, SCORES)
        self.every, self.samples, self.measure, self.seed = every, samples, measure, seed
        self.features = features if isinstance(features, str) else features_of(features)
        self.best, self.network, self.data = best, network, data
        self._wants = 0 if measure is None else _arguments(measure)
        if self._wants > 3:
            wants = "(samples), (samples, reals) or (samples, reals, conditions)"
            _checks.fail("Evaluate", f"measure takes {self._wants} arguments, wants {wants}")
        self._source = self._real = self._told = None

    def on_start(self, trainer: TrainerLike) -> None:
        if isinstance(self.features, str):  # on the run's device
            self.features = features_of(self.features, trainer.device)
        if self.data is not None and self._source is None:
            source = trainer.source
            rows = getattr(self.data, "batch_size", None) or 1  # a DataLoader's own
            self._source = source_of(self.data, batch_size=rows, device=trainer.device, real=source.key, labels=source.labels)
        if self._source is not None:
            forms = [trees.structure(parts.whole(*given.reals(1))) for given in (self._source, trainer.source)]
            if forms[0] != forms[1]:
                held, own = (", ".join(trees.names(form)) for form in forms)
                _checks.fail("Evaluate", f"data has {held}, the run's {own}", "Reals and conditions that belong together are measured")
        if self.measure is None:
            real, told = trainer.told(self.samples, self.network, self._source)
            with _unnoticed(trainer):
                self._real, self._told = self.features(real), told if trainer.sampler(self.network).conditioner else None

    def on_log(self, trainer: TrainerLike, row: dict) -> None:
        # Decided by the steps alone, so that a resumed run measures at the same steps as an uninterrupted one.
        before = (trainer.steps - 1) // trainer.config.log_every * trainer.config.log_every
        if trainer.steps // self.every > before // self.every or trainer.progress() >= 1:
            numbers = self.measured(trainer)
            row.update(numbers)
            if self.best is not None:
                self._keep_best(trainer, numbers)

    def measured(self, trainer: TrainerLike) -> dict[str, float]:
        """The numbers, each with its full name; NaN where features are not finite."""
        n = self.samples if self._real is None else len(self._real)
        with _unnoticed(trainer):
            if self._wants > 1 or (self.measure is not None and self.data is not None):
                real, told = trainer.told(n, self.network, self._source)
                given = trainer.sampler(self.network).conditioner
                fake = trainer.sample(len(real), told if given else None, self.seed, network=self.network)
                return _numbers(self.measure(*(fake, real, given and given(told))[: self._wants]))
            fake = trainer.sample(n, self._told, self.seed, network=self.network)
            if self.measure is not None:
                return _numbers(self.measure(fake))
            found = self.features(fake)
            numbers = scores(self._real, found) if found.isfinite().all() else dict.fromkeys(SCORES, math.nan)
        return {f"{name} ({self.features.name})": value for name, value in numbers.items()}

    def _keep_best(self, trainer: TrainerLike, numbers: dict[str, float]) -> None:
        name = self.best if self.measure is not None else f"{self.best} ({self.features.name})"
        if name not in numbers:
            _checks.nearest("Evaluate", "best", name, numbers)
        value, old = numbers[name], trainer.best
        sign = -1 if self.best in LARGER_IS_BETTER else 1
        if math.isfinite(value) and (old is None or old["name"] != name or sign * value < sign * old["value"]):
            trainer.best = {"name": name, "value": value, "step": trainer.steps}
            trainer.save_best()


def _numbers(given: object) -> dict[str, float]:
    """Raises: TypeError for what is no dict of numbers."""
    if not isinstance(given, Mapping) or not all(isinstance(value, (int, float)) or _is_one(value) for value in given.values()):
        _checks.fail("Evaluate", f"measure gave {given!r:.200}, wants a dict of numbers", error=TypeError)
    return {name: float(value) for name, value in given.items()}


def _is_one(value: object) -> bool:
    """A tensor, or a number of numpy's."""
    return value.numel() == 1 if isinstance(value, Tensor) else hasattr(value, "dtype") and getattr(value, "size", 0) == 1


def _arguments(function: Callable) -> int:
    """How many arguments a function wants; 1 where it does not say."""
    try:
        wanted = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    if any(p.kind is p.VAR_POSITIONAL for p in wanted):
        return 3
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in wanted)


def _unnoticed(trainer: TrainerLike) -> contextlib.AbstractContextManager:
    """Afterwards torch's global generators are as before, whatever the networks drew from them."""
    return torch.random.fork_rng([trainer.device] if trainer.device.type == "cuda" else [], device_type="cuda")


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
