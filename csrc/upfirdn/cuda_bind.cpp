#include "upfirdn.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

// x [N, C, H, W], filter float32, [taps] of both dimensions or [h, w]. 1-D x, and long separable filters, come one dimension at a time.
at::Tensor upfirdn_fwd(const at::Tensor& x, const at::Tensor& filter, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef before, at::IntArrayRef after,
                       bool flip, double gain, bool channels_last) {
  const Place place(x);
  const bool separable = filter.dim() == 1;
  const int taps[2] = {static_cast<int>(filter.size(0)), static_cast<int>(filter.size(separable ? 0 : 1))};
  int64_t out[2];
  for (int d = 0; d < 2; ++d) out[d] = (x.size(2 + d) * up[d] + before[d] + after[d] - taps[d]) / down[d] + 1;
  const auto as_int = [](int64_t v) { return static_cast<int>(v); };
  const UpfirdnShape shape{x.size(0), x.size(1), x.size(2), x.size(3), out[0], out[1], taps[0], taps[1], as_int(up[0]), as_int(up[1]),
                           as_int(down[0]), as_int(down[1]), as_int(before[0]), as_int(before[1]), separable, flip, channels_last};
  at::Tensor y = new_like(x, {shape.n, shape.c, shape.out_h, shape.out_w}, channels_last);
  const int64_t blocks = upfirdn_fwd_blocks(shape);
  TORCH_CHECK(blocks <= kMaxGrid, "upfirdn: y of shape ", y.sizes(), " needs ", blocks, " blocks; CUDA allows ", kMaxGrid);
  upfirdn_fwd_cuda(shape, dtype_of(x), x.const_data_ptr(), filter.const_data_ptr<float>(), gain, y.mutable_data_ptr(), place.stream);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) { m.impl("upfirdn_fwd_native", &upfirdn_fwd); }

}  // namespace ganfast
