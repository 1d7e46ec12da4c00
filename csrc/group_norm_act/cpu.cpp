// CPU group norm + activation. Two ways, by shape alone: one task a group, which reads a contiguous group from cache after the first
// time and keeps what its backward computed; or the passes of batch norm over blocks, where groups are few or large, and for
// channels_last. Rows of one pixel (layer norm) have loops of their own, along the channels.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include "cpu_loops.h"

namespace ganfast {
namespace {

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

// Statistics of all groups, each [N * groups].
template <class T> void all_statistics(const T* x, const Rows& rows, const Groups& g, bool channels_last, double eps, Acc<T>* mean, Acc<T>* invstd) {
  if (!g.rows() && !g.tasks(channels_last)) return merged_statistics<T>(moments<T>(x, rows), g, eps, mean, invstd);
  at::parallel_for(0, g.count(), g.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const auto s = statistics<T>(x + k * g.length, g.length, eps);
      mean[k] = s.mean, invstd[k] = s.invstd;
    }
  });
}

// (mean, invstd [N * groups], the same as columns [N * C]).
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_stats_cpu(const at::Tensor& x, int64_t groups, double eps, bool channels_last) {
  const Groups g(x, groups);
  at::Tensor mean, invstd;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "group_norm_act_stats_cpu", [&] {
    using A = Acc<scalar_t>;
    mean = vector_of<A>(g.count(), x), invstd = vector_of<A>(g.count(), x);
    all_statistics<scalar_t>(x.const_data_ptr<scalar_t>(), Rows::spread_out(x, channels_last, true), g, channels_last, eps, mean.data_ptr<A>(), invstd.data_ptr<A>());
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
    mean = vector_of<A>(g.count(), x), invstd = vector_of<A>(g.count(), x);
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
    all_statistics<T>(in, rows, g, channels_last, eps, means, inverses);
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
