"""`torch_utils.ops.grid_sample_gradfix`: torch's grid_sample, with second derivatives, which older versions of torch have not."""

import torch
from torch import Tensor
from torch.autograd import Function

from ganfast._autograd import differentiates, no_autocast

__all__ = ["enabled", "grid_sample"]

enabled = True  # read by nobody: derivatives of every order are always there

_MODE = (0, 0, False)  # bilinear, zeros beyond the border, align_corners


def grid_sample(input: Tensor, grid: Tensor) -> Tensor:
    """torch.nn.functional.grid_sample of images, bilinear, with zeros beyond the border, align_corners=False; to any order."""
    dtype = torch.promote_types(input.dtype, grid.dtype)
    return _Sample.apply(input.to(dtype), grid.to(dtype))


class _Sample(Function):
    """Linear in the images: its gradient by them is the adjoint, and theirs is this again. By the grid it is the formula's own."""

    @staticmethod
    def forward(ctx, input, grid):
        ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, grid)
        ctx.shape = input.shape
        with no_autocast(input):
            return torch.grid_sampler_2d(input, grid, *_MODE)

    @staticmethod
    def backward(ctx, gy):
        input, grid = ctx.saved_tensors
        with no_autocast(gy):
            if input is None:
                return _Adjoint.apply(gy, grid, ctx.shape), None
            if differentiates():
                return _gradients(gy, input, grid, ctx.needs_input_grad)
            return torch.ops.aten.grid_sampler_2d_backward(gy, input, grid, *_MODE, list(ctx.needs_input_grad))


class _Adjoint(Function):
    """gy, spread over images of a shape."""

    @staticmethod
    def forward(ctx, gy, grid, shape):
        ctx.save_for_backward(grid)
        images = gy.new_empty(()).expand(shape)  # of which only the shape is read
        return torch.ops.aten.grid_sampler_2d_backward(gy.contiguous(), images, grid, *_MODE, [True, False])[0]

    @staticmethod
    def backward(ctx, gx):
        (grid,) = ctx.saved_tensors
        return grid_sample(gx, grid), None, None


def _gradients(gy: Tensor, input: Tensor, grid: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
    """Those of both, as a graph of plain operations."""
    inputs = [tensor for tensor, want in zip((input, grid), wanted) if want]
    with torch.enable_grad():
        found = iter(torch.autograd.grad(_composed(input, grid), inputs, gy, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)


def _composed(input: Tensor, grid: Tensor) -> Tensor:
    """The sum over the four pixels around each place."""
    n, c, height, width = input.shape
    acc = torch.promote_types(input.dtype, torch.float32)
    x, y = (((grid[..., i].to(acc) + 1) * size - 1) / 2 for i, size in enumerate((width, height)))
    flat, total = input.to(acc).flatten(2), 0
    for row in (y.detach().floor(), y.detach().floor() + 1):
        for column in (x.detach().floor(), x.detach().floor() + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs()) * inside
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            pixels = flat.gather(2, index.view(n, 1, -1).expand(-1, c, -1)).view(n, c, *index.shape[1:])
            total = total + pixels * weight.unsqueeze(1)
    return total.to(input.dtype)
