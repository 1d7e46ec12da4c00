// CPU batch norm + activation: moments, one normalising pass; backward in one reducing and one writing pass. No pass
// stores the normalised tensor: each recomputes it from x, which is cheaper than reading it back.
#include <torch/library.h>

#include <cmath>

#include "../common/cpu_moments.h"

namespace ganfast {
namespace {

// Per-channel vectors [C] of any float dtype, or nothing. Mean and inverse deviation are [N * C] where each image has its own.
using MaybeTensor = std::optional<at::Tensor>;

// The vectors of one call as columns of `rows`: plain arrays for a channels_last run; no weight means 1, no bias 0. Vectors shorter
// than the columns start again for every image.
template <class A> struct Vectors {
  std::vector<A> mean, invstd, scale, shift, alpha;

  Vectors(const Rows& rows, const at::Tensor& mean_of, const at::Tensor& invstd_of, const MaybeTensor& weight, const MaybeTensor& bias,
          const MaybeTensor& alphas, double alpha_value)
      : mean(as_columns<A>(rows, mean_of, 0)), invstd(as_columns<A>(rows, invstd_of, 0)), scale(as_columns<A>(rows, weight, 1)),
        shift(as_columns<A>(rows, bias, 0)), alpha(as_columns<A>(rows, alphas, alpha_value)) {
    for (int64_t i = 0; i < rows.columns(); ++i) scale[i] *= invstd[i];
  }
};

template <class T, bool kLast, class Tag> void fwd_block(const Rows& rows, int64_t block, const T* x, const Vectors<Acc<T>>& v, Tag act, T* y) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *scale = v.scale.data() + top + channel, *shift = v.shift.data() + top + channel, *alpha = v.alpha.data() + top + channel;
    const A mean0 = *mean, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const A value = static_cast<A>(x[at + i]);
      if constexpr (kLast) y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean[i]) * scale[i] + shift[i], alpha[i]));
      else y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean0) * scale0 + shift0, alpha0));
    }
  });
}

// sums [3, c] of the block's group: g', g' * xhat, and with_alpha gy * df/dalpha.
template <class T, bool kLast, class Tag>
void reduce_block(const Rows& rows, int64_t block, const T* gy, const T* x, const Vectors<Acc<T>>& v, Tag act, bool with_alpha, Acc<T>* sums) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *invstd = v.invstd.data() + top + channel, *scale = v.scale.data() + top + channel;
    const A *shift = v.shift.data() + top + channel, *alpha = v.alpha.data() + top + channel;
    A *bias_sum = sums + channel, *weight_sum = bias_sum + rows.c, *alpha_sum = weight_sum + rows.c;
    const A mean0 = *mean, invstd0 = *invstd, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
    A b = 0, w = 0, a = 0;
#pragma omp simd reduction(+ : b, w)
    for (int64_t i = 0; i < length; ++i) {
      const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
      const A z = centred * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0);
      const A g = act_bwd<A>(act, static_cast<A>(gy[at + i]), z, kLast ? alpha[i] : alpha0, false);
      if constexpr (kLast) bias_sum[i] += g, weight_sum[i] += g * centred * invstd[i];
      else b += g, w += g * centred * invstd0;
    }
    if (with_alpha)
      for (int64_t i = 0; i < length; ++i) {
        const int64_t c = kLast ? i : 0;
        const A z = (static_cast<A>(x[at + i]) - mean[c]) * scale[c] + shift[c];
        const A term = act_alpha_bwd<A>(act, static_cast<A>(gy[at + i]), z, alpha[c]);
        if constexpr (kLast) alpha_sum[i] += term;
        else a += term;
      }
    if constexpr (!kLast) *bias_sum += b, *weight_sum += w, *alpha_sum += a;
  });
}

