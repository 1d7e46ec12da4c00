// What the CPU passes that resample by a filter share: where a tap leads, sums of weighted rows, the weights in the order in which they are met.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu_rows.h"

namespace ganfast {

// Along one dimension: result o is the sum over taps t of weight(t) * x[(o * down + t - before) / up], where that divides.
struct Line {
  int64_t in, out, taps, up, down, before;

  int64_t first(int64_t o) const { return floor_mod(before - o * down, up); }  // tap
  int64_t source(int64_t o, int64_t t) const { return (o * down + t - before) / up; }
  // Zeros to the left and right of x that the result reads.
  int64_t left() const { return std::max<int64_t>(0, (before + up - 1) / up); }
  int64_t right() const { return std::max<int64_t>(0, ((out - 1) * down + taps - 1 - before) / up - (in - 1)); }
  static int64_t floor_mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }
};

// to = sum of weights[k] * from[k], `length` values; four sources a pass over `to`.
template <class S, class A> void combine(const S* const* from, const A* weights, int64_t count, int64_t length, A* to) {
  if (count == 0) std::fill_n(to, length, A(0));
  for (int64_t k = 0; k < count; k += 4) {
    const int64_t there = std::min<int64_t>(4, count - k);
    const S *a = from[k], *b = from[k + (there > 1)], *c = from[k + 2 * (there > 2)], *d = from[k + 3 * (there > 3)];
    const A p = weights[k], q = there > 1 ? weights[k + 1] : 0, r = there > 2 ? weights[k + 2] : 0, s = there > 3 ? weights[k + 3] : 0;
    const auto pass = [&](auto used, auto adds) {
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        A sum = p * static_cast<A>(a[i]);
        if constexpr (used > 1) sum += q * static_cast<A>(b[i]);
        if constexpr (used > 2) sum += r * static_cast<A>(c[i]);
        if constexpr (used > 3) sum += s * static_cast<A>(d[i]);
        if constexpr (adds) to[i] += sum;
        else to[i] = sum;
      }
    };
    const auto sized = [&](auto adds) {
      switch (there) {
        case 1: return pass(std::integral_constant<int, 1>{}, adds);
        case 2: return pass(std::integral_constant<int, 2>{}, adds);
        case 3: return pass(std::integral_constant<int, 3>{}, adds);
        default: return pass(std::integral_constant<int, 4>{}, adds);
      }
    };
    k == 0 ? sized(std::false_type{}) : sized(std::true_type{});
  }
}

template <class T> void put(const Acc<T>* from, int64_t count, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = narrow<T>(from[i]);
}

struct Filter {
  std::vector<double> down, along;  // separable: weights of both dimensions, in the order in which taps are met
  std::vector<double> full;         // else [taps down, taps along]
  bool separable() const { return full.empty(); }
};

inline Filter weights_of(const at::Tensor& filter, bool flip, double gain) {
  const auto dense = filter.to(at::kDouble).contiguous();
  const double* values = dense.const_data_ptr<double>();
  std::vector<double> all(values, values + dense.numel());
  if (!flip) std::reverse(all.begin(), all.end());
  if (filter.dim() == 2) {
    for (auto& v : all) v *= gain;
    return {{}, {}, all};
  }
  auto along = all;
  for (auto& v : along) v *= gain;
  return {all, along, {}};
}

}  // namespace ganfast
