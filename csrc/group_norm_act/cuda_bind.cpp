#include "group_norm_act.h"

#include "../common/channel_moments.h"
#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

GroupNormShape shape_of(const at::Tensor& x, int64_t groups, bool channels_last) {
  return {x.size(0), x.size(1), x.numel() / (x.size(0) * x.size(1)), groups, channels_last};
}

GroupNormVectors vectors_of(const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& alpha,
                            c10::string_view act, double alpha_value) {
  return {floats(weight), floats(bias), floats(scale), floats(shift), floats(alpha), act_of(act), static_cast<float>(alpha_value)};
}

float* pointer(at::Tensor& t) { return t.numel() ? t.mutable_data_ptr<float>() : nullptr; }

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_stats(const at::Tensor& x, int64_t groups, double eps, bool channels_last) {
  const Place place(x);
  const GroupNormShape shape = shape_of(x, groups, channels_last);
  at::Tensor mean = new_floats(x, {shape.n * groups}), invstd = new_floats(x, {shape.n * groups});
  at::Tensor mean_columns = new_floats(x, {shape.n * shape.c}), invstd_columns = new_floats(x, {shape.n * shape.c});
  at::Tensor scratch = new_floats(x, {channel_moments_floats(shape.n, shape.c, shape.l, channels_last)});
  const int64_t chunks =
      channel_moments_cuda(shape.n, shape.c, shape.l, channels_last, dtype_of(x), x.const_data_ptr(), scratch.mutable_data_ptr<float>(), place.stream);
  group_norm_act_merge_cuda(shape, scratch.const_data_ptr<float>(), chunks, static_cast<float>(eps), pointer(mean), pointer(invstd), pointer(mean_columns),
                            pointer(invstd_columns), place.stream);
  return {mean, invstd, mean_columns, invstd_columns};
}

// with_slope is the CPU's wish: nothing is kept here, and the backward's slope not looked at.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_fwd(const at::Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
                                                                              const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& alpha, int64_t groups,
                                                                              double eps, c10::string_view act, double alpha_value, bool channels_last, bool) {
  const Place place(x);
  at::Tensor y = new_like(x, x.sizes(), channels_last), mean = new_floats(x, {x.size(0) * groups}), invstd = new_floats(x, {x.size(0) * groups});
  group_norm_act_fwd_cuda(shape_of(x, groups, channels_last), dtype_of(x), x.const_data_ptr(), vectors_of(weight, bias, scale, shift, alpha, act, alpha_value),
                          static_cast<float>(eps), y.mutable_data_ptr(), pointer(mean), pointer(invstd), place.stream);
  return {y, mean, invstd, at::empty({0}, x.options())};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> group_norm_act_bwd(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& scale,
    const MaybeTensor& shift, const MaybeTensor& alpha, const MaybeTensor&, int64_t groups, c10::string_view act, double alpha_value, bool channels_last) {
  const Place place(x);
  const GroupNormShape shape = shape_of(x, groups, channels_last);
  const int64_t columns = scale ? shape.n * shape.c : 0;
  at::Tensor gx = new_like(x, x.sizes(), channels_last), scratch = new_floats(x, {group_norm_act_scratch(shape)});
  at::Tensor gweight = new_floats(x, {shape.c}), gbias = new_floats(x, {shape.c}), galpha = new_floats(x, {alpha ? shape.c : 0});
  at::Tensor gscale = new_floats(x, {columns}), gshift = new_floats(x, {columns});
  group_norm_act_bwd_cuda(shape, dtype_of(x), gy.const_data_ptr(), x.const_data_ptr(), mean.const_data_ptr<float>(), invstd.const_data_ptr<float>(),
                          vectors_of(weight, bias, scale, shift, alpha, act, alpha_value), gx.mutable_data_ptr(),
                          {pointer(gweight), pointer(gbias), pointer(galpha), pointer(gscale), pointer(gshift)}, pointer(scratch), place.stream);
  return {gx, gweight, gbias, galpha, gscale, gshift};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("group_norm_act_stats_native", &group_norm_act_stats);
  m.impl("group_norm_act_fwd_native", &group_norm_act_fwd);
  m.impl("group_norm_act_bwd_native", &group_norm_act_bwd);
}

}  // namespace ganfast
