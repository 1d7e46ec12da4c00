"""The passes around a modulated convolution in Triton. A program takes pixels of one image, so that styles and demodulation are vectors
over its channels; sums over pixels are left per program and added up in a fixed order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._triton import load_channels, over_channels, over_rows, sum_rows
from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd
from ganfast.ops.modulated_conv.reference import is_itself


@triton.jit
def _image_tile(pid, channels, inner, c, tiles, WIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_R: tl.constexpr):
    """(image, its pixels, memory offsets, mask) of tile `pid % tiles` of image `pid // tiles` of x [N, C, inner]."""
    image = pid // tiles
    r = pid % tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    base = (image.to(tl.int64) if WIDE else image) * c * inner
    mask = over_rows(r < inner, CHANNELS_LAST) & over_channels(channels < c, CHANNELS_LAST)
    if CHANNELS_LAST:
        return image, r, base + (r.to(base.dtype) * c)[:, None] + channels[None, :], mask
    else:
        return image, r, base + (channels.to(base.dtype) * inner)[:, None] + r[None, :], mask


@triton.jit
def modulated_conv_scale_fwd_kernel(
    x, style, y, inner, c, tiles, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
):
    """x, y [N, C, inner]; style [N, C]."""
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, _, offsets, mask = _image_tile(tl.program_id(0), channels, inner, c, tiles, WIDE, CHANNELS_LAST, BLOCK_R)
    value = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32) * load_channels(style + image * c, channels, c, 1.0, CHANNELS_LAST)
    tl.store(y + offsets, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def modulated_conv_scale_bwd_kernel(
    g, x, style, gx, partials, inner, c, tiles, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """partials [N * tiles, C]: a tile's sums of g * x."""
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, _, offsets, mask = _image_tile(tl.program_id(0), channels, inner, c, tiles, WIDE, CHANNELS_LAST, BLOCK_R)
    value = tl.load(g + offsets, mask=mask, other=0.0).to(tl.float32)
    product = value * tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    value *= load_channels(style + image * c, channels, c, 1.0, CHANNELS_LAST)
    tl.store(gx + offsets, value.to(gx.dtype.element_ty), mask=mask)
    tl.store(partials + tl.program_id(0).to(tl.int64) * c + channels, sum_rows(product, CHANNELS_LAST), mask=channels < c)


@triton.jit
def _before_act(t, d, noise, bias, image, r, channels, inner, c, CHANNELS_LAST: tl.constexpr):
    """t * d + noise + bias, of a tile t."""
    z = t
    if d is not None:
        z *= load_channels(d + image * c, channels, c, 1.0, CHANNELS_LAST)
    if noise is not None:
        z += over_rows(tl.load(noise + image.to(tl.int64) * inner + r, mask=r < inner, other=0.0), CHANNELS_LAST)
    return z + load_channels(bias, channels, c, 0.0, CHANNELS_LAST)


