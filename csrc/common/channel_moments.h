// Statistics of a tensor's channels on a GPU, before they are merged: for norms that merge them over other sets than batch norm, whose
// kernel it is (batch_norm_act/cuda.cu).
#pragma once
#include "launch.h"

namespace ganfast {

// The moments (n, mean, M2) of parts of every image's channels, [chunks, 3, n * c], of x [n, c, l] or, channels_last, [n, l, c]. Gives
// chunks.
int64_t channel_moments_cuda(int64_t n, int64_t c, int64_t l, bool channels_last, Dtype dtype, const void* x, float* partials, cudaStream_t stream);

int64_t channel_moments_floats(int64_t n, int64_t c, int64_t l, bool channels_last);  // of partials

}  // namespace ganfast
