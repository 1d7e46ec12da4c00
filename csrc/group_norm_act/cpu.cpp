// CPU group norm + activation. Two ways, by shape alone: one task a group, which reads a contiguous group from cache after the first
// time and keeps what its backward computed; or the passes of batch norm over blocks, where groups are few or large, and for
// channels_last. Rows of one pixel (layer norm) have loops of their own, along the channels.
#include "../common/wide_vectors.h"

#include <torch/library.h>

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

// How a backward over blocks has each f'(z) once: a half type reads it from the forward, others keep g where gx will be.
template <class T> inline constexpr Reads kOnce = sizeof(T) == 2 ? Reads::slope : Reads::kept;

// Means and inverse deviations [N * groups] as columns [N * C].
at::Tensor spread_over(const at::Tensor& t, const Groups& g) { return t.view({-1, 1}).expand({t.numel(), g.width}).reshape({-1}); }

// Group statistics from the moments [3, N * C] of every image's channels: Chan's rule over equal counts, in double.
template <class T> void merged_statistics(const std::vector<double>& all, const Groups& g, double eps, Acc<T>* mean, Acc<T>* invstd) {
  const int64_t columns = g.n * g.c;
  for (int64_t k = 0; k < g.count(); ++k) {
    const double *means = all.data() + columns + k * g.width, *squares = means + columns;
    double center = 0, square = 0;
    for (int64_t i = 0; i < g.width; ++i) center += means[i];
    center /= g.width;
    for (int64_t i = 0; i < g.width; ++i) square += squares[i] + g.p * (means[i] - center) * (means[i] - center);
    mean[k] = static_cast<Acc<T>>(center), invstd[k] = static_cast<Acc<T>>(1 / std::sqrt(square / g.length + eps));
  }
}

// (mean, invstd [N * groups], the same as columns [N * C]).
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_stats_cpu(const at::Tensor& x, int64_t groups, double eps, bool channels_last) {
  const Groups g(x, groups);
  at::Tensor mean, invstd;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_act_stats_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const auto floats = x.options().dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt);
    mean = at::empty({g.count()}, floats), invstd = at::empty({g.count()}, floats);
    const T* in = x.const_data_ptr<T>();
    A *means = mean.data_ptr<A>(), *inverses = invstd.data_ptr<A>();
    if (g.rows() || g.tasks(channels_last)) {
      at::parallel_for(0, g.count(), g.grain(), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const auto s = statistics<T>(in + k * g.length, g.length, eps);
          means[k] = s.mean, inverses[k] = s.invstd;
        }
      });
    } else {
      merged_statistics<T>(moments<T>(in, Rows::spread_out(x, channels_last, true)), g, eps, means, inverses);
    }
  });
  return {mean, invstd, spread_over(mean, g), spread_over(invstd, g)};
}

// (y, mean, invstd [N * groups], f'(z) if with_slope and of a half type, else empty). scale, shift [N * C], or none.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_fwd_cpu(const at::Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
                                                                      const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& alpha,
                                                                      int64_t groups, double eps, c10::string_view act, double alpha_value, bool channels_last,
                                                                      bool with_slope) {
  const Groups g(x, groups);
  with_slope = with_slope && x.element_size() == 2;
  at::Tensor y = at::empty_like(x), mean, invstd, slope = with_slope ? at::empty_like(x) : at::empty({0}, x.options().memory_format(std::nullopt));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_act_fwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const auto floats = x.options().dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt);
    mean = at::empty({g.count()}, floats), invstd = at::empty({g.count()}, floats);
    const T* in = x.const_data_ptr<T>();
    T *out = y.data_ptr<T>(), *slopes = with_slope ? slope.data_ptr<T>() : nullptr;
    A *means = mean.data_ptr<A>(), *inverses = invstd.data_ptr<A>();
    const Rows rows = Rows::spread_out(x, channels_last, true);
    if (g.rows() || g.tasks(channels_last)) {
      const Affine<A> affine(g.rows() ? Rows(x.narrow(0, 0, 1), false) : rows, weight, bias, alpha, alpha_value, scale, shift);
      with_act(parse_act(act), [&](auto tag) {
        at::parallel_for(0, g.count(), g.grain(), [&](int64_t begin, int64_t end) {
          for (int64_t k = begin; k < end; ++k) {
            const auto s = statistics<T>(in + k * g.length, g.length, eps);
            means[k] = s.mean, inverses[k] = s.invstd;
            fwd_group<T>(in + k * g.length, g, k, s, affine, tag, out + k * g.length, slopes ? slopes + k * g.length : nullptr);
          }
        });
      });
      return;
    }
    merged_statistics<T>(moments<T>(in, rows), g, eps, means, inverses);
    const Vectors<A> v(rows, spread_over(mean, g), spread_over(invstd, g), {rows, weight, bias, alpha, alpha_value, scale, shift});
    Beside<T> beside;
    beside.slope = slopes;
    const Act which = parse_act(act);
    if constexpr (sizeof(T) == 2) {
      if (slopes) return normalise<T, Reads::slope>(in, rows, v, beside, which, out);
    }
    normalise<T>(in, rows, v, beside, which, out);
  });
  return {y, mean, invstd, slope};
}

