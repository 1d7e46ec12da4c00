"""The training loop and what it needs; the extra `train` brings its dependencies."""

from ganfast.train.config import TrainConfig
from ganfast.train.loop import Trainer

__all__ = ["TrainConfig", "Trainer"]
