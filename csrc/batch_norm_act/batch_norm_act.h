// Launch signatures of batch_norm_act's CUDA kernels: raw device pointers, sizes, a stream.
//
// x, y, gy, gx: dense [n, c, l] of `dtype`, l the product of the spatial sizes; [n, l, c] if channels_last. Every other
// vector is float32 [shape.channels()]. Null weight means 1, null bias 0, null alpha: alpha_value everywhere and no galpha.
#pragma once
#include "../common/launch.h"

namespace ganfast {

struct BatchNormShape {
  int64_t n, c, l;
  bool channels_last;
  bool per_image = false;  // statistics, vectors and sums [n, c] instead of [c]: instance norm
  int64_t channels() const { return per_image ? n * c : c; }
};

// Floats of scratch for the statistics and for the backward.
int64_t batch_norm_act_scratch(const BatchNormShape& shape);

// Mean and biased variance of every channel, by Welford's update within a thread and Chan's rule above it.
void batch_norm_act_stats_cuda(const BatchNormShape& shape, Dtype dtype, const void* x, float* mean, float* var, float* scratch, cudaStream_t stream);

// y = act((x - mean) * invstd * weight + bias).
void batch_norm_act_fwd_cuda(const BatchNormShape& shape, Dtype dtype, const void* x, const float* mean, const float* invstd, const float* weight,
                             const float* bias, const float* alpha, Act act, float alpha_value, void* y, cudaStream_t stream);

// With z recomputed from x, g = gy * f'(z), xhat = (x - mean) * invstd: gbias = sum g, gweight = sum g * xhat,
// galpha = sum gy * df/dalpha(z), gx = weight * invstd * (g - (gbias + xhat * gweight) / count), count the values of a channel;
// without the bracket's second half unless `training`.
void batch_norm_act_bwd_cuda(const BatchNormShape& shape, Dtype dtype, const void* gy, const void* x, const float* mean, const float* invstd,
                             const float* weight, const float* bias, const float* alpha, Act act, float alpha_value, bool training, void* gx,
                             float* gweight, float* gbias, float* galpha, float* scratch, cudaStream_t stream);

}  // namespace ganfast
