#include "../common/cuda_bind.h"
#include "conv_transpose_act.h"

namespace ganfast {
namespace {

using Triple = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using MaybeTensor = std::optional<at::Tensor>;

Triple conv_transpose_act_fwd(const at::Tensor& x, const at::Tensor& weight, const MaybeTensor& bias, const MaybeTensor& alpha, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef output_padding, at::IntArrayRef dilation, int64_t groups, c10::string_view act,
                              double alpha_value, bool channels_last, bool save_z, bool partials, const MaybeTensor& residual, bool residual_first,
                              double factor, bool keep_signs) {
  const Place place(x);
  ConvTransposeShape s{x.size(0), x.size(1), weight.size(1) * groups, groups, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {1, 1, 1}, {}, {}, {}};
  const int64_t rank = x.dim() - 2;
  std::vector<int64_t> sizes{s.n, s.c_out};
  for (int64_t i = 0; i < rank; ++i) {
    const int64_t out = (x.size(2 + i) - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.size(2 + i) - 1) + output_padding[i] + 1, to = 3 - rank + i;
    sizes.push_back(out);
    s.in[to] = x.size(2 + i), s.out[to] = out, s.kernel[to] = weight.size(2 + i);
    s.stride[to] = stride[i], s.padding[to] = padding[i], s.dilation[to] = dilation[i];
  }
  at::Tensor y = new_like(x, sizes, channels_last);
  const at::Tensor like = keep_signs ? at::empty({0}, x.options().dtype(at::kBool)) : at::empty({0}, x.options());
  at::Tensor z = save_z || keep_signs ? new_like(like, sizes, channels_last) : like;
  const ConvTransposeAdded added{residual ? residual->const_data_ptr() : nullptr, residual_first, keep_signs, static_cast<float>(factor)};
  const auto fill = [&](const at::Tensor& t, int64_t* to) {
    to[0] = t.stride(0), to[1] = t.stride(1);
    for (int64_t i = 0; i < rank; ++i) to[5 - rank + i] = t.stride(2 + i);
  };
  fill(x, s.x_stride), fill(weight, s.w_stride), fill(y, s.y_stride);
  const ConvTransposeTiles tiles = conv_transpose_act_fwd_tiles(s);
  TORCH_CHECK(tiles.blocks <= kMaxGrid, "conv_transpose_act: an output of ", y.numel(), " elements needs ", tiles.blocks, " blocks; CUDA allows ", kMaxGrid);
  at::Tensor stats = partials ? new_floats(x, {tiles.partials, 3, s.c_out}) : new_floats(x, {0});
  conv_transpose_act_fwd_cuda(s, dtype_of(x), x.const_data_ptr(), weight.const_data_ptr(), floats(bias), floats(alpha), act_of(act), alpha_value,
                              added, y.mutable_data_ptr(), save_z || keep_signs ? z.mutable_data_ptr() : nullptr, partials ? stats.mutable_data_ptr<float>() : nullptr, place.stream);
  return {y, z, stats};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("conv_transpose_act_fwd_native", &conv_transpose_act_fwd);
}

}  // namespace ganfast
