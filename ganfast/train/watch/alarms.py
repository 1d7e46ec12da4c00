"""Alarms: warnings that a run goes wrong, found in the numbers of its log lines, with what they mean and what to try."""

import math
from typing import NamedTuple

from ganfast.train.thresholds import Thresholds

ALARMS: dict[str, tuple[str, str]] = {
    "perfect_discriminator": (
        "it has outrun the generator, which learns little from being always wrong",
        "lower discriminator_learning_rate or n_critic, raise r1, or make its task harder with noise, augment or smoothing",
    ),
    "overfitting": (
        "it may be learning the training images by heart instead of what they have in common",
        'set augment="ada" or "color,translation,cutout", and flip where images keep their meaning, raise r1 or noise, or add images',
    ),
    "too_few_images": (
        "even so augmented the discriminator knows the training images, and what augmentation does to them begins to show in the samples",
        "add images, raise r1 or noise, or end the run at an earlier checkpoint; if they are many, raise ada_target or ada_speed",
    ),
    "vanishing_gradient": (
        "the discriminator is so sure of its answers that they no longer depend on what the generator changes",
        'take loss="nonsaturating" or "relativistic" if it is "minimax", lower discriminator_learning_rate, raise r1 or noise',
    ),
    "gradient_ratio": (
        "the two networks no longer learn at the same pace",
        "set learning_rate and discriminator_learning_rate apart, or lower both; r1 keeps the discriminator from running off",
    ),
    "mode_collapse": (
        "it draws the same few images for every latent",
        "raise r1 (with r2), set mode_seeking, take a larger batch_size, or start again with a lower learning_rate",
    ),
    "overshoot": (
        "it does worse than if it had learned nothing: its updates go too far, or the generator is always ahead",
        "lower learning_rate; only if the losses lie still, raise discriminator_learning_rate or n_critic",
    ),
    "non_finite": (
        "an update is skipped whole, and nothing is learned from it",
        'look for nan or inf in the data and in what the networks give; lower learning_rate; if precision is "fp16", take "bf16"',
    ),
    "penalty_spike": (
        "the discriminator has become steep all at once, and its next updates may throw the generator off",
        "lower discriminator_learning_rate, or raise the penalty's weight (r1, r2 or gradient_penalty) or lower penalty_every",
    ),
}
"""Each alarm's name -> (what it means, what to try: fields of TrainConfig)."""

_PENALTIES = ("r1", "r2", "gradient_penalty")
# Of one of several pairs of networks these are called "a/loss_d", by the name of the term or the network.
_JUDGED = {"loss_d", "real_accuracy", "fake_accuracy", "real_sign", "ada_p", "grad_from_d", "spread", *_PENALTIES}
_GUESSING = {"hinge": 2.0, "lsgan": 0.25, "relativistic": math.log(2)}  # loss_d of logits that tell nothing; of the others 2 log 2
_HISTORY = 20  # lines a penalty's median is taken of, and half of them before the first alarm: it follows weights that fall in a run
_WINDOW = 200  # steps over which skipped updates are counted
_SCALER_SKIPS = 16  # fp16's loss scale, 2^16 at first, halves with each until the gradients fit: no more in the warm-up are an alarm


class Alarm(NamedTuple):
    """A raised alarm: its name in ALARMS, the number that raised it, the threshold, and the message."""

    name: str
    value: float
    threshold: float
    message: str
    over: bool = False
    """True: raised earlier, and now the number is as it should be"""


class _Reading(NamedTuple):
    value: float
    threshold: float
    bad: bool
    text: str
    urgent: bool = False  # raised without warm-up and patience


