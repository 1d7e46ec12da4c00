// CPU batch norm + activation: moments, one normalising pass; backward in one reducing and one writing pass. No pass
// stores the normalised tensor: each recomputes it from x, which is cheaper than reading it back.
#include <torch/library.h>

#include <cstring>

#include "../common/cpu_moments.h"

namespace ganfast {
namespace {

// The per-channel vectors of one call; null weight means 1, null bias means 0.
template <class A> struct Affine {
  const A *mean, *invstd, *weight, *bias, *alphas;
  A alpha;
  A scale(int64_t c) const { return weight ? weight[c] * invstd[c] : invstd[c]; }
  A shift(int64_t c) const { return bias ? bias[c] : A(0); }
  A alpha_of(int64_t c) const { return alphas ? alphas[c] : alpha; }
};

template <class A>
Affine<A> affine(const at::Tensor& mean, const at::Tensor& invstd, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& alpha, double alpha_value) {
  return {mean.const_data_ptr<A>(), invstd.const_data_ptr<A>(), optional_ptr<A>(weight), optional_ptr<A>(bias), optional_ptr<A>(alpha), static_cast<A>(alpha_value)};
}

// Channel vectors gathered once a call, so that a channels_last run reads plain arrays.
template <class A> struct Vectors {
  std::vector<A> mean, invstd, scale, shift, alpha;
  Vectors(const Affine<A>& f, int64_t c) : mean(c), invstd(c), scale(c), shift(c), alpha(c) {
    for (int64_t i = 0; i < c; ++i)
      mean[i] = f.mean[i], invstd[i] = f.invstd[i], scale[i] = f.scale(i), shift[i] = f.shift(i), alpha[i] = f.alpha_of(i);
  }
};

template <class T, bool kLast, class Tag> void fwd_block(const Rows& rows, int64_t block, const T* x, const Vectors<Acc<T>>& v, Tag act, T* y) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + channel, *scale = v.scale.data() + channel, *shift = v.shift.data() + channel, *alpha = v.alpha.data() + channel;
    const A mean0 = *mean, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const A value = static_cast<A>(x[at + i]);
      if constexpr (kLast) y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean[i]) * scale[i] + shift[i], alpha[i]));
      else y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean0) * scale0 + shift0, alpha0));
    }
  });
}

// sums [3, C]: g', g' * xhat, and with_alpha gy * df/dalpha.
template <class T, bool kLast, class Tag>
void reduce_block(const Rows& rows, int64_t block, const T* gy, const T* x, const Vectors<Acc<T>>& v, Tag act, bool with_alpha, Acc<T>* sums) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + channel, *invstd = v.invstd.data() + channel, *scale = v.scale.data() + channel;
    const A *shift = v.shift.data() + channel, *alpha = v.alpha.data() + channel;
    A *bias_sum = sums + channel, *weight_sum = bias_sum + rows.c, *alpha_sum = weight_sum + rows.c;
    const A mean0 = *mean, invstd0 = *invstd, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
    A b = 0, w = 0, a = 0;
#pragma omp simd reduction(+ : b, w)
    for (int64_t i = 0; i < length; ++i) {
      const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
      const A z = centred * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0);
      const A g = static_cast<A>(gy[at + i]) * act_grad<A>(act, z, kLast ? alpha[i] : alpha0, false);
      if constexpr (kLast) bias_sum[i] += g, weight_sum[i] += g * centred * invstd[i];
      else b += g, w += g * centred * invstd0;
    }
    if (with_alpha)
      for (int64_t i = 0; i < length; ++i) {
        const int64_t c = kLast ? i : 0;
        const A z = (static_cast<A>(x[at + i]) - mean[c]) * scale[c] + shift[c];
        const A term = static_cast<A>(gy[at + i]) * act_alpha_grad<A>(act, z, alpha[c]);
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
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + channel, *invstd = v.invstd.data() + channel, *scale = v.scale.data() + channel;
    const A *shift = v.shift.data() + channel, *alpha = v.alpha.data() + channel, *mean_g = means + channel, *mean_gx = mean_g + rows.c;
    const A mean0 = *mean, invstd0 = *invstd, scale0 = *scale, shift0 = *shift, alpha0 = *alpha, g0 = *mean_g, gx0 = *mean_gx;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const A s = kLast ? scale[i] : scale0;
      const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
      const A g = static_cast<A>(gy[at + i]) * act_grad<A>(act, centred * s + (kLast ? shift[i] : shift0), kLast ? alpha[i] : alpha0, false);
      gx[at + i] = narrow<T>(s * (g - (kLast ? mean_g[i] : g0) - centred * (kLast ? invstd[i] * mean_gx[i] : invstd0 * gx0)));
    }
  });
}

