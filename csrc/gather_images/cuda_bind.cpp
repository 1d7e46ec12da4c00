#include "gather_images.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

at::Tensor gather_images_fwd(const at::Tensor& images, const at::Tensor& index, const std::optional<at::Tensor>& flip, at::ScalarType dtype, bool images_last,
                             bool channels_last) {
  const Place place(images);
  const GatherImagesShape shape{index.size(0), images.size(0), images.size(1), images.size(3), images.size(2) * images.size(3), images_last, channels_last};
  at::Tensor y = at::empty({shape.batch, shape.c, images.size(2), shape.w},
                           images.options().dtype(dtype).memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  const int64_t blocks = gather_images_fwd_blocks(shape, dtype_of(y));
  TORCH_CHECK(blocks <= kMaxGrid, "gather_images: a batch of ", shape.batch, " images needs ", blocks, " blocks; CUDA allows ", kMaxGrid);
  gather_images_fwd_cuda(shape, dtype_of(y), images.const_data_ptr<uint8_t>(), index.const_data_ptr(), index.scalar_type() == at::kLong,
                         flip ? static_cast<const uint8_t*>(flip->const_data_ptr()) : nullptr, y.mutable_data_ptr(), place.stream);
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) { m.impl("gather_images_fwd_native", &gather_images_fwd); }

}  // namespace ganfast
