"""`gather_images`: checks and choice of backend. Nothing here has a gradient."""

import torch
from torch import Tensor

from ganfast import _backends, _checks
from ganfast._layout import is_channels_last, is_dense, memory_format
from ganfast.ops.gather_images import kernels

_OP = "gather_images"
_LARGEST = 2**30  # elements of one image: the kernels count those in 32 bits


def gather_images(
    images: Tensor,
    index: Tensor,
    *,
    flip: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool | None = None,
    backend: str | None = None,
) -> Tensor:
    """A batch from a dataset that lies on the device: y[b] = images[index[b]] / 127.5 - 1, mirrored left-right where flip[b], in one pass.

    Shapes:
        images [N, C, H, W], index [B], flip [B] or None; y [B, C, H, W].
    Dtypes: images uint8; index int64 or int32; flip bool; ``dtype`` float32, bfloat16, float16; float64 on reference, torch and cpu.
        Computed in float32 (float64 for float64) and rounded once: 0 becomes -1, 255 exactly 1, the same bits on every backend.
    Layout: images contiguous or channels_last; y as ``channels_last`` says, None: as images.
    Grads: none; y does not require grad.
    Raises: TypeError, ValueError for what the above forbids; IndexError for an index outside 0 to N - 1, on a CPU. On a GPU nobody waits
        for the device: there such an image becomes NaN. RuntimeError where a named backend cannot run.
    Source: the range of a generator's tanh, Radford et al. 2016, section 4; mirrored reals as in Karras et al. 2020, "Training GANs
        with limited data".
    """
    _check(images, index, flip, dtype, channels_last)
    wanted = _backends.requested(_OP, backend)
    chosen = _backends.first_fused(images, dtype) if wanted == "auto" else _backends.named(_OP, wanted, images, dtype)
    count, *shape = images.shape
    images_last = is_channels_last(images)
    last = (images_last if channels_last is None else channels_last) and shape[0] > 1 and shape[1:] != [1, 1]  # else both are the same
    if index.shape[0] == 0 or 0 in shape:
        size = (index.shape[0], *shape)
        return torch.empty(size, dtype=dtype, device=images.device, memory_format=memory_format(4, last))
    if count == 0:
        _checks.fail(_OP, f"images is empty: shape {tuple(images.shape)}; {index.shape[0]} are asked for", error=IndexError)
    return kernels.fwd(images, index.contiguous(), None if flip is None else flip.contiguous(), dtype, images_last, last, chosen)


def _check(images, index, flip, dtype, channels_last) -> None:
    _checks.check_tensor(_OP, "images", images)
    if images.dtype != torch.uint8:
        cause = "Floats need no scaling: images[index] is their batch" if images.is_floating_point() else ""
        _checks.fail(_OP, f"images has dtype {images.dtype}, wants torch.uint8", cause, TypeError)
    if images.dim() != 4:
        cause = "Grey images want a channel: images.unsqueeze(1)" if images.dim() == 3 else ""
        _checks.fail(_OP, f"images has shape {tuple(images.shape)}, wants [N, C, H, W]", cause)
    if not is_dense(images):
        _checks.fail(
            _OP, f"images has strides {images.stride()} for shape {tuple(images.shape)}, wants contiguous or channels_last memory",
            "A view, perhaps; make it .contiguous() once: done here, that would copy the dataset for every batch",
        )  # fmt: skip
    if images.shape[1:].numel() > _LARGEST:
        _checks.fail(_OP, f"images has {images.shape[1:].numel()} elements an image, wants at most {_LARGEST}")
    _check_vector(images, "index", index, (torch.int64, torch.int32))
    if flip is not None:
        _check_vector(images, "flip", flip, (torch.bool,))
        if flip.shape != index.shape:
            _checks.fail(_OP, f"flip has shape {tuple(flip.shape)}, wants {tuple(index.shape)}, one entry for each of index's")
    if dtype not in _checks.FLOAT_DTYPES:
        _checks.fail(_OP, f"dtype is {dtype!r}, wants float32, bfloat16, float16 or float64", error=TypeError)
    if channels_last not in (None, True, False):
        _checks.fail(_OP, f"channels_last is {channels_last!r}, wants True, False or None, which keeps images' own", error=TypeError)


def _check_vector(images: Tensor, argument: str, vector: object, dtypes: tuple[torch.dtype, ...]) -> None:
    _checks.check_tensor(_OP, argument, vector)
    if vector.dtype not in dtypes:
        cause = "For a mask pass mask.nonzero()[:, 0]" if vector.dtype in (torch.bool, torch.uint8) and argument == "index" else ""
        _checks.fail(_OP, f"{argument} has dtype {vector.dtype}, wants {' or '.join(map(str, dtypes))}", cause, TypeError)
    if vector.dim() != 1:
        _checks.fail(_OP, f"{argument} has shape {tuple(vector.shape)}, wants one dimension, an entry for each image of the batch")
    _checks.check_device(_OP, argument, vector, images, "images")
