// Launch signatures of bias_act's CUDA kernels: raw device pointers, sizes, a stream.
//
// x, residual, y, gy, saved, gx: dense [n, c, l] of `dtype`, l the product of the spatial sizes; [n, l, c] if channels_last; signs the same
// in bytes. bias, alpha,
// gbias, galpha: float32 [c]. Null bias means 0; null alpha: alpha_value everywhere and no galpha.
#pragma once
#include "../common/launch.h"

namespace ganfast {

struct BiasActShape {
  int64_t n, c, l;
  bool channels_last;
};

// What a forward adds, and what else it writes; null: nothing.
struct BiasActAdded {
  const void* residual;
  bool first;  // to x + bias, else after the clamp
  float factor;
  uint8_t* signs;  // of a y without what is added after the clamp, rounded: 1 where act' is 1, else 0; kSignClamped where |y| reaches the clamp
};
inline constexpr uint8_t kSignClamped = 2;

// y = clamp(act(x + bias) * gain, -clamp, clamp), without the clamp where it is NaN; with a residual (that + residual) * factor or, first,
// that of x + bias + residual times the factor. y may be x.
void bias_act_fwd_cuda(const BiasActShape& shape, Dtype dtype, const void* x, const float* bias, const float* alpha, Act act, float alpha_value, float gain,
                       float clamp, const BiasActAdded& added, void* y, cudaStream_t stream);

// Floats of scratch for the backward.
int64_t bias_act_bwd_scratch(const BiasActShape& shape);

// With z = saved / gain if from_y (saved is y), else saved + bias (saved is x), and g = gy * gain, but 0 where |y| >= limit (nowhere if
// that is NaN): gx = g * act'(z); gbias = sum of gx before it is rounded; galpha = sum of g * df/dalpha(z).
void bias_act_bwd_cuda(const BiasActShape& shape, Dtype dtype, const void* gy, const void* saved, const float* bias, const float* alpha, Act act,
                       float alpha_value, float gain, float limit, bool from_y, void* gx, float* gbias, float* galpha, float* scratch, cudaStream_t stream);

// The same from the signs of a piecewise linear act: saved is bytes, and neither limit nor alpha counts.
void bias_act_bwd_signs_cuda(const BiasActShape& shape, Dtype dtype, const void* gy, const uint8_t* signs, Act act, float alpha_value, float gain, void* gx,
                             float* gbias, float* scratch, cudaStream_t stream);

}  // namespace ganfast
