#include "modulated_norm_act.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

BatchNormShape shape_of(const at::Tensor& x, bool channels_last) { return {x.size(0), x.size(1), x.numel() / (x.size(0) * x.size(1)), channels_last, true}; }

const void* data(const MaybeTensor& t) { return t ? t->const_data_ptr() : nullptr; }
// Scale and shift are read beside x.
bool is_full(const at::Tensor& x, const MaybeTensor& scale) { return scale && scale->dim() == x.dim(); }

Modulation modulation_of(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& scale,
                         const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha, c10::string_view act, double alpha_value, bool residual_first,
                         double factor) {
  Modulation m{mean.const_data_ptr<float>(), invstd.const_data_ptr<float>(), floats(weight), floats(bias), floats(alpha)};
  if (is_full(x, scale)) m.full_scale = data(scale), m.full_shift = data(shift);
  else m.scale = floats(scale), m.shift = floats(shift);
  m.residual = data(residual), m.residual_first = residual_first, m.statistics = mean.numel();
  m.act = act_of(act), m.alpha_value = static_cast<float>(alpha_value), m.factor = static_cast<float>(factor);
  return m;
}

at::Tensor batch_norm_act_modulated_fwd(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
                                  const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha, c10::string_view act,
                                  double alpha_value, bool residual_first, double factor, bool channels_last) {
  const Place place(x);
  at::Tensor y = new_like(x, x.sizes(), channels_last);
  const Modulation m = modulation_of(x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, residual_first, factor);
  batch_norm_act_modulated_fwd_cuda(shape_of(x, channels_last), dtype_of(x), x.const_data_ptr(), m, y.mutable_data_ptr(), place.stream);
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_act_modulated_bwd(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& scale,
    const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double factor, int64_t groups, bool training,
    bool channels_last) {
  const Place place(x);
  const BatchNormShape shape = shape_of(x, channels_last);
  const bool full = is_full(x, scale);
  const Modulation m = modulation_of(x, mean, invstd, weight, bias, scale, shift, residual, alpha, act, alpha_value, true, factor);
  const auto like_x = [&](bool there) { return there ? new_like(x, x.sizes(), channels_last) : new_floats(x, {0}); };
  const auto pointer = [](at::Tensor& t) { return t.numel() ? t.mutable_data_ptr<float>() : nullptr; };
  at::Tensor gx = like_x(true), gweight = new_floats(x, {shape.c}), gbias = new_floats(x, {shape.c}), galpha = new_floats(x, {alpha ? shape.c : 0});
  at::Tensor scratch = new_floats(x, {modulated_norm_act_scratch(shape)}), gscale, gshift, gresidual = like_x(residual && !full);
  ModulationGradients to{pointer(gweight), pointer(gbias), pointer(galpha)};
  if (full) {
    gscale = like_x(true), gshift = like_x(true);
    to.full_gscale = gscale.mutable_data_ptr(), to.full_gshift = gshift.mutable_data_ptr();
  } else {
    gscale = new_floats(x, {scale ? scale->numel() : 0}), gshift = new_floats(x, {scale ? scale->numel() : 0});
    to.gscale = pointer(gscale), to.gshift = pointer(gshift);
    if (residual) to.full_gshift = gresidual.mutable_data_ptr();
  }
  batch_norm_act_modulated_bwd_cuda(shape, dtype_of(x), gy.const_data_ptr(), x.const_data_ptr(), m, groups, training, gx.mutable_data_ptr(), to,
                              scratch.mutable_data_ptr<float>(), place.stream);
  return {gx, gweight, gbias, galpha, gscale, gshift, gresidual};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("batch_norm_act_modulated_fwd_native", &batch_norm_act_modulated_fwd);
  m.impl("batch_norm_act_modulated_bwd_native", &batch_norm_act_modulated_bwd);
}

}  // namespace ganfast
