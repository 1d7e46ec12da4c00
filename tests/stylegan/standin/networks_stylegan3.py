"""A layer of a StyleGAN3 as its paper describes it, against the published interface of the operations."""

import numpy as np
import torch
from torch_utils.ops import conv2d_gradfix, filtered_lrelu


class SynthesisLayer(torch.nn.Module):
    def __init__(self, c_in, c_out, taps=12):
        super().__init__()
        window = torch.hann_window(taps + 2, periodic=False)[1:-1]
        self.register_buffer("up_filter", window / window.sum())
        self.register_buffer("down_filter", (window / window.sum()).outer(window / window.sum()))
        self.weight = torch.nn.Parameter(torch.randn(c_out, c_in, 3, 3) / 5)
        self.bias = torch.nn.Parameter(torch.randn(c_out))
        self.padding = [10, 9, 10, 9]

    def forward(self, x, styles):
        n, (c_out, c_in, *kernel) = len(x), self.weight.shape
        w = (self.weight[None] * styles.view(n, 1, c_in, 1, 1)).reshape(n * c_out, c_in, *kernel).to(x.dtype)
        x = conv2d_gradfix.conv2d(input=x.reshape(1, n * c_in, *x.shape[2:]), weight=w, padding=2, groups=n)
        return filtered_lrelu.filtered_lrelu(
            x=x.reshape(n, c_out, *x.shape[2:]), fu=self.up_filter, fd=self.down_filter, b=self.bias.to(x.dtype),
            up=2, down=2, padding=self.padding, gain=np.sqrt(2), clamp=256,
        )  # fmt: skip
