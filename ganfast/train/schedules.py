"""What of a run's settings changes over its course: learning rates, Adam's second beta, the weights of penalties."""

import math


class Schedules:
    """The courses of TrainConfig's settings."""

    decay: str
    decay_from: float
    decay_to: float
    beta2_end: float | None
    penalty_end: float
    penalty_decay: str
    mode_seeking: float
    path_length: float
    ada_course: float | None

    def fall(self, progress: float) -> float:
        """What the learning rates are multiplied by when `progress` (0 to 1) of the run is done."""
        return self.decay_to + (1 - self.decay_to) * self._rest(progress)

    def beta2(self, progress: float, start: float, power: float = 1) -> float:
        """Adam's second beta then, of a network that began with `start`; power: of the lazy correction. It moves in steps, as each new one
        is recorded anew on a GPU."""
        if self.beta2_end is None:
            return start
        end = self.beta2_end**power
        return end + (start - end) * self._rest(math.floor(16 * progress) / 16)

    def ada_p(self, progress: float) -> float | None:
        """ADA's probability then, where it has a course."""
        return None if self.ada_course is None else self.ada_course * (1 - self._rest(progress))

    def _rest(self, progress: float) -> float:
        rest = (1 - progress) / (1 - self.decay_from) if self.decay_from < 1 else 1.0
        rest = min(1.0, max(0.0, rest))
        return rest if self.decay == "linear" else 0.5 - 0.5 * math.cos(math.pi * rest)

    def weights(self, progress: float) -> dict[str, float]:
        """The terms' weights, which a lazy phase multiplies by its interval."""
        share = self.penalty_end**progress
        if self.penalty_decay == "cosine":
            share = self.penalty_end + (1 - self.penalty_end) * (0.5 + 0.5 * math.cos(math.pi * progress))
        fallen = {name: getattr(self, name) * share for name in ("r1", "r2", "gradient_penalty")}
        return fallen | {"mode_seeking": self.mode_seeking, "path_length": self.path_length}
