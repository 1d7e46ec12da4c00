"""Resampling by a filter in plain calls, as ports write it for machines without their own kernel."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin.small import pair, same


class Upfirdn2d(nn.Module):
    """Zeros behind each value, a border, a filter turned round, every down-th result."""

    def __init__(self, up=1, down=1, pad=(0, 0), learns=False):
        super().__init__()
        kernel = torch.rand(4, 3)
        self.kernel = nn.Parameter(kernel) if learns else nn.Buffer(kernel)
        self.up, self.down, self.pad, self.last = up, down, pad, 0

    def forward(self, x):
        (up, down, (before, after)), (kernel_h, kernel_w) = (self.up, self.down, self.pad), self.kernel.shape
        _, channel, in_h, in_w = x.shape
        x = x.reshape(-1, in_h, in_w, 1)
        out = x.view(-1, in_h, 1, in_w, 1, 1)
        out = F.pad(out, [0, 0, self.last, up - 1 - self.last, 0, 0, 0, up - 1])
        out = out.view(-1, in_h * up, in_w * up, 1)
        out = F.pad(out, [0, 0, max(before, 0), max(after, 0), max(before, 0), max(after, 0)])
        cut = slice(max(-before, 0), out.shape[1] - max(-after, 0))
        out = out[:, cut, max(-before, 0) : out.shape[2] - max(-after, 0), :]
        out = out.permute(0, 3, 1, 2)
        high, wide = in_h * up + before + after, in_w * up + before + after
        out = out.reshape([-1, 1, high, wide])
        out = F.conv2d(out, torch.flip(self.kernel, [0, 1]).view(1, 1, kernel_h, kernel_w))
        out = out.reshape(-1, 1, high - kernel_h + 1, wide - kernel_w + 1)
        out = out.permute(0, 2, 3, 1)[:, ::down, ::down, :]
        out_h, out_w = ((n - k + down) // down for n, k in ((high, kernel_h), (wide, kernel_w)))
        return F.relu(out.view(-1, channel, out_h, out_w))


def signal(n=2):
    return torch.randn(n, 3, 6, 5, generator=torch.Generator().manual_seed(n))


def became(model):
    return [row.became for row in ganfast.explain(model).groups]


FORMS = {
    "blur": {"pad": (2, 1)}, "up": {"up": 2, "pad": (2, 1)}, "down": {"down": 2, "pad": (1, 1)}, "cut": {"up": 2, "pad": (-1, 2)},
    "up 3, down 2": {"up": 3, "down": 2},
}  # fmt: skip


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_is_one_with_what_follows_it(options):
    plain, model = pair(lambda: Upfirdn2d(**options))
    same(model, plain, signal())
    assert became(model) == ["upfirdn + bias_act"]


def test_batches_of_every_size():
    plain, model = pair(lambda: Upfirdn2d(2, 1, (2, 1)))
    for n in (2, 3, 5, 1):
        same(model, plain, signal(n))
    assert became(model) == ["upfirdn + bias_act"]


class Before(Upfirdn2d):
    """Zeros before each value instead."""

    def __init__(self):
        super().__init__(2, 1, (2, 1))
        self.last = 1


@pytest.mark.parametrize("make", [Before, lambda: Upfirdn2d(2, 1, (2, 1), learns=True)], ids=["zeros before", "a filter that learns"])
def test_what_only_looks_like_it_is_not(make):
    plain, model = pair(make)
    same(model, plain, signal())
    assert "upfirdn + bias_act" not in became(model)  # the convolution of one channel may still be one, alone
