// gather_images: index, mirror, scale in one pass. A block has part of one image, so that what decides how it is read is uniform.
#include "gather_images.h"

namespace ganfast {
namespace {

inline constexpr int kThreads = 256;
inline constexpr int kBatch = 4;  // items a thread asks for before it uses any
// An item is 16 bytes of the result: each store instruction fills whole sectors, which threads that read 16 levels each could not.
template <class T> inline constexpr int kItem = 16 / sizeof(T);

// 1 / 127.5 in two parts. A level times the first is exact, so the sum of both products is the quotient, rounded right for all 256
// levels, whether or not the compiler fuses: a division's bits for a fraction of its instructions.
inline constexpr float kHigh = 257.0f / 32768, kLow = 0x1.010102p-23f;

int items_wide(const GatherImagesShape& s, int width) { return s.c * s.pixels % width == 0 ? width : 1; }

int64_t chunks(const GatherImagesShape& s, int width) {
  const int64_t elements = static_cast<int64_t>(kThreads) * kBatch * width;
  return (s.c * s.pixels + elements - 1) / elements;
}

// The levels of the result's elements e to e + kWidth of one image, which begins at `from`.
template <int kWidth> __device__ __forceinline__ Vec<uint8_t, kWidth> read_item(const GatherImagesShape& s, const uint8_t* from, uint32_t e, bool mirrored, bool vectors) {
  using Item = Vec<uint8_t, kWidth>;
  const uint32_t c = s.c, w = s.w, pixels = s.pixels;
  const bool same = s.from_last == s.to_last;
  Item item;
  if (same && !mirrored && vectors) return *reinterpret_cast<const Item*>(from + e);
  if (same && mirrored && vectors && !s.from_last && w % kWidth == 0) {  // the item that mirrors this one lies in the same row
    const Item reversed = *reinterpret_cast<const Item*>(from + (e + w - 2 * (e % w) - kWidth));
#pragma unroll
    for (int i = 0; i < kWidth; ++i) item.v[i] = reversed.v[kWidth - 1 - i];
    return item;
  }
  uint32_t channel = s.to_last ? e % c : e / pixels, pixel = s.to_last ? e / c : e % pixels, column = pixel % w;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const uint32_t source = mirrored ? pixel + w - 1 - 2 * column : pixel;
    item.v[i] = from[s.from_last ? source * c + channel : channel * pixels + source];
    if (s.to_last && ++channel < c) continue;
    if (s.to_last) channel = 0;
    if (++column == w) column = 0;
    if (++pixel == pixels) pixel = 0, ++channel;  // within an item only where the channels lie apart
  }
  return item;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) gather_images_fwd_kernel(GatherImagesShape s, uint32_t chunks, bool vectors, const uint8_t* images, const void* index,
                                                                     bool wide_index, const uint8_t* flip, T* y) {
  const int64_t b = blockIdx.x / chunks;  // both of 32 bits
  const int64_t at = wide_index ? static_cast<const int64_t*>(index)[b] : static_cast<const int32_t*>(index)[b];
  const bool inside = at >= 0 && at < s.count, mirrored = flip && flip[b];
  const uint32_t size = s.c * s.pixels, first = (blockIdx.x % chunks * (kThreads * kBatch) + threadIdx.x) * kWidth;
  const uint8_t* from = images + (inside ? at : 0) * size;
  T* to = y + b * size;
  const float low = inside ? kLow : NAN;  // outside, nothing is read and all becomes NaN
  Vec<uint8_t, kWidth> raw[kBatch] = {};
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const uint32_t e = first + i * kThreads * kWidth;
    if (inside && e < size) raw[i] = read_item<kWidth>(s, from, e, mirrored, vectors);
  }
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const uint32_t e = first + i * kThreads * kWidth;
    if (e >= size) continue;
    Vec<T, kWidth> item;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
      const float level = raw[i].v[k];
      item.v[k] = from_float<T>(level * kHigh + level * low - 1);
    }
    *reinterpret_cast<Vec<T, kWidth>*>(to + e) = item;
  }
}

}  // namespace

int64_t gather_images_fwd_blocks(const GatherImagesShape& s, Dtype dtype) {
  return s.batch * chunks(s, items_wide(s, dtype == Dtype::float32 ? kItem<float> : kItem<Half>));
}

void gather_images_fwd_cuda(const GatherImagesShape& s, Dtype dtype, const uint8_t* images, const void* index, bool wide_index, const uint8_t* flip, void* y,
                            cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    T* typed_y = static_cast<T*>(y);
    const int width = aligned(typed_y, kItem<T>) ? items_wide(s, kItem<T>) : 1;
    const bool vectors = aligned(images, width);
    auto kernel = width > 1 ? &gather_images_fwd_kernel<T, kItem<T>> : &gather_images_fwd_kernel<T, 1>;
    GANFAST_LAUNCH(kernel, s.batch * chunks(s, width), kThreads, stream, s, chunks(s, width), vectors, images, index, wide_index, flip, typed_y);
  });
}

}  // namespace ganfast