class Monitors:
    """Reads the lines of a run's log and raises alarms; one noisy line is none.

    ``see(row)`` takes a line's numbers, means since the line before: step, loss_d, loss_g, real_accuracy, fake_accuracy, real_sign, ada_p,
    grad_d, grad_g, grad_from_d, r1, r2, gradient_penalty, spread, and skipped, a count; any may be missing, and then what needs it is not
    judged.
    An alarm is raised after the warm-up when its number was beyond the threshold for some lines and steps on end, again after 20, 40,
    80, ... lines while that lasts, and once with ``over`` when the number was back for as long. ``active`` names those raised and not
    over. non_finite waits for nothing. Numbers such as "a/loss_d" or "a/spread", of one of several pairs of networks, are judged by
    themselves, and their alarms are called "a/...".

    ``loss``, the kind, tells which numbers mean something: a wasserstein critic is meant to be right always, relativistic losses leave the
    logits' zero anywhere, lsgan's border is 0.5.
    """

    def __init__(self, thresholds: Thresholds | None = None, *, loss: str = "nonsaturating") -> None:
        self.thresholds, self.loss = thresholds or Thresholds(), loss
        self._guessing = _GUESSING.get(self.loss, 2 * math.log(2))
        self._step = 0
        self._alarms = {name: {"on": 0, "lines": 0, "steps": 0, "quiet": 0, "wait": 20} for name in ALARMS}
        self._skipped: list[list[float]] = []  # [steps, skipped] of the last lines
        self._history: dict[str, list[float]] = {name: [] for name in _PENALTIES}
        self._pairs: dict[str, Monitors] = {}

    @property
    def active(self) -> list[str]:
        own = [name for name, state in self._alarms.items() if state["on"]]
        return own + [f"{pair}/{name}" for pair, monitors in self._pairs.items() for name in monitors.active]

    def state_dict(self) -> dict:
        """Plain numbers in dicts and lists."""
        alarms = {name: dict(state) for name, state in self._alarms.items()}
        history = {name: list(values) for name, values in self._history.items()}
        return {"step": self._step, "alarms": alarms, "skipped": [list(pair) for pair in self._skipped], "history": history,
                "pairs": {pair: monitors.state_dict() for pair, monitors in self._pairs.items()}}  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        self._step = state["step"]
        for name, values in state["alarms"].items():
            self._alarms[name] = dict(values)
        self._skipped = [list(pair) for pair in state["skipped"]]
        self._history = {name: list(values) for name, values in state["history"].items()}
        for pair, values in state.get("pairs", {}).items():
            self._pair(pair).load_state_dict(values)

    def _pair(self, name: str) -> "Monitors":
        return self._pairs.setdefault(name, Monitors(self.thresholds, loss=self.loss))

    def see(self, row: dict[str, float]) -> list[Alarm]:
        step = row.get("step", self._step + 1)
        steps, self._step = max(step - self._step, 1), step
        bad = sorted(name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value))
        row = {name: value for name, value in row.items() if name not in bad}
        readings = {
            "perfect_discriminator": self._perfect(row),
            "overfitting": self._overfitting(row),
            "too_few_images": self._few(row),
            "vanishing_gradient": self._vanishing(row),
            "gradient_ratio": self._ratio(row),
            "mode_collapse": self._collapse(row),
            "overshoot": self._overshoot(row),
            "non_finite": self._non_finite(row, steps, bad),
            "penalty_spike": self._spike(row),
        }
        found = [self._judge(name, reading, steps) for name, reading in readings.items() if reading is not None]
        pairs: dict[str, dict[str, float]] = {}
        for name, value in row.items():
            pair, _, bare = name.rpartition("/")
            if pair and bare in _JUDGED:
                pairs.setdefault(pair, {"step": step})[bare] = value
        for pair, values in pairs.items():
            found += [alarm._replace(name=f"{pair}/{alarm.name}") for alarm in self._pair(pair).see(values)]
        return [alarm for alarm in found if alarm is not None]

    def _judge(self, name: str, reading: _Reading, steps: int) -> Alarm | None:
        t, state = self.thresholds, self._alarms[name]
        urgent = reading.urgent and reading.bad
        if reading.bad == bool(state["on"]) or not (urgent or self._step > t.warm_up or state["on"]):
            state["lines"] = state["steps"] = 0
        else:
            state["lines"] += 1
            state["steps"] += steps
            if urgent or (state["lines"] >= t.patience_lines and state["steps"] >= t.patience_steps):
                state.update(on=int(reading.bad), lines=0, steps=0, quiet=0, wait=20)
                return self._alarm(name, reading, "" if reading.bad else "Over: ")
        if state["on"] and reading.bad:
            state["quiet"] += 1
            if state["quiet"] >= state["wait"]:
                state.update(quiet=0, wait=2 * state["wait"])
                return self._alarm(name, reading, "Still: ")
        return None

    def _alarm(self, name: str, reading: _Reading, prefix: str) -> Alarm:
        meaning, remedy = ALARMS[name]
        text = reading.text[0].lower() + reading.text[1:] if prefix else reading.text
        message = f"{prefix}{text}; {meaning}: {remedy}." if reading.bad else f"{prefix}{text}."
        return Alarm(name, reading.value, reading.threshold, message, not reading.bad)

    def _right(self, row: dict) -> float | None:
        """The share of images that the discriminator is right on; None if the loss does not tell."""
        if self.loss == "wasserstein" or not {"real_accuracy", "fake_accuracy"} <= row.keys():
            return None
        right = (row["real_accuracy"] + row["fake_accuracy"]) / 2
        if self.loss.startswith("relativistic") and "loss_d" in row:
            # A pair in the wrong order costs log 2 at least, so that by Markov's inequality at most loss / log 2 of them are; of the
            # averaging kind the two halves add up.
            right = max(right, 1 - row["loss_d"] / math.log(2) / (2 if self.loss == "relativistic_average" else 1))
        return right

    def _sure(self, row: dict) -> bool:
        """Under a strong penalty or at the end of a decay logits may lie on the right side of zero and next to it: then the loss is nearly
        that of guessing, and the generator's gradient as good as ever."""
        return row.get("loss_d", 0.0) < self._guessing / 2

    def _perfect(self, row: dict) -> _Reading | None:
        right, limit = self._right(row), self.thresholds.perfect_discriminator
        if right is None or limit is None:
            return None
        text = f"The discriminator is right on {100 * right:.1f} % of real and fake images, where 50 % is chance"
        return _Reading(right, limit, right >= limit and self._sure(row), text)

    def _overfitting(self, row: dict) -> _Reading | None:
        """r_t of Karras et al. 2020 (ADA), equation 1. Relativistic logits have no fixed zero: reals and fakes must both be right."""
        limit, sign = self.thresholds.overfitting, row.get("real_sign")
        if self.loss == "lsgan":
            sign = 2 * row["real_accuracy"] - 1 if "real_accuracy" in row else None
        elif self.loss.startswith("relativistic"):
            sign = min(sign, 2 * row["fake_accuracy"] - 1) if sign is not None and "fake_accuracy" in row else None
        if sign is None or limit is None or self.loss == "wasserstein":
            return None
        text = f"The discriminator calls {50 + 50 * sign:.0f} % of the training images real (mean sign {sign:.2f})"
        return _Reading(sign, limit, sign >= limit and self._sure(row), text)

    def _few(self, row: dict) -> _Reading | None:
        limit, p = self.thresholds.too_few_images, row.get("ada_p")
        if p is None or limit is None:
            return None
        return _Reading(p, limit, p >= limit, f"Adaptive augmentation stands at a probability of {p:.2f}")

    def _vanishing(self, row: dict) -> _Reading | None:
        limit, norm = self.thresholds.vanishing_gradient, row.get("grad_from_d")
        if norm is None or limit is None:
            return None
        right = self._right(row)  # at the equilibrium the gradient is small too, and nothing is wrong
        text = f"An image of the generator receives a gradient of norm {norm:.1e} from the discriminator"
        return _Reading(norm, limit, norm < limit and (right is None or right > 0.75), text)

    def _ratio(self, row: dict) -> _Reading | None:
        limit, g, d = self.thresholds.gradient_ratio, row.get("grad_g"), row.get("grad_d")
        if g is None or d is None or limit is None or (g == 0 and d == 0):
            return None
        ratio = g / max(d, 1e-30)
        text = f"The generator's gradient is {ratio:.3g} times the discriminator's"
        return _Reading(ratio, limit if ratio >= 1 else 1 / limit, not 1 / limit < ratio < limit, text)

    def _collapse(self, row: dict) -> _Reading | None:
        limit, value = self.thresholds.mode_collapse, row.get("spread")
        if value is None or limit is None:
            return None
        return _Reading(value, limit, value < limit, f"The generator's images are {100 * value:.0f} % as diverse as real ones")

    def _overshoot(self, row: dict) -> _Reading | None:
        limit, loss = self.thresholds.overshoot, row.get("loss_d")
        if loss is None or limit is None or self.loss == "wasserstein":
            return None
        text = f"The discriminator's loss is {loss:.3g}, where guessing costs {self._guessing:.3g}"
        return _Reading(loss / self._guessing, limit, loss > limit * self._guessing, text)

    def _non_finite(self, row: dict, steps: int, bad: list[str]) -> _Reading | None:
        limit = self.thresholds.non_finite
        if limit is None:
            return None
        skipped = row.get("skipped", 0)
        self._skipped.append([steps, skipped])
        while sum(s for s, _ in self._skipped[1:]) >= _WINDOW:
            del self._skipped[0]
        if bad:
            return _Reading(1.0, limit, True, f"{', '.join(bad)} {'is' if len(bad) == 1 else 'are'} no finite number", True)
        seen, lost = sum(s for s, _ in self._skipped), sum(s for _, s in self._skipped)
        excess = lost if self._step > self.thresholds.warm_up or skipped >= steps > 1 else max(lost - _SCALER_SKIPS, 0)
        text = f"{lost:.0f} updates in the last {seen:.0f} steps were skipped for inf or nan in a gradient"
        return _Reading(lost / seen, limit, excess / seen > limit, text, True)

    def _spike(self, row: dict) -> _Reading | None:
        limit, worst = self.thresholds.penalty_spike, None
        for name in _PENALTIES:
            if name not in row:
                continue
            history, value = self._history[name], row[name]
            if len(history) >= _HISTORY // 2 and limit is not None and (usual := sorted(history)[len(history) // 2]) > 0:
                text = f"{name} is {value:.3g}, {value / usual:.3g} times its usual {usual:.3g}"
                reading = _Reading(value / usual, limit, value > limit * usual, text)
                worst = reading if worst is None or reading.value > worst.value else worst
            if self._step > self.thresholds.warm_up:
                history.append(value)
                del history[:-_HISTORY]
        return worst
