// The activation family shared by every kernel: value, derivative, derivative in alpha. Plain scalar code, host and
// device; `act` is uniform over a kernel, so the switch costs one well-predicted branch, and a constant `act` folds it.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define GANFAST_HD __host__ __device__ __forceinline__
#else
#define GANFAST_HD inline __attribute__((always_inline))
#endif

namespace ganfast {

// Same order as ganfast/_activations.py; tests/test_activations.py compares the two by value.
enum class Act : int { linear, relu, leaky_relu, prelu, tanh, sigmoid, elu, selu, softplus, silu, gelu, snake, snake_beta };

GANFAST_HD bool act_from_name(const char* name, Act* act) {
  const char* const names[] = {"linear", "relu", "leaky_relu", "prelu", "tanh", "sigmoid", "elu", "selu", "softplus", "silu", "gelu", "snake", "snake_beta"};
  for (int i = 0; i < 13; ++i) {
    const char *a = names[i], *b = name;
    while (*a && *a == *b) ++a, ++b;
    if (*a == *b) return *act = static_cast<Act>(i), true;
  }
  return false;
}

namespace act_math {
template <class T> GANFAST_HD T exp(T x) { return ::exp(x); }
#ifndef __CUDACC__
// exp for x in [-87, 87], branch-free so that the compiler vectorises it (libm's is a call per element): 2^n * p(r), about 1.5 ulp. NaN
// stays NaN.
inline __attribute__((always_inline)) float exp_reduced(float x, float* n) {
  *n = __builtin_rintf(x * 1.44269504f);
  const float r = (x - *n * 0.693359375f) - *n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}
inline __attribute__((always_inline)) float exp_inside(float x) {
  float n, p = exp_reduced(x, &n);
  int32_t bits;
  std::memcpy(&bits, &p, 4);
  bits += static_cast<int32_t>(n) * (1 << 23);
  std::memcpy(&p, &bits, 4);
  return p;
}
// The same for every x.
template <> inline __attribute__((always_inline)) float exp<float>(float x) {
  const float clipped = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  float n, p = exp_reduced(clipped, &n);
  const int half = static_cast<int>(n) >> 1, rest = static_cast<int>(n) - half;  // 2^128 itself is no float: two steps
  const int32_t bits1 = (half + 127) << 23, bits2 = (rest + 127) << 23;
  float s1, s2;
  std::memcpy(&s1, &bits1, 4);
  std::memcpy(&s2, &bits2, 4);
  p = p * s1 * s2;
  p = x < -103.9f ? 0.0f : p;
  p = x > 88.722839f ? __builtin_inff() : p;
  return x == x ? p : x;
}
#endif
template <class T> GANFAST_HD T sigmoid(T x) {  // exp of a non-positive number only: no overflow
  const T e = exp<T>(x < 0 ? x : -x);
  return (x < 0 ? e : T(1)) / (T(1) + e);
}
#ifndef __CUDACC__
// Selected at the end, not clipped at the beginning, of which GCC makes three times the instructions. What is left out at -87 is less
// than 2e-38, and its product with an infinite x NaN, as torch's.
template <> inline __attribute__((always_inline)) float sigmoid<float>(float x) {
  const float s = 1.0f / (1.0f + exp_inside(-x)), small = x < -87.0f ? 0.0f : s;
  return x > 87.0f ? 1.0f : small;
}
#endif
template <class T> GANFAST_HD T tanh(T x) {
#ifdef __CUDACC__
  return ::tanh(x);
#else
  if constexpr (sizeof(T) == 8) return std::tanh(x);
  const T size = x < 0 ? -x : x, e = exp_inside(T(-2) * size < T(-87) ? T(-87) : T(-2) * size), t = (T(1) - e) / (T(1) + e), square = x * x;
  // Near 0 the subtraction would cancel: an odd polynomial there, 2 ulp.
  T p = T(-5.70498872745e-3);
  p = p * square + T(2.06390887954e-2);
  p = p * square + T(-5.37397155531e-2);
  p = p * square + T(1.33314422036e-1);
  p = p * square + T(-3.33332819422e-1);
  return size < T(0.625) ? x + x * square * p : (x < 0 ? -t : t);
#endif
}
template <class T> GANFAST_HD T sin_squared(T x) {
  const T s = ::sin(x);
  return s * s;
}
template <class T> GANFAST_HD T sin_of_twice(T x) { return ::sin(T(2) * x); }
#ifndef __CUDACC__
// What is left of x / pi after whole turns, in [-1/2, 1/2]: both functions below repeat there. In double, whose rounding shows from
// |x| = 1e8 on; branch-free, for vectors.
inline __attribute__((always_inline)) float of_half_turn(float x) {
  const double turns = static_cast<double>(x) * 0.31830988618379067154;
  return static_cast<float>(turns - __builtin_rint(turns));
}
inline __attribute__((always_inline)) float sin_of_half_turn(float f) {  // sin(pi f), the series
  const float u = f * f;
  float p = 4.6630281e-4f;
  p = p * u - 7.3704309e-3f;
  p = p * u + 8.2145887e-2f;
  p = p * u - 5.9926453e-1f;
  p = p * u + 2.5501640f;
  p = p * u - 5.1677128f;
  p = p * u + 3.1415927f;
  return f * p;
}
inline __attribute__((always_inline)) float cos_of_half_turn(float f) {
  const float u = f * f;
  float p = 1.9295743e-3f;
  p = p * u - 2.5806891e-2f;
  p = p * u + 2.3533063e-1f;
  p = p * u - 1.3352628f;
  p = p * u + 4.0587121f;
  p = p * u - 4.9348022f;
  return p * u + 1.0f;
}
template <> inline __attribute__((always_inline)) float sin_squared<float>(float x) {
  const float s = sin_of_half_turn(of_half_turn(x));
  return s * s;
}
template <> inline __attribute__((always_inline)) float sin_of_twice<float>(float x) {
  const float f = of_half_turn(x);
  return 2.0f * sin_of_half_turn(f) * cos_of_half_turn(f);
}
#endif
template <class T> GANFAST_HD T softplus(T x) {  // max(x, 0) + log1p(exp(-|x|))
  return (x > 0 ? x : T(0)) + ::log1p(exp<T>(x < 0 ? x : -x));
}
}  // namespace act_math

inline constexpr double kSeluAlpha = 1.6732632423543772848170429916717;
inline constexpr double kSeluScale = 1.0507009873554804934193349852946;

// f(z). alpha: slope of leaky_relu and prelu, scale of elu, beta of softplus, frequency of snake and snake_beta; else unused. scale: what
// snake_beta's squared sine is multiplied by.
template <class T> GANFAST_HD T act_fwd(Act act, T z, T alpha, T scale = T(0)) {
  switch (act) {
    case Act::linear: return z;
    case Act::relu: return z <= 0 ? T(0) : z;  // written so that NaN passes
    case Act::leaky_relu:
    case Act::prelu: return z > 0 ? z : alpha * z;
    case Act::tanh: return act_math::tanh<T>(z);
    case Act::sigmoid: return act_math::sigmoid<T>(z);
    case Act::elu: return z > 0 ? z : alpha * ::expm1(z);
    case Act::selu: return T(kSeluScale) * (z > 0 ? z : T(kSeluAlpha) * ::expm1(z));
    case Act::softplus: return alpha * z > T(20) ? z : act_math::softplus<T>(alpha * z) / alpha;
    case Act::silu: return z * act_math::sigmoid<T>(z);
    case Act::gelu: return T(0.5) * z * (T(1) + ::erf(z * T(0.70710678118654752440)));
    case Act::snake: return alpha == 0 ? z : z + act_math::sin_squared<T>(alpha * z) / alpha;
    case Act::snake_beta: return z + scale * act_math::sin_squared<T>(alpha * z);
  }
  return z;
}

// f'(z), from the saved tensor: the output y where `from_y` (linear, relu, leaky_relu and elu with alpha > 0, tanh,
// sigmoid, selu, softplus with alpha > 0), else the pre-activation z.
template <class T> GANFAST_HD T act_grad(Act act, T saved, T alpha, bool from_y, T scale = T(0)) {
  switch (act) {
    case Act::linear: return T(1);
    case Act::relu: return saved <= 0 ? T(0) : T(1);
    case Act::leaky_relu:
    case Act::prelu: return saved > 0 ? T(1) : alpha;
    case Act::tanh: {
      const T y = from_y ? saved : act_math::tanh<T>(saved);
      return T(1) - y * y;
    }
    case Act::sigmoid: {
      const T y = from_y ? saved : act_math::sigmoid<T>(saved);
      return y * (T(1) - y);
    }
    case Act::elu: return saved > 0 ? T(1) : (from_y ? saved + alpha : alpha * act_math::exp<T>(saved));
    case Act::selu: return saved > 0 ? T(kSeluScale) : (from_y ? saved + T(kSeluScale * kSeluAlpha) : T(kSeluScale * kSeluAlpha) * act_math::exp<T>(saved));
    case Act::softplus: return from_y ? -::expm1(-alpha * saved) : act_math::sigmoid<T>(alpha * saved);
    case Act::silu: {
      const T s = act_math::sigmoid<T>(saved);
      return s * (T(1) + saved * (T(1) - s));
    }
    case Act::gelu:
      return T(0.5) * (T(1) + ::erf(saved * T(0.70710678118654752440))) + saved * act_math::exp<T>(T(-0.5) * saved * saved) * T(0.39894228040143267794);
    case Act::snake: return T(1) + act_math::sin_of_twice<T>(alpha * saved);
    case Act::snake_beta: return T(1) + scale * alpha * act_math::sin_of_twice<T>(alpha * saved);
  }
  return T(1);
}

// df/dalpha at the pre-activation z; zero where the activation has no parameter.
template <class T> GANFAST_HD T act_alpha_grad(Act act, T z, T alpha, T scale = T(0)) {
  switch (act) {
    case Act::leaky_relu:
    case Act::prelu: return z > 0 ? T(0) : z;
    case Act::elu: return z > 0 ? T(0) : T(::expm1(z));
    case Act::softplus: {
      const T t = alpha * z;
      return t > T(20) ? T(0) : (z * act_math::sigmoid<T>(t) - act_math::softplus<T>(t) / alpha) / alpha;
    }
    case Act::snake: {
      const T twice = act_math::sin_of_twice<T>(alpha * z), square = act_math::sin_squared<T>(alpha * z);
      return alpha == 0 ? z * z : (z * twice - square / alpha) / alpha;
    }
    case Act::snake_beta: return scale * z * act_math::sin_of_twice<T>(alpha * z);
    default: return T(0);
  }
}

// g * f'(z). Where relu is off the result is 0 whatever arrives, as in torch: a product would make NaN of an infinite g.
template <class T> GANFAST_HD T act_bwd(Act act, T g, T saved, T alpha, bool from_y, T scale = T(0)) {
  if (act == Act::relu) return saved <= 0 ? T(0) : g;
  return g * act_grad<T>(act, saved, alpha, from_y, scale);
}

// g * df/dalpha; 0 whatever arrives where f does not depend on alpha.
template <class T> GANFAST_HD T act_alpha_bwd(Act act, T g, T z, T alpha, T scale = T(0)) {
  switch (act) {
    case Act::leaky_relu:
    case Act::prelu:
    case Act::elu: return z > 0 ? T(0) : g * act_alpha_grad<T>(act, z, alpha);
    case Act::softplus: return alpha * z > T(20) ? T(0) : g * act_alpha_grad<T>(act, z, alpha);
    case Act::snake: return g * act_alpha_grad<T>(act, z, alpha);
    case Act::snake_beta: return g * act_alpha_grad<T>(act, z, alpha, scale);
    default: return T(0);
  }
}

// g * df/dscale of snake_beta.
template <class T> GANFAST_HD T act_scale_bwd(T g, T z, T alpha) { return g * act_math::sin_squared<T>(alpha * z); }

}  // namespace ganfast