// (gx, gweight, gbias, galpha, gscale, gshift): [C], and [N * C] the last two, which are empty without scale and shift.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
    const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& alpha, const MaybeTensor& slope, int64_t groups, c10::string_view act,
    double alpha_value, bool channels_last) {
  const Groups g(x, groups);
  at::Tensor gx = at::empty_like(x), gweight, gbias, galpha, gscale, gshift;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_act_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const bool with_alpha = given(alpha);
    const T *from = gy.const_data_ptr<T>(), *in = x.const_data_ptr<T>();
    T* slopes = given(slope) ? slope->data_ptr<T>() : nullptr;  // read alone
    const auto slopes_of = [&](int64_t k) { return slopes ? slopes + k * g.length : nullptr; };
    T* out = gx.data_ptr<T>();
    const A *means = mean.const_data_ptr<A>(), *inverses = invstd.const_data_ptr<A>();
    const Rows rows = Rows::spread_out(x, channels_last, true);
    std::vector<A> sums;  // [3, N * C], of rows [3, C]
    if (g.rows()) {
      const Affine<A> affine(Rows(x.narrow(0, 0, 1), false), weight, bias, alpha, alpha_value);
      std::vector<A> partial(g.long_rows() ? 3 * g.c : g.blocks() * 3 * g.c, A(0));
      with_act(parse_act(act), [&](auto tag) {
        at::parallel_for(0, g.blocks(), std::max<int64_t>(1, 32768 / (g.block_rows() * g.c)), [&](int64_t begin, int64_t end) {
          std::vector<A> kept(g.width);
          for (int64_t b = begin; b < end; ++b)
            for (int64_t k = b * g.block_rows() * groups; k < std::min(g.n, (b + 1) * g.block_rows()) * groups; ++k)
              bwd_row<T>(from + k * g.length, in + k * g.length, slopes_of(k), g, k, {means[k], inverses[k]}, affine, tag, with_alpha, kept.data(),
                         g.long_rows() ? nullptr : partial.data() + b * 3 * g.c, out + k * g.length);
        });
        if (g.long_rows())
          at::parallel_for(0, g.c, std::max<int64_t>(1, 32768 / g.n), [&](int64_t begin, int64_t end) {
            for (int64_t row = 0; row < g.n; ++row) add_row<T>(from, in, slopes, g, row, means, inverses, affine, tag, with_alpha, begin, end, partial.data());
          });
      });
      std::vector<double> total(3 * g.c, 0);
      for (int64_t b = 0; b < (g.long_rows() ? 1 : g.blocks()); ++b)
        for (int64_t i = 0; i < 3 * g.c; ++i) total[i] += partial[b * 3 * g.c + i];
      sums.assign(total.begin(), total.end());
    } else if (g.tasks(channels_last)) {
      const Affine<A> affine(rows, weight, bias, alpha, alpha_value, scale, shift);
      sums.resize(3 * g.n * g.c);
      with_act(parse_act(act), [&](auto tag) {
        at::parallel_for(0, g.count(), g.grain(), [&](int64_t begin, int64_t end) {
          std::vector<A> kept(g.length);
          for (int64_t k = begin; k < end; ++k)
            bwd_group<T>(from + k * g.length, in + k * g.length, slopes_of(k), g, k, {means[k], inverses[k]}, affine, tag, with_alpha, kept.data(), sums.data(), g.n * g.c,
                         out + k * g.length);
        });
      });
    } else {
      const Vectors<A> v(rows, spread_over(mean, g), spread_over(invstd, g), {rows, weight, bias, alpha, alpha_value, scale, shift});
      Beside<T> beside;
      beside.slope = slopes;
      beside.kept = out;
      const auto sums_of = slopes || sizeof(T) > 2 ? &backward_sums<T, kOnce<T>> : &backward_sums<T>;
      sums = sums_of(from, in, rows, v, beside, parse_act(act), with_alpha);
      const auto through = through_statistics<A>(rows, v, sums, g.count(), g.length, [&](int64_t k) { return k / g.width; });
      (slopes || sizeof(T) > 2 ? &write_gradient<T, kOnce<T>> : &write_gradient<T>)(from, in, rows, v, beside, through, parse_act(act), out);
    }
    const ColumnGradients<A> found(sums, g.c, weight, bias, scale);
    gbias = as_tensor<A>(found.bias.data(), g.c, x.options()), gweight = as_tensor<A>(found.weight.data(), g.c, x.options());
    galpha = as_tensor<A>(found.alpha.data(), with_alpha ? g.c : 0, x.options());
    gscale = as_tensor<A>(found.scale.data(), found.scale.size(), x.options()), gshift = as_tensor<A>(sums.data(), found.scale.size(), x.options());
  });
  return {gx, gweight, gbias, galpha, gscale, gshift};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("group_norm_act_stats_native", group_norm_act_stats_cpu);
  m.impl("group_norm_act_fwd_native", group_norm_act_fwd_cpu);
  m.impl("group_norm_act_bwd_native", group_norm_act_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
