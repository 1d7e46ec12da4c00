// Launch signature of upfirdn's CUDA kernel: raw device pointers, sizes, a stream.
#pragma once
#include "../common/launch.h"

namespace ganfast {

// x [n, c, h, w] -> y [n, c, out_h, out_w], both as [n, h, w, c] where channels_last. Along a dimension result o is the sum over taps t of
// weight(t) * x[(o * down + t - before) / up], where that divides. separable: the filter is [taps_y], taps_x as many, for both dimensions,
// else [taps_y, taps_x]. flip: read as it is, else from its end.
struct UpfirdnShape {
  int64_t n, c, h, w, out_h, out_w;
  int taps_y, taps_x, up_y, up_x, down_y, down_x, before_y, before_x;
  bool separable, flip, channels_last;
};

// filter float32; x and y of `dtype`.
void upfirdn_fwd_cuda(const UpfirdnShape& shape, Dtype dtype, const void* x, const float* filter, float gain, void* y, cudaStream_t stream);

// Blocks of the launch; must not exceed kMaxGrid.
int64_t upfirdn_fwd_blocks(const UpfirdnShape& shape);

}  // namespace ganfast