// gx = scale * (g' - mean(g') - xhat * mean(g' * xhat)); the two means are zero in eval mode.
template <class T, bool kLast, class Tag>
void write_block(const Rows& rows, int64_t block, const T* gy, const T* x, const Vectors<Acc<T>>& v, const Acc<T>* means, Tag act, T* gx) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *invstd = v.invstd.data() + top + channel, *scale = v.scale.data() + top + channel;
    const A *shift = v.shift.data() + top + channel, *alpha = v.alpha.data() + top + channel, *mean_g = means + top + channel, *mean_gx = mean_g + rows.columns();
    const A mean0 = *mean, invstd0 = *invstd, scale0 = *scale, shift0 = *shift, alpha0 = *alpha, g0 = *mean_g, gx0 = *mean_gx;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const A s = kLast ? scale[i] : scale0;
      const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
      const A g = act_bwd<A>(act, static_cast<A>(gy[at + i]), centred * s + (kLast ? shift[i] : shift0), kLast ? alpha[i] : alpha0, false);
      gx[at + i] = narrow<T>(s * (g - (kLast ? mean_g[i] : g0) - centred * (kLast ? invstd[i] * mean_gx[i] : invstd0 * gx0)));
    }
  });
}

template <class T> at::Tensor normalise(const at::Tensor& x, const Rows& rows, const Vectors<Acc<T>>& v, c10::string_view act) {
  auto y = at::empty_like(x);
  const T* in = x.const_data_ptr<T>();
  T* out = y.data_ptr<T>();
  with_act(parse_act(act), [&](auto tag) {
    each_block(rows, [&](int64_t b) {
      rows.channels_last ? fwd_block<T, true>(rows, b, in, v, tag, out) : fwd_block<T, false>(rows, b, in, v, tag, out);
    });
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor> batch_norm_act_stats_cpu(const at::Tensor& x, bool per_image, bool channels_last) {
  const Rows rows = Rows::spread_out(x, channels_last, per_image);
  at::Tensor mean, var;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_stats_cpu", [&] {
    using A = Acc<scalar_t>;
    auto sum = moments<scalar_t>(x.const_data_ptr<scalar_t>(), rows);
    const int64_t c = rows.channels();
    for (int64_t i = 0; i < c; ++i) sum[2 * c + i] /= rows.values();
    mean = as_tensor<A>(sum.data() + c, c, x.options()), var = as_tensor<A>(sum.data() + 2 * c, c, x.options());
  });
  return {mean, var};
}

at::Tensor batch_norm_act_fwd_cpu(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
                                  const MaybeTensor& alpha, c10::string_view act, double alpha_value, bool channels_last) {
  const Rows rows = Rows::spread_out(x, channels_last, mean.numel() > x.size(1));
  at::Tensor y;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_fwd_cpu", [&] {
    y = normalise<scalar_t>(x, rows, Vectors<Acc<scalar_t>>(rows, mean, invstd, weight, bias, alpha, alpha_value), act);
  });
  return y;
}

