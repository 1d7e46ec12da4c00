// CPU batch norm + activation: moments, one normalising pass; backward in one reducing and one writing pass.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include <cmath>

#include "../common/cpu_norm.h"

namespace ganfast {
namespace {

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
    y = at::empty_like(x);
    normalise<scalar_t>(x.const_data_ptr<scalar_t>(), rows, Vectors<Acc<scalar_t>>(rows, mean, invstd, {rows, weight, bias, alpha, alpha_value}), {}, parse_act(act),
                        y.data_ptr<scalar_t>());
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
    y = at::empty_like(x);
    normalise<scalar_t>(x.const_data_ptr<scalar_t>(), rows, Vectors<A>(rows, mean, invstd, {rows, weight, bias, alpha, alpha_value}), {}, parse_act(act), y.data_ptr<scalar_t>());
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
    const Vectors<A> v(rows, mean, invstd, {rows, weight, bias, alpha, alpha_value});
    const auto *g = gy.const_data_ptr<scalar_t>(), *in = x.const_data_ptr<scalar_t>();
    auto* out = gx.data_ptr<scalar_t>();
    const auto sums = backward_sums<scalar_t>(g, in, rows, v, {}, parse_act(act), with_alpha);
    std::vector<A> through(2 * rows.columns(), A(0));
    if (training) through = through_statistics<A>(rows, v, sums, channels, rows.values(), [](int64_t k) { return k; });
    write_gradient<scalar_t>(g, in, rows, v, {}, through, parse_act(act), out);
    const ColumnGradients<A> found(sums, c, {}, {}, {});  // added over the images, where each has its own
    gbias = as_tensor<A>(found.bias.data(), c, x.options()), gweight = as_tensor<A>(found.weight.data(), c, x.options());
    galpha = as_tensor<A>(found.alpha.data(), with_alpha ? c : 0, x.options());
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
