"""Registration of the pass: one signature for every backend, picked by the last argument."""

import torch
from torch import Tensor

from ganfast import _checks, _native
from ganfast._layout import memory_format
from ganfast.ops.gather_images import reference, torch_backend

_FWD = "(Tensor images, Tensor index, Tensor? flip, ScalarType dtype, bool images_last, bool channels_last{}) -> Tensor"

_native.define("gather_images_fwd_native" + _FWD.format(""))


def _check_inside(index: Tensor, count: int) -> None:
    """For a CPU alone: on a GPU the host would wait for the answer."""
    low, high = (bound.item() for bound in torch.aminmax(index))
    if low < 0 or high >= count:
        cause = "A negative one does not count from the end" if low < 0 else ""
        _checks.fail("gather_images", f"index holds {low if low < 0 else high}, wants 0 to {count - 1}", cause, IndexError)


def _fwd(images, index, flip, dtype, images_last, channels_last, backend):
    """images [N, C, H, W] uint8, dense, in channels_last memory where `images_last`; index [B], flip [B] bool or None, contiguous ->
    [B, C, H, W] of dtype. An index outside makes NaN of its image where nothing refused it."""
    if images.device.type == "cpu":
        _check_inside(index, images.shape[0])
    args = (images, index, flip, dtype, images_last, channels_last)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.gather_images_fwd_native(*args)
    if backend == "triton":
        from ganfast.ops.gather_images import triton

        return triton.gather_images_fwd_triton(*args)
    run = torch_backend.gather_images_fwd_torch if backend == "torch" else reference.gather_images_fwd_reference
    return run(*args).contiguous(memory_format=memory_format(4, channels_last))


def _fwd_fake(images, index, flip, dtype, images_last, channels_last, backend):
    shape = (index.shape[0], *images.shape[1:])
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=memory_format(4, channels_last))


fwd = _native.register("gather_images_fwd" + _FWD.format(", str backend"), _fwd, _fwd_fake)
