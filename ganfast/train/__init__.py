"""The trainer and what it needs; the extra `train` brings its dependencies."""

from ganfast.train.config import TrainConfig
from ganfast.train.loop import Trainer
from ganfast.train.phases import Batch, Phase, adversarial
from ganfast.train.watch.callbacks import Callback
from ganfast.train.watch.metrics import Evaluate

__all__ = ["Batch", "Callback", "Evaluate", "Phase", "TrainConfig", "Trainer", "adversarial"]
