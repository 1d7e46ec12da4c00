"""The `torch` backend: torch's own kernels one after the other, the mirror on bytes, the arithmetic in place."""

import torch
from torch import Tensor

from ganfast._layout import memory_format


def gather_images_fwd_torch(images, index, flip, dtype, images_last, channels_last) -> Tensor:
    column = lambda v: v.view(-1, 1, 1, 1)
    acc = torch.promote_types(dtype, torch.float32)
    x = images.index_select(0, index.clamp(0, images.shape[0] - 1))
    if flip is not None:
        x = torch.where(column(flip), x.flip(-1), x)
    inside = (index >= 0) & (index < images.shape[0])
    half = torch.where(inside, 127.5, torch.nan).to(acc)  # a divisor each image: NaN spreads without a pass of its own
    return x.to(acc, memory_format=memory_format(4, channels_last)).div_(column(half)).sub_(1).to(dtype)
