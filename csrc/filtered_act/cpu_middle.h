// What happens between the two resamplings of filtered_act, over runs of floats: the activation, its slope, or the slope that signs tell.
#pragma once
#include <array>
#include <limits>

#include "../common/cpu_rows.h"

namespace ganfast {

using MaybeTensor = std::optional<at::Tensor>;

// One call, as its schema has it (ganfast/ops/filtered_act/kernels.py), integers along one or two dimensions.
struct FilteredAct {
  at::Tensor up_filter, down_filter;
  at::IntArrayRef up, down, before, after;
  bool flip, replicate;
  MaybeTensor bias, alpha;  // alpha [C], or snake_beta's [2, C]
  Act act;
  double alpha_value, gain;
  std::optional<double> clamp;
};

enum class Pass { forward, backward, linear };  // linear: between the slopes that signs tell

// The numbers of every channel, and of the call.
template <class A> struct Numbers {
  std::vector<A> bias, alpha, scale;
  A gain, bound;

  Numbers(const FilteredAct& f, int64_t channels)
      : bias(vector(f.bias, 0, channels, 0)), alpha(vector(f.alpha, 0, channels, f.alpha_value)), scale(vector(f.alpha, 1, channels, 0)), gain(f.gain),
        bound(f.clamp.value_or(std::numeric_limits<double>::infinity())) {}

  static std::vector<A> vector(const MaybeTensor& of, int64_t part, int64_t channels, double otherwise) {
    std::vector<A> all(channels, static_cast<A>(otherwise));
    if (!of || !of->defined() || (part == 1 && of->dim() == 1)) return all;
    const auto values = of->to(c10::CppTypeToScalarType<A>::value).contiguous();
    const A* from = values.template const_data_ptr<A>() + part * channels;
    std::copy_n(from, channels, all.begin());
    return all;
  }
};

// u -> y, or both in the same memory.
template <class A, class Tag> void activate(Tag act, const A* u, int64_t count, A alpha, A scale, A gain, A bound, A* y) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const A value = gain * act_fwd<A>(act, u[i], alpha, scale);
    y[i] = value > bound ? bound : (value < -bound ? -bound : value);  // NaN stays
  }
}

// Sums over a run: g * df/dalpha and, of snake_beta, g * df/dscale.
template <class A> struct Sums {
  A alpha = 0, scale = 0;
};

// h, the gradient of y, times the slope at u.
template <class A, class Tag> Sums<A> slope(Tag act, const A* u, int64_t count, A alpha, A scale, A gain, A bound, bool sums, A* h) {
  constexpr bool two = std::is_same_v<Tag, std::integral_constant<Act, Act::snake_beta>>;
  const bool clamps = bound < std::numeric_limits<A>::infinity();
  A of_alpha = 0, of_scale = 0;
  if (clamps) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const A y = gain * act_fwd<A>(act, u[i], alpha, scale);
      h[i] = y > bound || y < -bound ? A(0) : h[i];
    }
  }
  if (!sums) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) h[i] = act_bwd<A>(act, h[i] * gain, u[i], alpha, false, scale);
    return {};
  }
#pragma omp simd reduction(+ : of_alpha, of_scale)
  for (int64_t i = 0; i < count; ++i) {
    const A g = h[i] * gain;
    of_alpha += act_alpha_bwd<A>(act, g, u[i], alpha, scale);
    if constexpr (two) of_scale += act_scale_bwd<A>(g, u[i], alpha);
    h[i] = act_bwd<A>(act, g, u[i], alpha, false, scale);
  }
  return {of_alpha, of_scale};
}

// Two bits a value, four to a byte, the first in the lowest: whether the slope is 1, and whether the value is beyond the bound.
template <class A> inline __attribute__((always_inline)) int code_of(Act act, A v, A alpha, A gain, A bound) {
  const A y = gain * (act == Act::linear ? v : act == Act::relu ? (v <= 0 ? A(0) : v) : (v > 0 ? v : alpha * v));
  const int on = act == Act::linear ? 1 : act == Act::relu ? !(v <= 0) : v > 0, over = (y > bound) | (y < -bound);
  return on | over << 1;
}

template <class A> void pack(Act act, const A* u, int64_t count, A alpha, A gain, A bound, uint8_t* to) {
  uint8_t each[256];
  for (int64_t first = 0; first < count; first += 256) {
    const int64_t there = std::min<int64_t>(256, count - first), bytes = (there + 3) / 4;
    for (int64_t i = 0; i < there; ++i) each[i] = static_cast<uint8_t>(code_of(act, u[first + i], alpha, gain, bound));
    std::fill(each + there, each + 4 * bytes, uint8_t{0});
    for (int64_t i = 0; i < bytes; ++i)
      to[first / 4 + i] = static_cast<uint8_t>(each[4 * i] | each[4 * i + 1] << 2 | each[4 * i + 2] << 4 | each[4 * i + 3] << 6);
  }
}

// The slopes that codes tell.
template <class A> std::array<A, 4> slopes_of(const FilteredAct& f) {
  const A below = f.act == Act::linear ? A(1) : f.act == Act::relu ? A(0) : static_cast<A>(f.alpha_value), gain = static_cast<A>(f.gain);
  return {below * gain, gain, 0, 0};
}

// The result of a pass, [planes or parts, 3] sums added up by channel, in the order of planes: gbias, galpha, gscale.
template <class A> std::array<std::vector<double>, 3> by_channel(const std::vector<A>& partial, int64_t parts, int64_t planes, int64_t channels) {
  std::array<std::vector<double>, 3> all;
  for (auto& one : all) one.assign(channels, 0.0);
  for (int64_t p = 0; p < planes; ++p)
    for (int64_t k = 0; k < parts; ++k)
      for (int t = 0; t < 3; ++t) all[t][p % channels] += partial[(p * parts + k) * 3 + t];
  return all;
}

// from: x, or the gradient of y; x: of a backward. Fills `to`, and signs (forward) or sums [channels] (backward) where there are any.
struct Arguments {
  const FilteredAct& call;
  Pass pass;
  bool transposed;  // from y's side to x's
  const at::Tensor &from, &to;
  const at::Tensor *x, *signs;  // signs: written by a forward, read by a linear pass
  std::array<std::vector<double>, 3>* sums;
};

void filtered_act_lines(const Arguments& all);   // [N, C, L]
void filtered_act_planes(const Arguments& all);  // [N, C, H, W]

}  // namespace ganfast
