"""The trainer: the loop here, and rooms for data, saving, watching, distributed runs, known answers and the command line.

The extra `train` brings its dependencies.
"""

import importlib

from ganfast.train._moved import MOVED
from ganfast.train.config import TrainConfig
from ganfast.train.loop import Trainer
from ganfast.train.networks import Network
from ganfast.train.objectives.autoencoders import autoencoding
from ganfast.train.objectives.pool import ImagePool
from ganfast.train.objectives.terms import adversarial
from ganfast.train.phases import Batch, Phase
from ganfast.train.watch.callbacks import Callback
from ganfast.train.watch.metrics import Evaluate

__all__ = ["Batch", "Callback", "Evaluate", "ImagePool", "Network", "Phase", "TrainConfig", "Trainer", "adversarial", "autoencoding"]


def __getattr__(name: str):
    if name in MOVED:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
