"""What a step keeps or counts in Python, in roundabout ways, is refused, and everything is put back."""

import itertools
import random
from collections import deque

import numpy as np
import pytest
import torch

import ganfast
from tests.step.common import equal
from tests.step.test_hidden import Base


class Roundabout(Base):
    def __init__(self, device):
        super().__init__(device)
        self.average, self.state, self.queue, self.numbers = None, (torch.zeros(1, device=device),), deque(), itertools.count()
        self.random, self.generator = random.Random(0), np.random.default_rng(0)
        self.schedule = torch.optim.lr_scheduler.StepLR(self.opt, 1)

    def lazily(self, x):
        if self.average is None:
            self.average = x.mean()
        else:
            self.average.mul_(0.5).add_(x.mean(), alpha=0.5)

    def carries(self, x):
        self.state = (self.state[0] + x.mean(),)

    def queues(self, x):
        self.queue.append(x)

    def iterates(self, x):
        return x * next(self.numbers)

    def draws(self, x):
        return x * self.random.random()

    def draws_of_numpy(self, x):
        return x * self.generator.random()

    def schedules(self, x):
        self.train(x)
        self.schedule.step()

    def replaces_memory(self, x):
        self.train(x)
        for p in self.net.parameters():
            p.data = p.data.clamp(-0.1, 0.1)

    def writes_argument(self, x):
        x.add_(1)


WORDS = {
    "lazily": r"makes self\.average when it runs first.*before capture",
    "carries": r"reads self\.state and then puts another tensor there",
    "queues": r"adds to or takes from self\.queue",
    "iterates": r"draws from self\.numbers, which counts in Python.*pass",
    "draws": r"draws from self\.random",
    "draws_of_numpy": r"draws from self\.generator",
    "schedules": r"steps a StepLR.*step it outside",
    "replaces_memory": r"other memory \(p\.data = \.\.\.\).*clamp_",
    "writes_argument": r"writes to an argument",
}


@pytest.mark.parametrize("name", WORDS)
def test_refused_and_put_back(device, name):
    one = Roundabout(device)
    one.train(torch.randn(3, 2, device=device))
    before, rate = one.copies(), one.schedule.last_epoch
    with pytest.raises(ganfast.CaptureError, match=WORDS[name]):
        ganfast.capture(getattr(one, name), torch.ones(3, 2, device=device))
    equal(one.copies(), before)
    assert one.average is None and not one.queue and one.schedule.last_epoch == rate and isinstance(one.opt.param_groups[0]["lr"], float)
    one.train(torch.randn(3, 2, device=device))
