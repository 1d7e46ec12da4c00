// Launch signatures of group_norm_act's CUDA kernels: raw device pointers, sizes, a stream.
//
// x, y, gy, gx: dense [n, c, l] of `dtype`, l the product of the spatial sizes; [n, l, c] if channels_last. Vectors are float32: weight,
// bias and alpha [c], scale and shift [n, c]. Null weight means 1, null bias 0, null scale no scale and no shift, null alpha: alpha_value
// everywhere and no galpha.
#pragma once
#include "../common/launch.h"

namespace ganfast {

struct GroupNormShape {
  int64_t n, c, l, groups;
  bool channels_last;
};

struct GroupNormVectors {
  const float *weight, *bias, *scale, *shift, *alpha;
  Act act;
  float alpha_value;
};

// A block of threads for each group, or several groups a block where they are small: what ops/group_norm_act/regime.py calls "block".

// y = act(xhat * weight + bias), times scale plus shift before act; mean and invstd [n, groups].
void group_norm_act_fwd_cuda(const GroupNormShape& shape, Dtype dtype, const void* x, const GroupNormVectors& v, float eps, void* y, float* mean, float* invstd,
                             cudaStream_t stream);

// gscale, gshift [n, c], null where there is no scale; the others [c], galpha null where there is no alpha.
struct GroupNormGradients {
  float *gweight, *gbias, *galpha, *gscale, *gshift;
};

int64_t group_norm_act_scratch(const GroupNormShape& shape);  // floats, for the backward

void group_norm_act_bwd_cuda(const GroupNormShape& shape, Dtype dtype, const void* gy, const void* x, const float* mean, const float* invstd, const GroupNormVectors& v,
                             void* gx, const GroupNormGradients& to, float* scratch, cudaStream_t stream);

// For groups in chunks: from the partials [chunks, 3, n * c] (n, mean, M2) of batch norm's statistics, every group's mean and invstd,
// [n * groups] and spread over the group's channels, [n * c].
void group_norm_act_merge_cuda(const GroupNormShape& shape, const float* partials, int64_t chunks, float eps, float* mean, float* invstd, float* mean_columns,
                               float* invstd_columns, cudaStream_t stream);

}  // namespace ganfast