at::TensorOptions acc_options(const at::Tensor& x) {
  return x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).memory_format(std::nullopt);
}

std::tuple<at::Tensor, at::Tensor> batch_norm_act_stats_cpu(const at::Tensor& x, bool channels_last) {
  const Rows rows(x, channels_last);
  at::Tensor merged;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_stats_cpu", [&] {
    merged = moments<scalar_t>(x.const_data_ptr<scalar_t>(), rows, x.options());
  });
  return {merged[0][1].clone(), merged[0][2] / rows.count()};
}

at::Tensor batch_norm_act_fwd_cpu(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& alpha, c10::string_view act,
                                  double alpha_value, bool channels_last) {
  auto y = at::empty_like(x);
  const Rows rows(x, channels_last);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_fwd_cpu", [&] {
    const Vectors<Acc<scalar_t>> v(affine<Acc<scalar_t>>(mean, invstd, weight, bias, alpha, alpha_value), rows.c);
    const auto* in = x.const_data_ptr<scalar_t>();
    auto* out = y.data_ptr<scalar_t>();
    with_act(parse_act(act), [&](auto tag) {
      each_block(rows, [&](int64_t b) {
        channels_last ? fwd_block<scalar_t, true>(rows, b, in, v, tag, out) : fwd_block<scalar_t, false>(rows, b, in, v, tag, out);
      });
    });
  });
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_act_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& alpha, c10::string_view act, double alpha_value, bool training,
    bool channels_last) {
  auto gx = at::empty_like(x);
  const Rows rows(x, channels_last);
  const bool with_alpha = alpha && alpha->defined();
  auto gbias = at::empty({rows.c}, acc_options(x)), gweight = at::empty_like(gbias), galpha = at::empty({with_alpha ? rows.c : 0}, acc_options(x));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_bwd_cpu", [&] {
    using A = Acc<scalar_t>;
    const Vectors<A> v(affine<A>(mean, invstd, weight, bias, alpha, alpha_value), rows.c);
    const auto *g = gy.const_data_ptr<scalar_t>(), *in = x.const_data_ptr<scalar_t>();
    auto* out = gx.data_ptr<scalar_t>();
    with_act(parse_act(act), [&](auto tag) {
      const auto sums = reduce_blocks<A>(rows, 3, [&](int64_t b, A* into) {
        channels_last ? reduce_block<scalar_t, true>(rows, b, g, in, v, tag, with_alpha, into)
                      : reduce_block<scalar_t, false>(rows, b, g, in, v, tag, with_alpha, into);
      });
      std::vector<A> means(2 * rows.c, A(0));
      if (training)
        for (int64_t i = 0; i < 2 * rows.c; ++i) means[i] = sums[i] / static_cast<A>(rows.count());
      each_block(rows, [&](int64_t b) {
        channels_last ? write_block<scalar_t, true>(rows, b, g, in, v, means.data(), tag, out)
                      : write_block<scalar_t, false>(rows, b, g, in, v, means.data(), tag, out);
      });
      std::memcpy(gbias.data_ptr<A>(), sums.data(), rows.c * sizeof(A));
      std::memcpy(gweight.data_ptr<A>(), sums.data() + rows.c, rows.c * sizeof(A));
      if (with_alpha) std::memcpy(galpha.data_ptr<A>(), sums.data() + 2 * rows.c, rows.c * sizeof(A));
    });
  });
  return {gx, gweight, gbias, galpha};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("batch_norm_act_stats_native", batch_norm_act_stats_cpu);
  m.impl("batch_norm_act_fwd_native", batch_norm_act_fwd_cpu);
  m.impl("batch_norm_act_bwd_native", batch_norm_act_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
