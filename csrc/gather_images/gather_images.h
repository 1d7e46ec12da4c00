// Launch signature of gather_images' CUDA kernel: raw device pointers, sizes, a stream.
#pragma once
#include "../common/launch.h"

namespace ganfast {

// batch images are asked for, count are there. An image has c channels of `pixels`, rows of w; c * pixels is at most 2^30. It lies as
// [c, pixels], as [pixels, c] where from_last; in the result where to_last.
struct GatherImagesShape {
  int64_t batch, count, c, w, pixels;
  bool from_last, to_last;
};

// y[b] = images[index[b]] / 127.5 - 1, with the columns reversed where flip[b]; NaN where index[b] is not in [0, count).
// images uint8 [count, image]; index [batch] of 64 bits if wide_index, else 32; flip [batch] bytes, or null; y [batch, image] of `dtype`.
void gather_images_fwd_cuda(const GatherImagesShape& shape, Dtype dtype, const uint8_t* images, const void* index, bool wide_index, const uint8_t* flip, void* y,
                            cudaStream_t stream);

// Blocks of the launch; must not exceed kMaxGrid.
int64_t gather_images_fwd_blocks(const GatherImagesShape& shape, Dtype dtype);

}  // namespace ganfast