// The whole forward as one call: statistics (or their partials [T, 3, C]), the running ones' update, y. Gives (y, mean, invstd).
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm_act_all_cpu(
    const at::Tensor& x, const MaybeTensor& running_mean, const MaybeTensor& running_var, const MaybeTensor& weight, const MaybeTensor& bias,
    const MaybeTensor& alpha, const MaybeTensor& partials, bool training, double momentum, double eps, c10::string_view act, double alpha_value,
    bool per_image, bool channels_last) {
  const at::NoGradGuard no_grad;  // and not below autograd: the running statistics' version counters must move
  const Rows rows = Rows::spread_out(x, channels_last, per_image);
  const int64_t c = rows.channels();
  at::Tensor y, mean, invstd;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_all_cpu", [&] {
    using A = Acc<scalar_t>;
    constexpr auto dtype = c10::CppTypeToScalarType<A>::value;
    if (training) {
      std::vector<double> sum;
      if (partials) {
        const auto tiles = partials->to(dtype).contiguous();
        sum = merge_moments<A>(tiles.template const_data_ptr<A>(), tiles.size(0), c, 1);
      } else {
        sum = moments<scalar_t>(x.const_data_ptr<scalar_t>(), rows);
      }
      mean = as_tensor<A>(sum.data() + c, c, x.options());
      const double n = rows.values();
      if (running_mean) {
        std::vector<double> unbiased(sum.begin() + 2 * c, sum.end());
        for (double& v : unbiased) v /= n - 1;
        running_mean->lerp_(mean.to(running_mean->scalar_type()), momentum);
        running_var->lerp_(as_tensor<A>(unbiased.data(), c, x.options()).to(running_var->scalar_type()), momentum);
      }
      for (int64_t i = 2 * c; i < 3 * c; ++i) sum[i] = 1 / std::sqrt(sum[i] / n + eps);
      invstd = as_tensor<A>(sum.data() + 2 * c, c, x.options());
    } else {
      mean = running_mean->to(dtype, /*non_blocking=*/false, /*copy=*/true);
      invstd = running_var->to(dtype, /*non_blocking=*/false, /*copy=*/true).add_(eps).rsqrt_();
    }
    y = normalise<scalar_t>(x, rows, Vectors<A>(rows, mean, invstd, weight, bias, alpha, alpha_value), act);
  });
  return {y, mean, invstd};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_act_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
    const MaybeTensor& alpha, c10::string_view act, double alpha_value, bool training, bool channels_last) {
  auto gx = at::empty_like(x);
  const Rows rows = Rows::spread_out(x, channels_last, mean.numel() > x.size(1));
  const bool with_alpha = alpha && alpha->defined();
  const int64_t c = x.size(1), channels = rows.channels();
  at::Tensor gbias, gweight, galpha;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_bwd_cpu", [&] {
    using A = Acc<scalar_t>;
    const Vectors<A> v(rows, mean, invstd, weight, bias, alpha, alpha_value);
    const auto *g = gy.const_data_ptr<scalar_t>(), *in = x.const_data_ptr<scalar_t>();
    auto* out = gx.data_ptr<scalar_t>();
    with_act(parse_act(act), [&](auto tag) {
      const auto sums = reduce_blocks<A>(rows, 3, [&](int64_t b, A* into) {
        rows.channels_last ? reduce_block<scalar_t, true>(rows, b, g, in, v, tag, with_alpha, into)
                           : reduce_block<scalar_t, false>(rows, b, g, in, v, tag, with_alpha, into);
      });
      std::vector<A> means(2 * rows.columns(), A(0));
      if (training)
        for (int64_t i = 0, k = 0; k < 2 * channels; ++k)
          for (int64_t s = 0; s < rows.spread; ++s) means[i++] = sums[k] / static_cast<A>(rows.values());
      each_block(rows, [&](int64_t b) {
        rows.channels_last ? write_block<scalar_t, true>(rows, b, g, in, v, means.data(), tag, out)
                           : write_block<scalar_t, false>(rows, b, g, in, v, means.data(), tag, out);
      });
      std::vector<double> total(3 * c, 0);  // over the images, where each has its own
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t first = 0; first < channels; first += c)
          for (int64_t i = 0; i < c; ++i) total[t * c + i] += sums[t * channels + first + i];
      gbias = as_tensor<A>(total.data(), c, x.options()), gweight = as_tensor<A>(total.data() + c, c, x.options());
      galpha = as_tensor<A>(total.data() + 2 * c, with_alpha ? c : 0, x.options());
    });
  });
  return {gx, gweight, gbias, galpha};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("batch_norm_act_stats_native", batch_norm_act_stats_cpu);
  m.impl("batch_norm_act_all_native", batch_norm_act_all_cpu);
  m.impl("batch_norm_act_fwd_native", batch_norm_act_fwd_cpu);
  m.impl("batch_norm_act_bwd_native", batch_norm_act_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
