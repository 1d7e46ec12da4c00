#include "batch_norm_act.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

BatchNormShape shape_of(const at::Tensor& x, bool channels_last, bool per_image) {
  return {x.size(0), x.size(1), x.numel() / (x.size(0) * x.size(1)), channels_last, per_image};
}
// One mean for each image and channel?
BatchNormShape shape_of(const at::Tensor& x, bool channels_last, const at::Tensor& mean) { return shape_of(x, channels_last, mean.numel() > x.size(1)); }

std::tuple<at::Tensor, at::Tensor> batch_norm_act_stats(const at::Tensor& x, bool per_image, bool channels_last) {
  const Place place(x);
  const BatchNormShape shape = shape_of(x, channels_last, per_image);
  const int64_t c = shape.channels();
  at::Tensor mean = new_floats(x, {c}), var = new_floats(x, {c}), scratch = new_floats(x, {batch_norm_act_scratch(shape)});
  batch_norm_act_stats_cuda(shape, dtype_of(x), x.const_data_ptr(), mean.mutable_data_ptr<float>(), var.mutable_data_ptr<float>(),
                            scratch.mutable_data_ptr<float>(), place.stream);
  return {mean, var};
}

at::Tensor batch_norm_act_fwd(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
                              const MaybeTensor& alpha, c10::string_view act, double alpha_value, bool channels_last) {
  const Place place(x);
  at::Tensor y = new_like(x, x.sizes(), channels_last);
  batch_norm_act_fwd_cuda(shape_of(x, channels_last, mean), dtype_of(x), x.const_data_ptr(), mean.const_data_ptr<float>(), invstd.const_data_ptr<float>(),
                          floats(weight), floats(bias), floats(alpha), act_of(act), alpha_value, y.mutable_data_ptr(), place.stream);
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_act_bwd(const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean,
                                                                              const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
                                                                              const MaybeTensor& alpha, c10::string_view act, double alpha_value, bool training,
                                                                              bool channels_last) {
  const Place place(x);
  const BatchNormShape shape = shape_of(x, channels_last, mean);
  const int64_t c = shape.channels();
  at::Tensor gx = new_like(x, x.sizes(), channels_last), gweight = new_floats(x, {c}), gbias = new_floats(x, {c});
  at::Tensor galpha = new_floats(x, {alpha ? c : 0}), scratch = new_floats(x, {batch_norm_act_scratch(shape)});
  batch_norm_act_bwd_cuda(shape, dtype_of(x), gy.const_data_ptr(), x.const_data_ptr(), mean.const_data_ptr<float>(), invstd.const_data_ptr<float>(),
                          floats(weight), floats(bias), floats(alpha), act_of(act), alpha_value, training, gx.mutable_data_ptr(),
                          gweight.mutable_data_ptr<float>(), gbias.mutable_data_ptr<float>(), alpha ? galpha.mutable_data_ptr<float>() : nullptr,
                          scratch.mutable_data_ptr<float>(), place.stream);
  return {gx, gweight, gbias, galpha};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("batch_norm_act_stats_native", &batch_norm_act_stats);
  m.impl("batch_norm_act_fwd_native", &batch_norm_act_fwd);
  m.impl("batch_norm_act_bwd_native", &batch_norm_act_bwd);
}

}  // namespace ganfast
