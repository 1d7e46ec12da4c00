"""What both kernels of filtered_act are made of: filters as banded matrices, and what happens between the two resamplings."""

import triton
import triton.language as tl

from ganfast._triton_activations import act_alpha_bwd, act_bwd, act_fwd, act_scale_bwd


@triton.jit
def floor_div(a, B: tl.constexpr):
    return tl.where(a >= 0, a // B, -((B - 1 - a) // B))


@triton.jit
def band(filter, source, result, before, UP: tl.constexpr, DOWN: tl.constexpr, TAPS: tl.constexpr, FLIP: tl.constexpr):
    """What `result` takes of `source`: the tap that leads there, 0 where none does. Both broadcast to the matrix."""
    t = source * UP - result * DOWN + before
    return tl.load(filter + (t if FLIP else TAPS - 1 - t), mask=(t >= 0) & (t < TAPS), other=0.0)


@triton.jit
def folded_band(
    filter, source, result, before, last, UP: tl.constexpr, DOWN: tl.constexpr, TAPS: tl.constexpr, FLIP: tl.constexpr, EDGE
):  # fmt: skip
    """The same, where results before 0 and after `last` are added to these two. EDGE: whether any is near."""
    if EDGE:
        found = tl.zeros_like(source * UP + result).to(tl.float32)
        for t in range(TAPS):
            at = source * UP + before - t
            place = floor_div(at, DOWN)
            held = tl.minimum(tl.maximum(place, 0), last)
            tap = tl.load(filter + (t if FLIP else TAPS - 1 - t))
            found += tl.where((held == result) & (place * DOWN == at), tap, 0.0)
    else:
        found = band(filter, source, result, before, UP, DOWN, TAPS, FLIP)
    return found


@triton.jit
def unclamped(h, u, alpha, scale, gain, clamp, ACT: tl.constexpr, CLAMPS: tl.constexpr):
    """h, the gradient of y, before the clamp and the gain."""
    g = h * gain
    if CLAMPS:
        g = tl.where(tl.abs(gain * act_fwd(u, alpha, ACT, scale)) > clamp, 0.0, g)
    return g


@triton.jit
def between(h, u, alpha, scale, gain, clamp, ACT: tl.constexpr, BACKWARD: tl.constexpr, CLAMPS: tl.constexpr):
    """y of h, or h times the slope at u."""
    if BACKWARD:
        return act_bwd(unclamped(h, u, alpha, scale, gain, clamp, ACT, CLAMPS), u, alpha, ACT, False, scale)
    else:
        m = gain * act_fwd(h, alpha, ACT, scale)
        if CLAMPS:
            m = tl.where(m > clamp, clamp, tl.where(m < -clamp, -clamp, m))
        return m


@triton.jit
def act_sums(h, u, alpha, scale, gain, clamp, ACT: tl.constexpr, CLAMPS: tl.constexpr):
    """What the gradients of alpha and scale are sums of."""
    g = unclamped(h, u, alpha, scale, gain, clamp, ACT, CLAMPS)
    of_scale = act_scale_bwd(g, u, alpha) if ACT == "snake_beta" else tl.zeros_like(g)
    return act_alpha_bwd(g, u, alpha, ACT, scale), of_scale


@triton.jit
def code_of(u, alpha, gain, clamp, ACT: tl.constexpr, CLAMPS: tl.constexpr):
    """Two bits a value: whether the slope is 1, whether it is clamped."""
    on = tl.where(u <= 0, 0, 1) if ACT == "relu" else tl.where(u > 0, 1, 0) if ACT != "linear" else tl.full(u.shape, 1, tl.int32)
    if CLAMPS:
        on += tl.where(tl.abs(gain * act_fwd(u, alpha, ACT)) > clamp, 2, 0)
    return on


@triton.jit
def slope_of(code, alpha, gain, ACT: tl.constexpr):
    below = 1.0 if ACT == "linear" else 0.0 if ACT == "relu" else alpha
    return tl.where(code == 1, gain, tl.where(code == 0, gain * below, 0.0))
