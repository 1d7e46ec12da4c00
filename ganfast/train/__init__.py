"""The trainer and what it needs; the extra `train` brings its dependencies."""

from ganfast.train.callbacks import Callback
from ganfast.train.config import TrainConfig
from ganfast.train.loop import Trainer
from ganfast.train.metrics import Evaluate
from ganfast.train.phases import Batch, Phase, adversarial

__all__ = ["Batch", "Callback", "Evaluate", "Phase", "TrainConfig", "Trainer", "adversarial"]
