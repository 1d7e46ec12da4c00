// Launch signatures of conv_transpose_act's CUDA kernels: raw device pointers, sizes, a stream.
#pragma once
#include "../common/launch.h"

namespace ganfast {

// Always three spatial dimensions; a missing leading one has in = out = kernel = stride = dilation = 1, padding = 0.
// Strides count elements and may be anything that stays inside the tensor; y_stride serves z too.
struct ConvTransposeShape {
  int64_t n, c_in, c_out, groups;
  int in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
  int64_t x_stride[5];  // n, c_in, d, h, w
  int64_t w_stride[5];  // c_in, c_out / groups, kd, kh, kw
  int64_t y_stride[5];  // n, c_out, d, h, w
};

// How many blocks the forward starts, and the T of partials [T, 3, c_out]; `blocks` must not exceed kMaxGrid.
struct ConvTransposeTiles {
  int64_t blocks, partials;
};
ConvTransposeTiles conv_transpose_act_fwd_tiles(const ConvTransposeShape& shape);

// Whether the forward takes the kernel for few output channels (cuda_few.cu): 1-D or 2-D, up to 8 output channels of a group, more
// than one input pixel, strides up to 8, and a tile's products fit in 96 KB of shared memory. Else the general one (cuda.cu).
bool conv_transpose_act_few_channels(const ConvTransposeShape& shape);

// What is added to an output, null for nothing, and what z is.
struct ConvTransposeAdded {
  const void* residual;  // [n, c_out, d, h, w] by y_stride, of x's dtype
  bool first;            // added before the activation, else after it
  bool signs;            // z is bytes: 1 where act' is 1, else 0, of a piecewise linear act without what is added after it
  float factor;          // of the sum
};

// y = act(conv_transpose(x, weight) + bias), or (that + residual) * factor, or act(... + residual) * factor.
//   x        [n, c_in, d, h, w] by x_stride       weight   [c_in, c_out / groups, kd, kh, kw] by w_stride
//   y, z     [n, c_out, d, h, w] by y_stride, of x's dtype; z, the value before act, or signs, may be null
//   bias     float32 [c_out] or null              alpha    float32 [c_out], or null: alpha_value everywhere
//   partials float32 [T, 3, c_out] or null: per tile and channel (n, mean, M2) of y as stored
void conv_transpose_act_fwd_cuda(const ConvTransposeShape& shape, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha,
                                 Act act, float alpha_value, const ConvTransposeAdded& added, void* y, void* z, float* partials, cudaStream_t stream);

}  // namespace ganfast
