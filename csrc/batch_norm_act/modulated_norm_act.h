// Launch signatures of the norms whose affine comes from outside, and with a residual: raw device pointers, sizes, a stream.
//
// x, y, gy, gx and the tensors of x's shape: dense [n, c, l] of `dtype`, l the product of the spatial sizes; [n, l, c] if channels_last.
// Vectors are float32. Every image's channel is a column, n * c of them; vectors of [c] start again for every image.
#pragma once
#include "batch_norm_act.h"

namespace ganfast {

// z = ((x - mean) * invstd * weight + bias) * scale + shift, y = (f(z) + residual) * factor, or f(z + residual) * factor.
struct Modulation {
  const float *mean, *invstd;           // [statistics], c or n * c of them
  const float *weight, *bias, *alpha;   // [c]; null means 1, 0, alpha_value
  const float *scale, *shift;           // [n * c], or null
  const void *full_scale, *full_shift;  // of x's shape, or null
  const void* residual;                 // of x's shape, or null
  bool residual_first;
  int64_t statistics;
  Act act;
  float alpha_value, factor;
  bool full() const { return full_scale || residual || factor != 1; }
};

// Null where it is not wanted. gweight, gbias, galpha [c]; gscale, gshift [n * c]; full_gscale, full_gshift of x's shape, the latter also
// for a residual before the activation.
struct ModulationGradients {
  float *gweight, *gbias, *galpha, *gscale, *gshift;
  void *full_gscale, *full_gshift;
};

// Floats of scratch for the backward.
int64_t modulated_norm_act_scratch(const BatchNormShape& shape);

void batch_norm_act_modulated_fwd_cuda(const BatchNormShape& shape, Dtype dtype, const void* x, const Modulation& m, void* y, cudaStream_t stream);

// groups: of an image's channels that are normalised together, 0 where a channel of all images is. With g = gy * factor * f'(z), h = g *
// scale, xhat = (x - mean) * invstd: gx = weight * invstd * (h - mean of h - xhat * mean of h xhat), the means over what is normalised
// together and of what weight multiplies; without them unless `training`. Three passes: sums, what follows from them, gx.
void batch_norm_act_modulated_bwd_cuda(const BatchNormShape& shape, Dtype dtype, const void* gy, const void* x, const Modulation& m, int64_t groups, bool training, void* gx,
                                 const ModulationGradients& to, float* scratch, cudaStream_t stream);

}  // namespace ganfast
