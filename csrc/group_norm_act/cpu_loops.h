// Group norm's loops over one group, or one row of channels, on a CPU.
#pragma once
#include <cmath>

#include "../common/cpu_norm.h"

namespace ganfast {
namespace {

struct Groups {
  int64_t n, c, p, groups, width, length;  // width channels and length elements a group

  Groups(const at::Tensor& x, int64_t number)
      : n(x.size(0)), c(x.size(1)), p(x.numel() / (x.size(0) * x.size(1))), groups(number), width(c / number), length(width * p) {}

  int64_t count() const { return n * groups; }
  bool rows() const { return p == 1; }
  // A group and the floats of its backward stay in a core's second-level cache, and there are enough of them for the cores.
  bool tasks(bool channels_last) const { return !rows() && !channels_last && length <= 131072 && count() >= 16; }
  int64_t grain() const { return std::max<int64_t>(1, 32768 / length); }
  // Rows of one pixel, in blocks with sums of their own, whose number the threads have no part in.
  int64_t block_rows() const { return std::max<int64_t>(1, std::max((n + 63) / 64, 4096 / c)); }
  int64_t blocks() const { return (n + block_rows() - 1) / block_rows(); }
  // Rows so long that sums for each block of them would be as large as x: a second pass adds up their columns.
  bool long_rows() const { return c > 16384; }
};

template <class A> struct Statistics {
  A mean, invstd;
};

// Of one contiguous group.
template <class T> Statistics<Acc<T>> statistics(const T* x, int64_t length, double eps) {
  Acc<T> mean, m2;
  plane_moments<T>(x, length, &mean, &m2);
  return {mean, static_cast<Acc<T>>(1 / std::sqrt(std::max<double>(0, m2) / length + eps))};
}

template <class T, class Tag>
void fwd_group(const T* x, const Groups& g, int64_t group, Statistics<Acc<T>> s, const Affine<Acc<T>>& affine, Tag act, T* y, T* slope) {
  using A = Acc<T>;
  const int64_t first = group % g.groups * g.width, column = group / g.groups * g.c + first;
  if (g.rows()) {
    const A *gain = affine.gain.data() + first, *shift = affine.shift.data() + first, *alpha = affine.alpha.data() + first;
    const auto z_of = [&](int64_t i) { return (static_cast<A>(x[i]) - s.mean) * s.invstd * gain[i] + shift[i]; };
    activate_run<T>(g.length, act, z_of, [=](int64_t i) { return alpha[i]; }, y, slope);
    return;
  }
  for (int64_t k = 0; k < g.width; ++k) {
    const T* in = x + k * g.p;
    const A scale = affine.gain[column + k] * s.invstd, shift = affine.shift[column + k], alpha = affine.alpha[column + k];
    const auto z_of = [=](int64_t i) { return (static_cast<A>(in[i]) - s.mean) * scale + shift; };
    activate_run<T>(g.p, act, z_of, [=](int64_t) { return alpha; }, y + k * g.p, slope ? slope + k * g.p : nullptr);
  }
}

// gx of one group, and the sums [3, columns] of its channels: g = gy * f'(z), g * xhat, and with_alpha gy * df/dalpha. `kept`: room for
// a group's g, which two of the loops want. `slope` where the forward wrote f'(z).
template <class T, class Tag>
void bwd_group(const T* gy, const T* x, const T* slope, const Groups& g, int64_t group, Statistics<Acc<T>> s, const Affine<Acc<T>>& affine, Tag act, bool with_alpha,
               Acc<T>* kept, Acc<T>* sums, int64_t columns, T* gx) {
  using A = Acc<T>;
  const int64_t column = group / g.groups * g.c + group % g.groups * g.width;
  double of_g = 0, of_product = 0;
  for (int64_t k = 0; k < g.width; ++k) {
    const T *in = x + k * g.p, *from = gy + k * g.p;
    A* to = kept + k * g.p;
    const A scale = affine.gain[column + k] * s.invstd, shift = affine.shift[column + k], alpha = affine.alpha[column + k];
    A b = 0, w = 0, a = 0;
    const auto run = [&](auto with_slope, const T* slopes) {
#pragma omp simd reduction(+ : b, w)
      for (int64_t i = 0; i < g.p; ++i) {
        const A centred = static_cast<A>(in[i]) - s.mean;
        A value = static_cast<A>(from[i]);
        if constexpr (with_slope) value *= static_cast<A>(slopes[i]);
        else value = act_bwd<A>(act, value, centred * scale + shift, alpha, false);
        to[i] = value;
        b += value, w += value * centred;
      }
    };
    slope ? run(std::true_type{}, slope + k * g.p) : run(std::false_type{}, nullptr);
    if (with_alpha)
      for (int64_t i = 0; i < g.p; ++i) a += act_alpha_bwd<A>(act, static_cast<A>(from[i]), (static_cast<A>(in[i]) - s.mean) * scale + shift, alpha);
    w *= s.invstd;
    sums[column + k] = b, sums[columns + column + k] = w, sums[2 * columns + column + k] = a;
    of_g += static_cast<double>(affine.gain[column + k]) * b, of_product += static_cast<double>(affine.gain[column + k]) * w;
  }
  const A offset = static_cast<A>(s.invstd * of_g / g.length), along = static_cast<A>(s.invstd * s.invstd * of_product / g.length);
  for (int64_t k = 0; k < g.width; ++k) {
    const T* in = x + k * g.p;
    const A* from = kept + k * g.p;
    T* to = gx + k * g.p;
    const A scale = affine.gain[column + k] * s.invstd;
#pragma omp simd
    for (int64_t i = 0; i < g.p; ++i) to[i] = narrow<T>(scale * from[i] - offset - (static_cast<A>(in[i]) - s.mean) * along);
  }
}

// Adds the sums of channels [begin, end) of one row to sums [3, c].
template <class T, class Tag>
void add_row(const T* gy, const T* x, const T* slope, const Groups& g, int64_t row, const Acc<T>* means, const Acc<T>* inverses, const Affine<Acc<T>>& affine,
             Tag act, bool with_alpha, int64_t begin, int64_t end, Acc<T>* sums) {
  using A = Acc<T>;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t group = row * g.groups + i / g.width, at = row * g.c + i;
    const A xhat = (static_cast<A>(x[at]) - means[group]) * inverses[group], z = xhat * affine.gain[i] + affine.shift[i], from = static_cast<A>(gy[at]);
    const A value = slope ? from * static_cast<A>(slope[at]) : act_bwd<A>(act, from, z, affine.alpha[i], false);
    sums[i] += value, sums[g.c + i] += value * xhat;
    if (with_alpha) sums[2 * g.c + i] += act_alpha_bwd<A>(act, from, z, affine.alpha[i]);
  }
}

// The same of a group that is a row of channels; sums [3, c], where given, are added to, over the rows of a block.
template <class T, class Tag>
void bwd_row(const T* gy, const T* x, const T* slope, const Groups& g, int64_t group, Statistics<Acc<T>> s, const Affine<Acc<T>>& affine, Tag act, bool with_alpha,
             Acc<T>* kept, Acc<T>* sums, T* gx) {
  using A = Acc<T>;
  const int64_t first = group % g.groups * g.width;
  const A *gain = affine.gain.data() + first, *shift = affine.shift.data() + first, *alpha = affine.alpha.data() + first;
  A b = 0, w = 0;
  const auto run = [&](auto with_slope, auto with_sums) {
#pragma omp simd reduction(+ : b, w)
    for (int64_t i = 0; i < g.width; ++i) {
      const A xhat = (static_cast<A>(x[i]) - s.mean) * s.invstd;
      A value = static_cast<A>(gy[i]);
      if constexpr (with_slope) value *= static_cast<A>(slope[i]);
      else value = act_bwd<A>(act, value, xhat * gain[i] + shift[i], alpha[i], false);
      const A inner = value * gain[i];
      kept[i] = inner;
      if constexpr (with_sums) sums[first + i] += value, sums[g.c + first + i] += value * xhat;
      b += inner, w += inner * xhat;
    }
  };
  using Yes = std::true_type;
  using No = std::false_type;
  if (sums) slope ? run(Yes{}, Yes{}) : run(No{}, Yes{});
  else slope ? run(Yes{}, No{}) : run(No{}, No{});
  if (with_alpha && sums)
    for (int64_t i = 0; i < g.width; ++i)
      sums[2 * g.c + first + i] += act_alpha_bwd<A>(act, static_cast<A>(gy[i]), (static_cast<A>(x[i]) - s.mean) * s.invstd * gain[i] + shift[i], alpha[i]);
  const A offset = b / g.length, along = w / g.length;
#pragma omp simd
  for (int64_t i = 0; i < g.width; ++i) gx[i] = narrow<T>(s.invstd * (kept[i] - offset - (static_cast<A>(x[i]) - s.mean) * s.invstd * along));
}

}  // namespace
}  // namespace ganfast
