"""A batch by its definition, in plain torch."""

import torch
from torch import Tensor


def gather_images_fwd_reference(images, index, flip, dtype, images_last, channels_last) -> Tensor:
    column = lambda v: v.view(-1, 1, 1, 1)
    inside = (index >= 0) & (index < images.shape[0])
    x = images[torch.where(inside, index, 0).long()]
    if flip is not None:
        x = torch.where(column(flip), x.flip(-1), x)
    acc = torch.promote_types(dtype, torch.float32)
    half = torch.full((), 127.5, dtype=acc, device=x.device)  # a tensor: by a number a GPU's torch multiplies with the inverse
    return torch.where(column(inside), x.to(acc) / half - 1, torch.nan).to(dtype)