@triton.jit
def modulated_conv_finish_fwd_kernel(
    t, d, noise, bias, alpha, y, alpha_value, gain, clamp, inner, c, tiles, ACT: tl.constexpr, CLAMPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """t, y [N, C, inner], maybe the same memory; d [N, C], noise [N, inner], bias and alpha [C], any of them None."""
    channels = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image, r, offsets, mask = _image_tile(tl.program_id(0), channels, inner, c, tiles, WIDE, CHANNELS_LAST, BLOCK_R)
    z = tl.load(t + offsets, mask=mask, other=0.0).to(tl.float32)
    z = _before_act(z, d, noise, bias, image, r, channels, inner, c, CHANNELS_LAST)
    out = gain * act_fwd(z, load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST), ACT)
    if CLAMPS:
        out = tl.where(out > clamp, clamp, tl.where(out < -clamp, -clamp, out))
    tl.store(y + offsets, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def modulated_conv_finish_bwd_kernel(
    gy, t, d, noise, bias, alpha, gt, gnoise, partials, alpha_value, gain, clamp, inner, c, tiles, blocks, ACT: tl.constexpr,
    CLAMPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Program (tile, i) takes `blocks` blocks of channels, all of them where there is a noise, whose gradient it then holds whole.
    partials [N * tiles, 3, C]: a tile's sums of gz * t, of gz and, with alpha, of g * df/dalpha."""
    ROWS: tl.constexpr = 3
    tile = tl.program_id(0)
    of_noise = tl.zeros((BLOCK_R,), tl.float32)
    at = partials + tile.to(tl.int64) * ROWS * c
    for block in range(blocks):
        channels = (tl.program_id(1) * blocks + block) * BLOCK_C + tl.arange(0, BLOCK_C)
        image, r, offsets, mask = _image_tile(tile, channels, inner, c, tiles, WIDE, CHANNELS_LAST, BLOCK_R)
        v = tl.load(t + offsets, mask=mask, other=0.0).to(tl.float32)
        g = tl.load(gy + offsets, mask=mask, other=0.0).to(tl.float32) * gain
        z = _before_act(v, d, noise, bias, image, r, channels, inner, c, CHANNELS_LAST)
        a = load_channels(alpha, channels, c, alpha_value, CHANNELS_LAST)
        if CLAMPS:
            g = tl.where(tl.abs(gain * act_fwd(z, a, ACT)) > clamp, 0.0, g)
        gz = tl.where(mask, act_bwd(g, z, a, ACT, False), 0.0)
        scaled = gz
        if d is not None:
            scaled *= load_channels(d + image * c, channels, c, 1.0, CHANNELS_LAST)
        tl.store(gt + offsets, scaled.to(gt.dtype.element_ty), mask=mask)
        if gnoise is not None:
            of_noise += tl.sum(gz, axis=1 if CHANNELS_LAST else 0)
        tl.store(at + channels, sum_rows(gz * v, CHANNELS_LAST), mask=channels < c)
        tl.store(at + c + channels, sum_rows(gz, CHANNELS_LAST), mask=channels < c)
        if alpha is not None:
            of_alpha = tl.where(mask, act_alpha_bwd(g, z, a, ACT), 0.0)
            tl.store(at + 2 * c + channels, sum_rows(of_alpha, CHANNELS_LAST), mask=channels < c)
    if gnoise is not None:
        r = tile % tiles * BLOCK_R + tl.arange(0, BLOCK_R)
        tl.store(gnoise + (tile // tiles).to(tl.int64) * inner + r, of_noise, mask=r < inner)


@triton.jit
def _taps(o, i, c_out, c_in, TAPS: tl.constexpr, BLOCK_T: tl.constexpr, TRANSPOSED: tl.constexpr, TURN: tl.constexpr, LAST: tl.constexpr):
    """(offsets in the weight [Cout, Cin, TAPS], or LAST [Cout, TAPS, Cin]; in the prepared one; mask) of output channel o, input
    channels i."""
    tap = tl.arange(0, BLOCK_T)
    mask = (i < c_in)[:, None] & (tap < TAPS)[None, :]
    other = TAPS - 1 - tap if TURN else tap
    if LAST:
        at = (o * TAPS + tap)[None, :] * c_in + i[:, None]
        return at, at, mask
    else:
        pair = i * c_out + o if TRANSPOSED else o * c_in + i
        return ((o * c_in + i) * TAPS)[:, None] + tap[None, :], (pair * TAPS)[:, None] + other[None, :], mask


@triton.jit
def modulated_conv_prepare_fwd_kernel(
    weight, scale, w, q, c_out, c_in, TAPS: tl.constexpr, BLOCK_T: tl.constexpr, TRANSPOSED: tl.constexpr, TURN: tl.constexpr,
    LAST: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program (o, block of i): w, None where it is the weight itself, and q [Cout, Cin]."""
    o = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    at, to, mask = _taps(o, i, c_out, c_in, TAPS, BLOCK_T, TRANSPOSED, TURN, LAST)
    value = tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    if scale is not None:
        value *= tl.load(scale + o)
    if w is not None:
        tl.store(w + to, value.to(w.dtype.element_ty), mask=mask)
    tl.store(q + o * c_in + i, tl.sum(value * value, 1), mask=i < c_in)


@triton.jit
def modulated_conv_prepare_bwd_kernel(
    weight, gw, gq, scale, gweight, c_out, c_in, TAPS: tl.constexpr, BLOCK_T: tl.constexpr, TRANSPOSED: tl.constexpr, TURN: tl.constexpr,
    LAST: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """gweight = gw * scale + 2 * gq * scale**2 * weight; gw, gq or scale may be None."""
    o = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK_I + tl.arange(0, BLOCK_I)
    at, to, mask = _taps(o, i, c_out, c_in, TAPS, BLOCK_T, TRANSPOSED, TURN, LAST)
    by = 1.0
    if scale is not None:
        by = tl.load(scale + o)
    found = tl.zeros((BLOCK_I, BLOCK_T), tl.float32)
    if gw is not None:
        found += by * tl.load(gw + to, mask=mask, other=0.0).to(tl.float32)
    if gq is not None:
        twice = 2.0 * by * by * tl.load(gq + o * c_in + i, mask=i < c_in, other=0.0)
        found += twice[:, None] * tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(gweight + at, found.to(gweight.dtype.element_ty), mask=mask)


def _plan(x: Tensor, channels_last: bool) -> tuple[int, int, int, int, dict]:
    """(programs, inner, C, channel blocks, constants) of a kernel over x [N, C, H, W]; images of one pixel are channels_last, whatever they
    are called."""
    n, c = x.shape[:2]
    inner = x.shape[2] * x.shape[3]
    channels_last = channels_last or inner == 1
    block_r, block_c = _triton.tile_shape(inner, c, channels_last)
    tiles = _triton.cdiv(inner, block_r)
    constants = {"CHANNELS_LAST": channels_last, "WIDE": x.numel() >= _triton.wide_from, "BLOCK_R": block_r, "BLOCK_C": block_c}
    return n * tiles, inner, tiles, _triton.cdiv(c, block_c), constants


def modulated_conv_scale_fwd_triton(x: Tensor, style: Tensor, channels_last: bool) -> Tensor:
    y = _triton.empty(x.shape, x, channels_last=channels_last)
    programs, inner, tiles, c_blocks, constants = _plan(x, channels_last)
    with _triton.on_device(x):
        modulated_conv_scale_fwd_kernel[(programs, c_blocks)](x, style, y, inner, x.shape[1], tiles, **constants)
    return y


def modulated_conv_scale_bwd_triton(g: Tensor, x: Tensor, style: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    gx = _triton.empty(x.shape, x, channels_last=channels_last)
    programs, inner, tiles, c_blocks, constants = _plan(x, channels_last)
    partials = _triton.empty((x.shape[0], tiles, x.shape[1]), x, torch.float32)
    with _triton.on_device(x):
        modulated_conv_scale_bwd_kernel[(programs, c_blocks)](g, x, style, gx, partials, inner, x.shape[1], tiles, **constants)
    return gx, partials.sum(1)


def _finish(
    y: Tensor, t, d, noise, bias, alpha, act: str, alpha_value: float, gain: float, clamp: float | None, channels_last: bool
) -> None:
    programs, inner, tiles, c_blocks, constants = _plan(t, channels_last)
    with _triton.on_device(t):
        modulated_conv_finish_fwd_kernel[(programs, c_blocks)](
            t, d, noise, bias, alpha, y, alpha_value, gain, clamp or 0.0, inner, t.shape[1], tiles, ACT=act, CLAMPS=clamp is not None,
            **constants,
        )  # fmt: skip


def modulated_conv_finish_fwd_triton(t: Tensor, *args) -> Tensor:
    y = _triton.empty(t.shape, t, channels_last=args[-1])
    _finish(y, t, *args)
    return y


def modulated_conv_finish_fwd_triton_(t: Tensor, *args) -> None:
    """Overwrites t."""
    _finish(t, t, *args)


def modulated_conv_finish_bwd_triton(
    gy: Tensor, t: Tensor, d: Tensor | None, noise: Tensor | None, bias: Tensor | None, alpha: Tensor | None, act: str, alpha_value: float,
    gain: float, clamp: float | None, channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, c = gy.shape[:2]
    programs, inner, tiles, c_blocks, constants = _plan(gy, channels_last)
    gt = _triton.empty(gy.shape, gy, channels_last=channels_last)
    gnoise = _triton.empty(0 if noise is None else noise.shape, gy, torch.float32)
    partials = _triton.empty((n, tiles, 3, c), gy, torch.float32)
    blocks = 1 if noise is None else c_blocks
    with _triton.on_device(gy):
        modulated_conv_finish_bwd_kernel[(programs, c_blocks // blocks)](
            gy, t, d, noise, bias, alpha, gt, None if noise is None else gnoise, partials, alpha_value, gain, clamp or 0.0, inner, c, tiles,
            blocks, ACT=act, CLAMPS=clamp is not None, **constants,
        )  # fmt: skip
    nothing = lambda: _triton.empty(0, gy, torch.float32)
    gd = nothing() if d is None else partials[:, :, 0].sum(1)
    galpha = nothing() if alpha is None else partials[:, :, 2].sum((0, 1))
    return gt, gd, gnoise, partials[:, :, 1].sum((0, 1)), galpha


def _weight_grid(weight: Tensor, transposed: bool, turn: bool) -> tuple[tuple[int, int], tuple[int, int], dict]:
    c_out, c_in, kh, kw = weight.shape
    block_t = _triton.next_power_of_2(kh * kw)
    block_i = max(1, min(_triton.next_power_of_2(c_in), 2048 // block_t))
    constants = {"TAPS": kh * kw, "BLOCK_T": block_t, "TRANSPOSED": transposed, "TURN": turn, "LAST": not weight.is_contiguous()}
    return (c_out, _triton.cdiv(c_in, block_i)), (c_out, c_in), constants | {"BLOCK_I": block_i}


def modulated_conv_prepare_fwd_triton(weight: Tensor, scale: Tensor | None, transposed: bool, turn: bool, dtype) -> tuple[Tensor, Tensor]:
    grid, (c_out, c_in), constants = _weight_grid(weight, transposed, turn)
    itself = is_itself(weight, scale, transposed, turn, dtype)
    first = (c_in, c_out) if transposed else (c_out, c_in)
    w = _triton.empty(0 if itself else (*first, *weight.shape[2:]), weight, dtype)
    q = _triton.empty((c_out, c_in), weight, torch.float32)
    with _triton.on_device(weight):
        modulated_conv_prepare_fwd_kernel[grid](weight, scale, None if itself else w, q, c_out, c_in, **constants)
    return w, q


def modulated_conv_prepare_bwd_triton(
    weight: Tensor, gw: Tensor | None, gq: Tensor | None, scale: Tensor | None, transposed: bool, turn: bool
) -> Tensor:
    grid, sizes, constants = _weight_grid(weight, transposed, turn)
    gweight = _triton.empty(weight.shape, weight, channels_last=constants["LAST"])
    with _triton.on_device(weight):
        modulated_conv_prepare_bwd_kernel[grid](weight, gw, gq, scale, gweight, *sizes, **constants)
    return gweight
