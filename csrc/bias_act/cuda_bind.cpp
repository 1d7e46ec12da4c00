#include <limits>

#include "../common/cuda_bind.h"
#include "bias_act.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

BiasActShape shape_of(const at::Tensor& x, bool channels_last) { return {x.size(0), x.size(1), x.numel() / (x.size(0) * x.size(1)), channels_last}; }

float or_nan(std::optional<double> value) { return value ? static_cast<float>(*value) : std::numeric_limits<float>::quiet_NaN(); }

// The signs, empty where they are not kept.
at::Tensor forward(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                   std::optional<double> clamp, bool channels_last, const MaybeTensor& residual, bool residual_first, double factor, bool keep_signs, void* y) {
  const Place place(x);
  const at::Tensor like = at::empty({0}, x.options().dtype(clamp ? at::kByte : at::kBool));
  at::Tensor signs = keep_signs ? new_like(like, x.sizes(), channels_last) : like;
  const bool adds = residual && residual->defined();
  const BiasActAdded added{adds ? residual->const_data_ptr() : nullptr, residual_first, adds ? static_cast<float>(factor) : 1,
                           keep_signs ? static_cast<uint8_t*>(signs.mutable_data_ptr()) : nullptr};
  bias_act_fwd_cuda(shape_of(x, channels_last), dtype_of(x), x.const_data_ptr(), floats(bias), floats(alpha), act_of(act), alpha_value, gain, or_nan(clamp),
                    added, y, place.stream);
  return signs;
}

std::tuple<at::Tensor, at::Tensor> bias_act_fwd(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value,
                                                double gain, std::optional<double> clamp, bool channels_last, const MaybeTensor& residual, bool residual_first,
                                                double factor, bool keep_signs) {
  const Place place(x);
  at::Tensor y = new_like(x, x.sizes(), channels_last);
  at::Tensor signs =
      forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor, keep_signs, y.mutable_data_ptr());
  return {y, signs};
}

at::Tensor bias_act_fwd_(at::Tensor x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                         std::optional<double> clamp, bool channels_last, const MaybeTensor& residual, bool residual_first, double factor, bool keep_signs) {
  return forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor, keep_signs, x.mutable_data_ptr());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bias_act_bwd(const at::Tensor& gy, const at::Tensor& saved, const MaybeTensor& bias, const MaybeTensor& alpha,
                                                            c10::string_view act, double alpha_value, double gain, std::optional<double> limit, bool from_y,
                                                            bool channels_last) {
  const Place place(gy);
  const BiasActShape shape = shape_of(gy, channels_last);
  at::Tensor gx = new_like(gy, gy.sizes(), channels_last), gbias = new_floats(gy, {shape.c}), galpha = new_floats(gy, {alpha ? shape.c : 0});
  at::Tensor scratch = new_floats(gy, {bias_act_bwd_scratch(shape)});
  if (!saved.is_floating_point()) {
    bias_act_bwd_signs_cuda(shape, dtype_of(gy), gy.const_data_ptr(), static_cast<const uint8_t*>(saved.const_data_ptr()), act_of(act), alpha_value, gain,
                            gx.mutable_data_ptr(), gbias.mutable_data_ptr<float>(), scratch.mutable_data_ptr<float>(), place.stream);
    return {gx, gbias, galpha};
  }
  bias_act_bwd_cuda(shape, dtype_of(gy), gy.const_data_ptr(), saved.const_data_ptr(), floats(bias), floats(alpha), act_of(act), alpha_value, gain,
                    or_nan(limit), from_y, gx.mutable_data_ptr(), gbias.mutable_data_ptr<float>(), alpha ? galpha.mutable_data_ptr<float>() : nullptr,
                    scratch.mutable_data_ptr<float>(), place.stream);
  return {gx, gbias, galpha};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("bias_act_fwd_native", &bias_act_fwd);
  m.impl("bias_act_fwd_native_", &bias_act_fwd_);
  m.impl("bias_act_bwd_native", &bias_act_bwd);
}

}  // namespace ganfast
