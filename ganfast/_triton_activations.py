"""The activations on the device, with their derivatives, for the Triton kernels: the table of `_activations.py`, in float32."""

import triton
import triton.language as tl

_SELU_SCALE = tl.constexpr(1.0507009873554804934193349852946)
_SELU_SLOPE = tl.constexpr(1.0507009873554804934193349852946 * 1.6732632423543772848170429916717)
_INV_SQRT2 = tl.constexpr(0.70710678118654752440)
_INV_SQRT_2PI = tl.constexpr(0.39894228040143267794)


@triton.jit
def expm1(x):
    """exp(x) - 1. The series (error below 2e-8 relative) where the subtraction would cancel."""
    p = 1.0 + x * (1.0 / 8)
    p = 1.0 + x * (1.0 / 7) * p
    p = 1.0 + x * (1.0 / 6) * p
    p = 1.0 + x * (1.0 / 5) * p
    p = 1.0 + x * (1.0 / 4) * p
    p = 1.0 + x * (1.0 / 3) * p
    p = 1.0 + x * (1.0 / 2) * p
    return tl.where(tl.abs(x) < 0.5, x * p, tl.exp(x) - 1.0)


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))  # of a non-positive number only: no overflow
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def tanh(x):
    e = expm1(-2.0 * tl.abs(x))
    t = -e / (2.0 + e)
    return tl.where(x < 0, -t, t)


@triton.jit
def softplus(x):
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    d = u - 1.0  # log1p(e) = log(u) * e / d undoes the rounding of u: a confident logit's tiny loss keeps its digits
    log1p = tl.where(d == 0, e, tl.log(u) * (e / tl.where(d == 0, 1.0, d)))
    return tl.where(x > 0, x, 0.0) + log1p


@triton.jit
def act_fwd(z, alpha, ACT: tl.constexpr, scale=0.0):
    """f(z) in float32; alpha is a scalar or broadcasts against z; scale: snake_beta's second number."""
    if ACT == "relu":
        return tl.where(z <= 0, 0.0, z)
    elif ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(z > 0, z, alpha * z)
    elif ACT == "tanh":
        return tanh(z)
    elif ACT == "sigmoid":
        return sigmoid(z)
    elif ACT == "elu":
        return tl.where(z > 0, z, alpha * expm1(z))
    elif ACT == "selu":
        return tl.where(z > 0, z * _SELU_SCALE, expm1(z) * _SELU_SLOPE)
    elif ACT == "softplus":
        t = alpha * z
        return tl.where(t > 20, z, softplus(t) / alpha)
    elif ACT == "silu":
        return z * sigmoid(z)
    elif ACT == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * _INV_SQRT2))
    elif ACT == "snake":
        s = tl.sin(alpha * z)
        return tl.where(alpha == 0, z, z + s * s / tl.where(alpha == 0, 1.0, alpha))
    elif ACT == "snake_beta":
        s = tl.sin(alpha * z)
        return z + scale * s * s
    else:
        tl.static_assert(ACT == "linear", "unknown activation")
        return z


@triton.jit
def act_grad(saved, alpha, ACT: tl.constexpr, FROM_Y: tl.constexpr, scale=0.0):
    """f'(z) in float32 from the saved pre-activation, or from the output where FROM_Y."""
    if ACT == "relu":
        return tl.where(saved <= 0, 0.0, 1.0)
    elif ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(saved > 0, 1.0, alpha)
    elif ACT == "tanh":
        y = saved if FROM_Y else tanh(saved)
        return 1.0 - y * y
    elif ACT == "sigmoid":
        y = saved if FROM_Y else sigmoid(saved)
        return y * (1.0 - y)
    elif ACT == "elu":
        below = saved + alpha if FROM_Y else alpha * tl.exp(saved)
        return tl.where(saved > 0, 1.0, below)
    elif ACT == "selu":
        below = saved + _SELU_SLOPE if FROM_Y else tl.exp(saved) * _SELU_SLOPE
        return tl.where(saved > 0, _SELU_SCALE, below)
    elif ACT == "softplus":
        return -expm1(-alpha * saved) if FROM_Y else sigmoid(alpha * saved)
    elif ACT == "silu":
        s = sigmoid(saved)
        return s * (1.0 + saved * (1.0 - s))
    elif ACT == "gelu":
        return 0.5 * (1.0 + tl.erf(saved * _INV_SQRT2)) + saved * tl.exp(-0.5 * saved * saved) * _INV_SQRT_2PI
    elif ACT == "snake":
        return 1.0 + tl.sin(2.0 * alpha * saved)
    elif ACT == "snake_beta":
        return 1.0 + scale * alpha * tl.sin(2.0 * alpha * saved)
    else:
        tl.static_assert(ACT == "linear", "unknown activation")
        return tl.zeros_like(saved) + 1.0


@triton.jit
def act_alpha_grad(z, alpha, ACT: tl.constexpr, scale=0.0):
    """df/dalpha in float32 from the pre-activation; zero where the activation has no parameter."""
    if ACT == "leaky_relu" or ACT == "prelu":
        return tl.where(z > 0, 0.0, z)
    elif ACT == "elu":
        return tl.where(z > 0, 0.0, expm1(z))
    elif ACT == "softplus":
        t = alpha * z
        return tl.where(t > 20, 0.0, (z * sigmoid(t) - softplus(t) / alpha) / alpha)
    elif ACT == "snake":
        safe = tl.where(alpha == 0, 1.0, alpha)
        s = tl.sin(alpha * z)
        return tl.where(alpha == 0, z * z, (z * tl.sin(2.0 * alpha * z) - s * s / safe) / safe)
    elif ACT == "snake_beta":
        return scale * z * tl.sin(2.0 * alpha * z)
    else:
        return tl.zeros_like(z)


@triton.jit
def act_bwd(g, saved, alpha, ACT: tl.constexpr, FROM_Y: tl.constexpr, scale=0.0):
    """g f'(z). Where relu is off 0 is selected: a product would make NaN of an infinite g."""
    if ACT == "relu":
        return tl.where(saved <= 0, 0.0, g)
    else:
        return g * act_grad(saved, alpha, ACT, FROM_Y, scale)


@triton.jit
def act_alpha_bwd(g, z, alpha, ACT: tl.constexpr, scale=0.0):
    """g df/dalpha; 0 is selected where f does not depend on alpha."""
    slope = act_alpha_grad(z, alpha, ACT, scale)
    if ACT == "softplus":
        return tl.where(alpha * z > 20, 0.0, g * slope)
    elif ACT == "snake" or ACT == "snake_beta":
        return g * slope
    elif ACT == "leaky_relu" or ACT == "prelu" or ACT == "elu":
        return tl.where(z > 0, 0.0, g * slope)
    else:
        return slope


@triton.jit
def act_scale_bwd(g, z, alpha):
    """g df/dscale of snake_beta."""
    s = tl.sin(alpha * z)
    return g * s * s


@triton.jit
def signs_of(out, dtype: tl.constexpr, ACT: tl.constexpr):
    """1 where the derivative of a piecewise-linear activation is that of positive z, read off `out`, its value, as `dtype` holds it
    (`signs_of` of _activations.py): all that a backward needs where y is not kept."""
    seen = out.to(dtype).to(tl.float32)
    return tl.where(seen != 0 if ACT == "relu" else seen > 0, 1, 0).to(tl.uint8)
