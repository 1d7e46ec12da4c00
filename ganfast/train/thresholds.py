"""Thresholds: the settings of the alarms, with the measurements that the defaults come from."""

import math
from dataclasses import dataclass, fields


@dataclass
class Thresholds:
    """When an alarm is raised; None switches one off."""

    # Each default lies between what was measured in healthy runs from step 500 on (the digits at 16x16 by six losses, with and without
    # penalties, spectral norm, noise and DiffAugment; the mixtures of Gaussians; 700 to 4000 steps) and in spoiled ones, of which
    # tests/train/watch/test_alarms_in_runs.py keeps one each. Healthy / spoiled:
    # perfect_discriminator  up to 0.98 / 1.00 (that the generator then learns little: Arjovsky & Bottou 2017, theorems 2.4 to 2.6)
    # overfitting            up to 0.62 with noise / 0.97 on 20 images, 0.90 on 1,797 without any regularisation (Karras et al. 2020, ADA,
    #                        hold it at 0.6 by augmenting)
    # vanishing_gradient     from 3e-2 / 1e-5 to 1e-10        gradient_ratio  0.04 to 6 / 1e3 to 1e9
    # mode_collapse          from 0.73 / 0 to 0.15            overshoot       up to 1.0 / 2 to 1e6
    # too_few_images         the bound under which Karras et al. 2020 (ADA, section 2) find that nothing leaks
    # penalty_spike          up to 2.2 / hundreds             warm_up         a healthy one was right on 99 % until step 210
    warm_up: float = 500
    """steps before any alarm but non_finite: every run begins with a discriminator that is right and images that are alike"""
    patience_steps: float = 150
    """an alarm is raised, and is over, after so many steps on end"""
    patience_lines: float = 3
    """and so many lines of the log at least"""
    perfect_discriminator: float | None = 0.99
    """share of images that the discriminator is right on, the mean of real and fake"""
    overfitting: float | None = 0.9
    """mean sign of the logits of real images: 1 when it is sure of every training image"""
    too_few_images: float | None = 0.8
    """probability of adaptive augmentation, above which it shows in the samples"""
    vanishing_gradient: float | None = 1e-4
    """norm of the gradient that an image of the generator receives"""
    gradient_ratio: float | None = 300.0
    """norm of the generator's gradient over the discriminator's, or the other way round"""
    mode_collapse: float | None = 0.25
    """spread of a fixed batch of fakes against one of reals: 1 as diverse, 0 all the same"""
    overshoot: float | None = 1.5
    """loss of the discriminator over that of guessing"""
    non_finite: float | None = 0.01
    """updates skipped because of inf or nan, for each step"""
    penalty_spike: float | None = 10.0
    """r1, r2 or gradient_penalty over its median of the last 20 lines"""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            wait = field.name in ("warm_up", "patience_steps", "patience_lines")
            if value is None and not wait:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
            if not number or not (wait or value > 0):
                wanted = "no negative number" if wait else "a positive number, or None for off"
                raise ValueError(f"Thresholds: {field.name} got {value!r}, wants {wanted}.")
