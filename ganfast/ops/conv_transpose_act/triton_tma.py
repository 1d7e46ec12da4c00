"""The forward of conv_transpose_act for Hopper and datacentre Blackwell: a mask-free kernel that the copy engine (TMA) feeds.

x is NHWC, read as boxes [images, rows, columns, channels]; what falls outside the image arrives as zeros, so padding needs no
mask. y, of S*h_in by S*w_in pixels, is written through the view [n, h_in, S, w_in, S*c_out]: a phase is an index of it. The
weight is read in place where it is [c_in, KH*KW*c_out] (16-bit, channels_last memory). float32 wants c_in last: matrix
instructions transpose 16-bit operands out of shared memory, never 32-bit ones, and going through registers costs more than the copy.
"""

from dataclasses import fields
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ganfast import _triton
from ganfast._triton import cdiv
from ganfast._triton_activations import act_fwd, signs_of
from ganfast.ops.conv_transpose_act.triton_configs import SLICE, Blocks, Problem, accumulators

# The copy engine of newer Tritons rounds float32 to TF32 on the way; the matrix instructions alone would truncate.
_ROUNDS = "round_f32_to_tf32" in {field.name for field in fields(TensorDescriptor)}


@triton.jit
def halves(tile):
    """[rows, columns] -> its left and right half; a thread holds both, so nothing moves."""
    return tile.reshape(tile.shape[0], 2, tile.shape[1] // 2).permute(0, 2, 1).split()


@triton.jit
def slices(tile, COUNT: tl.constexpr):
    """The tile's 1, 2, or 4 groups of columns."""
    if COUNT == 1:
        return (tile,)
    elif COUNT == 2:
        return halves(tile)
    else:
        tl.static_assert(COUNT == 4, "an epilogue has 1, 2 or 4 slices")
        left, right = halves(tile)
        return halves(left) + halves(right)


@triton.jit
def activate(acc, channels, bias, alpha, scale, shift, added, alpha_value, ACT: tl.constexpr):
    """acc [channels, pixels] float32 -> (z, act(z)), both float32; `added` to z, where there is a tile of it."""
    if bias is not None:
        acc += tl.load(bias + channels)[:, None]
    if scale is not None:
        acc = acc * tl.load(scale + channels)[:, None] + tl.load(shift + channels)[:, None]
    if added is not None:
        acc += added
    if alpha is not None:
        a = tl.load(alpha + channels)[:, None]
    else:
        a = alpha_value
    return acc, act_fwd(acc, a, ACT)


@triton.jit
def conv_transpose_act_fwd_tma_kernel(
    x, weight, residual, y, z, signs, bias, alpha, scale, shift, partials, alpha_value, factor,
    n, h_in, w_in, c_in, c_out,
    K: tl.constexpr, S: tl.constexpr, P: tl.constexpr, ACT: tl.constexpr, ADD_FIRST: tl.constexpr, PRECISION: tl.constexpr,
    WEIGHT_K_LAST: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SLICES: tl.constexpr,
):  # fmt: skip
    """One program: a box of BLOCK_I x BLOCK_H x BLOCK_W input pixels, one phase of y, BLOCK_N output channels.

    Descriptors: x [n, h_in, w_in, c_in]; weight [c_in, KH*KW*c_out], or [KH*KW*c_out, c_in] if WEIGHT_K_LAST; residual, y, z
    and signs [n, h_in, S_h, w_in, S_w*c_out], a slice of the box at a time. partials [pixel tiles * phases, 3, c_out].
    BLOCK_N divides c_out, or a store would reach into the next phase. Programs that share pixels are neighbours, as in triton_fwd.py.
    """
    tiles_c = c_out // BLOCK_N
    tiles_w = tl.cdiv(w_in, BLOCK_W)
    tiles_h = tl.cdiv(h_in, BLOCK_H)
    phases: tl.constexpr = S[0] * S[1]
    pixels: tl.constexpr = BLOCK_I * BLOCK_H * BLOCK_W

    pid = tl.program_id(0)
    c0 = pid % tiles_c * BLOCK_N
    r = pid // tiles_c % phases
    tile = pid // (tiles_c * phases)
    w0 = tile % tiles_w * BLOCK_W
    h0 = tile // tiles_w % tiles_h * BLOCK_H
    n0 = tile // (tiles_w * tiles_h) * BLOCK_I
    r_h = r // S[1]
    r_w = r % S[1]

    # Dilation 1: the phase's first tap, how many it has, and the input pixel that tap reads for the box's first pixel.
    k_h = (r_h + P[0]) % S[0]
    k_w = (r_w + P[1]) % S[1]
    taps_h = (K[0] - k_h + S[0] - 1) // S[0]
    taps_w = (K[1] - k_w + S[1] - 1) // S[1]
    i_h = h0 + (r_h + P[0] - k_h) // S[0]
    i_w = w0 + (r_w + P[1] - k_w) // S[1]

    # One flat loop over taps and channel blocks keeps the pipeline full; nested loops drain it at every tap. acc is
    # [channels, pixels]: in this order both operands reach the matrix instructions straight from shared memory, where the plain
    # dot(pixels, weight) makes the compiler load the reshaped box into registers first. tools/triton_check.py watches both.
    acc = tl.zeros((BLOCK_N, pixels), tl.float32)
    k = 0
    j_h = 0
    j_w = 0
    for _ in range(taps_h * taps_w * tl.cdiv(c_in, BLOCK_K)):
        at = ((k_h + S[0] * j_h) * K[1] + k_w + S[1] * j_w) * c_out + c0
        a = x.load([n0, i_h - j_h, i_w - j_w, k]).reshape(pixels, BLOCK_K)
        if WEIGHT_K_LAST:
            b = weight.load([at, k])
        else:
            b = tl.trans(weight.load([k, at]))
        acc = tl.dot(b, tl.trans(a), acc, input_precision=PRECISION)
        k += BLOCK_K
        next_w = (k >= c_in).to(tl.int32)
        k = k * (1 - next_w)
        j_w += next_w
        next_h = (j_w == taps_w).to(tl.int32)
        j_w = j_w * (1 - next_h)
        j_h += next_h

    # The epilogue takes a few columns at a time: activations want registers, and acc holds most of them.
    width: tl.constexpr = pixels // SLICES
    slice_i: tl.constexpr = (width + BLOCK_H * BLOCK_W - 1) // (BLOCK_H * BLOCK_W)
    slice_h: tl.constexpr = (width // slice_i + BLOCK_W - 1) // BLOCK_W
    box: tl.constexpr = (slice_i, slice_h, 1, width // (slice_i * slice_h), BLOCK_N)
    channels = c0 + tl.arange(0, BLOCK_N)
    lanes = tl.arange(0, width)
    column = r_w * c_out + c0
    count = 0.0
    mean = tl.zeros((BLOCK_N,), tl.float32)
    m2 = tl.zeros((BLOCK_N,), tl.float32)
    parts = slices(acc, SLICES)
    for s in tl.static_range(SLICES):
        first = s * width
        spot = [n0 + first // (BLOCK_H * BLOCK_W), h0 + first // BLOCK_W % BLOCK_H, r_h, w0 + first % BLOCK_W, column]
        added = None
        if residual is not None:
            added = tl.trans(residual.load(spot).reshape(width, BLOCK_N)).to(tl.float32)
        pre, post = activate(parts[s], channels, bias, alpha, scale, shift, added if ADD_FIRST else None, alpha_value, ACT)
        if signs is not None:
            signs.store(spot, tl.trans(signs_of(post, y.dtype, ACT)).reshape(box))
        if residual is not None:
            post = (post if ADD_FIRST else post + added) * factor
        out = post.to(y.dtype)
        y.store(spot, tl.trans(out).reshape(box))
        if z is not None:
            z.store(spot, tl.trans(pre.to(z.dtype)).reshape(box))
        if partials is not None:
            # A clipped box's tail is not zero: what the image does not hold only the store leaves out. Slices merge by Chan's rule.
            m = first + lanes
            ok = (n0 + m // (BLOCK_H * BLOCK_W) < n) & (h0 + m // BLOCK_W % BLOCK_H < h_in) & (w0 + m % BLOCK_W < w_in)
            value = tl.where(ok[None, :], out.to(tl.float32), 0.0)
            more = tl.sum(ok.to(tl.float32), 0)
            total = count + more
            share = more / tl.maximum(total, 1.0)
            its_mean = tl.sum(value, 1) / tl.maximum(more, 1.0)
            d = tl.where(ok[None, :], value - its_mean[:, None], 0.0)
            apart = its_mean - mean
            mean += apart * share
            m2 += tl.sum(d * d, 1) + apart * apart * (count * share)
            count = total
    if partials is not None:
        to = partials + (tile * phases + r).to(tl.int64) * (3 * c_out) + channels
        tl.store(to, tl.zeros_like(mean) + count)
        tl.store(to + c_out, mean)
        tl.store(to + 2 * c_out, m2)


def _weight_in_place(weight: Tensor) -> bool:
    """Whether memory holds [c_in, KH*KW*c_out] as the copy engine wants it: 16-bit, dense, at 16 bytes."""
    return weight.itemsize == 2 and weight.is_contiguous(memory_format=torch.channels_last) and weight.data_ptr() % 16 == 0


def tma_refusal(p: Problem, x: Tensor) -> str | None:
    """Why the kernel cannot take this call, or None. The weight is no reason: where it cannot be read in place it is copied."""
    if p.capability is None:
        return f"compute capability unknown for {x.device.type} tensors; the copy engine needs 9.0"
    if p.capability[0] not in (9, 10):  # 12.0 has the engine, but neither the instructions this kernel is shaped for nor their memory
        return f"compute capability {p.capability[0]}.{p.capability[1]}, the kernel is made for 9.x and 10.x"
    if len(p.x_shape) != 4:
        return f"{len(p.x_shape) - 2}-D input, the kernel is 2-D"
    if p.exact:
        return "exact float32 wants plain multiply-adds, not tensor cores"
    if p.groups != 1:
        return f"groups is {p.groups}, the kernel has 1"
    if any(d != 1 for d in p.dilation):
        return f"dilation is {p.dilation}, the kernel has 1"
    (n, c_in, h, w), (_, c_out, *kernel) = p.x_shape, p.w_shape
    for k, s, pad, extra in zip(kernel, p.stride, p.padding, p.output_padding):
        if k - 2 * pad + extra != s:
            return f"kernel {k} - 2*padding {pad} + output_padding {extra} is not stride {s}: the output is not stride times the input"
    if c_out % 64:
        return f"Cout is {c_out}, wants a multiple of 64"
    if c_in * p.itemsize % 16:
        return f"Cin is {c_in}, wants rows of a multiple of 16 bytes"
    programs = n * h * w * prod(p.stride) * c_out // 1024  # of the smallest blocks
    extents = (n, p.stride[0] * h, p.stride[1] * w, p.stride[1] * c_out, prod(kernel) * c_out, c_in, programs)
    if max(extents) >= 2**31:
        return f"an extent of {max(extents)}, the engine's coordinates and the grid are 32-bit"
    if not p.channels_last or not x.is_contiguous(memory_format=torch.channels_last):
        return "x is not dense in channels_last memory"
    if x.data_ptr() % 16:
        return "x does not begin at a multiple of 16 bytes"
    return None


def _describe(tensor: Tensor, shape: list[int], box: list[int], rounds: bool = False) -> TensorDescriptor:
    """Of dense memory. Strides from the shape: those of a dimension of size 1 may be anything, zero too, in the tensor itself."""
    strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
    return TensorDescriptor(tensor, shape, strides, box, **({"round_f32_to_tf32": True} if rounds else {}))


def conv_transpose_act_fwd_tma(
    p: Problem,
    blocks: Blocks,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    act: str,
    alpha_value: float,
    y: Tensor,
    z: Tensor | None,
    partials: bool,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    signs: Tensor | None = None,
    residual: Tensor | None = None,
    residual_first: bool = False,
    factor: float = 1.0,
) -> Tensor | None:
    """Fills y, and z and signs where there are any, of a problem without `tma_refusal`; returns the partials if asked for.

    scale and shift, float32 [c_out], both or neither: y = act(scale * (conv + bias) + shift); z is then the bracket.
    """
    (n, c_in, h, w), (_, c_out, k_h, k_w), (s_h, s_w) = p.x_shape, p.w_shape, p.stride
    *box, block_n, block_k = blocks.sizes
    pixels, phases, rounds = prod(box), s_h * s_w, p.itemsize == 4 and _ROUNDS
    light = not p.second and act in ("linear", "relu", "leaky_relu", "prelu")  # a few registers besides the accumulators
    # At 10.0 ptxas spills a mask or two of the statistics unless the slices are small.
    parts = (
        4
        if p.capability[0] == 10 and accumulators(blocks) >= 2 * SLICE
        else max(1, accumulators(blocks) // (2 * SLICE if light else SLICE))
    )
    slice_i = max(1, box[0] // parts)
    slice_h = max(1, box[1] * box[0] // (slice_i * parts)) if slice_i == 1 else box[1]
    stored = [slice_i, slice_h, 1, pixels // (parts * slice_i * slice_h), block_n]
    columns = k_h * k_w * c_out
    if p.itemsize == 4:
        weight = weight.permute(2, 3, 1, 0).contiguous()
        weight = weight.clone() if weight.data_ptr() % 16 else weight  # contiguous() copies nothing that is so already, wherever it lies
        w_desc = _describe(weight, [columns, c_in], [block_n, block_k], rounds)
    else:
        weight = weight if _weight_in_place(weight) else weight.clone(memory_format=torch.channels_last)
        w_desc = _describe(weight, [c_in, columns], [block_k, block_n])
    residual = residual.clone() if residual is not None and residual.data_ptr() % 16 else residual
    view = [n, h, s_h, w, s_w * c_out]
    tiles = cdiv(n, box[0]) * cdiv(h, box[1]) * cdiv(w, box[2])
    stats = _triton.empty((tiles * phases, 3, c_out), x, torch.float32) if partials else None
    with _triton.on_device(x):
        conv_transpose_act_fwd_tma_kernel[(tiles * phases * (c_out // block_n),)](
            _describe(x, [n, h, w, c_in], [*box, block_k], rounds), w_desc,
            *[None if image is None else _describe(image, view, stored) for image in (residual, y, z, signs)],
            bias, alpha, scale, shift, stats, alpha_value, factor, n, h, w, c_in, c_out,
            K=(k_h, k_w), S=(s_h, s_w), P=p.padding, ACT=act, ADD_FIRST=residual_first, PRECISION="tf32", WEIGHT_K_LAST=p.itemsize == 4,
            BLOCK_I=box[0], BLOCK_H=box[1], BLOCK_W=box[2], BLOCK_N=block_n, BLOCK_K=block_k, SLICES=parts,
            num_warps=blocks.warps, num_stages=blocks.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return stats
