// How elementwise kernels with per-channel sums share a dense [n, c, l] tensor (or [n, l, c]) among blocks and threads.
#pragma once
#include "launch.h"

#ifdef GANFAST_KERNELS
namespace ganfast {

inline constexpr int kVec = 4;             // elements an item: 16 bytes of float32, 8 of the half types
inline constexpr int kChannelThreads = 256;
inline constexpr int64_t kMaxChunks = 256;  // so a finishing warp reads at most 8 partials a lane

// How blocks share a dense [n, c, l] tensor. An item is `width` neighbours; a column is what one thread keeps for its whole
// life: one channel where a channel's rows are contiguous, `width` channels where the channel is fastest. The result
// depends on nothing but the shape and the alignment, so sums repeat bit for bit.
struct ChannelGrid {
  int64_t n, c, l;  // c channels with sums of their own: of a tensor [n, c, l], or all of n images [1, c, l] if per_image
  bool channels_last;
  int width;  // kVec where every row and pointer is aligned, else 1
  int lanes;  // threads side by side along the channels: a power of two, at most 32
  int64_t columns, items, chunks, chunk_items;
  int64_t image;  // channels in an image: rows of it are that far apart where the channel is fastest

  int64_t blocks() const { return columns * chunks; }
  GANFAST_HD bool images() const { return channels_last && image < c; }  // what a Walk wants to know
};

// per_image: each image's channels are channels of their own, n * c of one image's pixels each. A thread keeps to its columns for
// life, so columns of several images in one block need nothing but their first addresses.
inline ChannelGrid channel_grid(int64_t n, int64_t c, int64_t l, bool channels_last, bool vectors, bool per_image = false) {
  ChannelGrid g{n, c, l, channels_last || l == 1, 1, 1, 0, 0, 0, 0, c};
  if (vectors && (g.channels_last ? c : l) % kVec == 0) g.width = kVec;
  if (per_image) g.c = c = n * c, g.n = n = 1;
  if (g.channels_last) {
    const int64_t across = c / g.width;
    while (g.lanes < 32 && g.lanes < across) g.lanes *= 2;
    g.columns = (across + g.lanes - 1) / g.lanes;
    g.items = n * l;
  } else {
    g.columns = c;
    g.items = n * (l / g.width);
  }
  const int64_t rows = kChannelThreads / g.lanes;
  const int64_t wanted = (4096 + g.columns - 1) / g.columns;       // so many that the last round of 132 multiprocessors weighs little
  const int64_t useful = (g.items + 4 * rows - 1) / (4 * rows);    // at least four items a thread
  g.chunks = wanted < useful ? wanted : useful;
  if (g.chunks > kMaxChunks) g.chunks = kMaxChunks;
  g.chunk_items = (g.items + g.chunks - 1) / g.chunks;
  return g;
}

// The most chunks the two alignments may need: what scratch is sized by.
inline int64_t max_chunks(int64_t n, int64_t c, int64_t l, bool channels_last, bool per_image = false) {
  const auto chunks = [&](bool vectors) { return channel_grid(n, c, l, channels_last, vectors, per_image).chunks; };
  return chunks(false) > chunks(true) ? chunks(false) : chunks(true);
}

// The items of one thread; for_items goes through them.
struct Walk {
  int64_t channel, chunk, item, end, outer, row, inner, row_step, inner_step, inner_size;
  int64_t base;
  int width, step;

  // images: as the grid's, and a constant, as the kernels for one tensor have no register to spare for the question.
  __device__ explicit Walk(const ChannelGrid& g, bool images = false) : width(g.width), step(kChannelThreads / g.lanes) {
    const int64_t column = blockIdx.x % g.columns;
    chunk = blockIdx.x / g.columns;
    channel = g.channels_last ? (column * g.lanes + threadIdx.x % g.lanes) * g.width : column;
    item = chunk * g.chunk_items + threadIdx.x / g.lanes;
    end = (chunk + 1) * g.chunk_items < g.items ? (chunk + 1) * g.chunk_items : g.items;
    if (channel >= g.c) end = 0;
    inner_size = g.channels_last ? 1 : g.l / g.width;
    outer = images ? g.image : g.channels_last ? g.c : g.c * g.l;
    base = g.channels_last ? channel : channel * g.l;
    if (images) base += channel / g.image * (g.image * (g.l - 1));  // an image before it has image * l elements, not image
    row = item / inner_size, inner = item % inner_size;
    row_step = step / inner_size, inner_step = step % inner_size;
  }
  __device__ bool more() const { return item < end; }
  __device__ int64_t offset() const { return base + row * outer + inner * width; }
  __device__ void next() {
    item += step;
    row += row_step, inner += inner_step;
    if (inner >= inner_size) inner -= inner_size, ++row;
  }
};

// A thread asks for several items before it uses any, 64 bytes (32 of one half-type tensor): the memory of an H100 or H200 wants some
// 40 KB a multiprocessor on their way.
template <class T, int kInputs> inline constexpr int kItemsAtOnce = kInputs * sizeof(T) <= 4 ? 4 : kInputs * sizeof(T) <= 10 ? 2 : 1;

// body(offset, values [input][slot]) for every item of the thread, read from kInputs tensors. kOptional: some may be null, and their
// values 0.
template <class T, int kInputs, bool kOptional = false, class F>
__device__ __forceinline__ void for_items(Walk& walk, const T* const (&from)[kInputs], F body) {
  constexpr int kBatch = kItemsAtOnce<T, kInputs>;
  while (walk.more()) {
    Vec<T, kVec> raw[kBatch][kInputs] = {};
    int64_t at[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      at[b] = walk.more() ? walk.offset() : -1;
#pragma unroll
      for (int k = 0; k < kInputs; ++k) {
        if (at[b] < 0 || (kOptional && !from[k])) continue;
        if (walk.width == kVec) raw[b][k] = *reinterpret_cast<const Vec<T, kVec>*>(from[k] + at[b]);
        else raw[b][k].v[0] = from[k][at[b]];
      }
      walk.next();
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (at[b] < 0) continue;
      float values[kInputs][kVec];
#pragma unroll
      for (int i = 0; i < kInputs * kVec; ++i) values[i / kVec][i % kVec] = to_float(raw[b][i / kVec].v[i % kVec]);
      body(at[b], values);
    }
  }
}

template <class T> __device__ __forceinline__ void store_item(T* to, int width, const float (&from)[kVec]) {
  Vec<T, kVec> item;
#pragma unroll
  for (int i = 0; i < kVec; ++i) item.v[i] = from_float<T>(from[i]);
  if (width == kVec) *reinterpret_cast<Vec<T, kVec>*>(to) = item;
  else *to = item.v[0];
}

// A per-channel vector's values for the slots of this thread's items; `value` where there is no vector.
__device__ __forceinline__ void load_channels(const ChannelGrid& g, int64_t channel, const float* from, float value, float (&to)[kVec]) {
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    const int64_t at = g.channels_last && i < g.width ? channel + i : channel;
    to[i] = from && at < g.c ? from[at] : value;
  }
}

// partials[chunk][q][channel] = the block's sum of slots sums[q], by a fixed tree. shared: kQ * kVec * kChannelThreads floats.
template <int kQ> __device__ __forceinline__ void write_channel_sums(const ChannelGrid& g, const Walk& walk, const float (&sums)[kQ][kVec], float* shared, float* partials) {
  const int t = threadIdx.x;
#pragma unroll
  for (int q = 0; q < kQ * kVec; ++q) shared[q * kChannelThreads + t] = sums[q / kVec][q % kVec];
  __syncthreads();
  for (int half = kChannelThreads / 2; half >= g.lanes; half /= 2) {
    if (t < half)
      for (int q = 0; q < kQ * kVec; ++q) shared[q * kChannelThreads + t] += shared[q * kChannelThreads + t + half];
    __syncthreads();
  }
  if (t >= g.lanes || walk.channel >= g.c) return;
  for (int q = 0; q < kQ; ++q) {
    float* to = partials + (walk.chunk * kQ + q) * g.c + walk.channel;
    const float* slots = shared + q * kVec * kChannelThreads + t;
    float sum = slots[0];
    for (int i = 1; i < g.width; ++i) {
      if (g.channels_last) to[i] = slots[i * kChannelThreads];
      else sum += slots[i * kChannelThreads];
    }
    *to = sum;
  }
}

// sums[q][channel] = partials [chunks, kQ, c] summed over the chunks, one warp a channel; null sums are skipped, and
// sums[1] is multiplied by scale1 [c] where given.
struct ChannelSums {
  float* to[3];
  const float* scale1;
};
inline constexpr int kFinishThreads = 128;
template <int kQ> __global__ void __launch_bounds__(kFinishThreads) channel_sums_kernel(const float* partials, int64_t chunks, int64_t c, ChannelSums sums) {
  const int64_t channel = blockIdx.x * static_cast<int64_t>(kFinishThreads / 32) + threadIdx.x / 32;
  if (channel >= c) return;
  for (int q = 0; q < kQ; ++q) {
    float sum = 0;
    for (int64_t chunk = threadIdx.x % 32; chunk < chunks; chunk += 32) sum += partials[(chunk * kQ + q) * c + channel];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0 && sums.to[q]) sums.to[q][channel] = q == 1 && sums.scale1 ? sum * sums.scale1[channel] : sum;
  }
}
inline int64_t finish_blocks(int64_t c) { return (c + kFinishThreads / 32 - 1) / (kFinishThreads / 32); }

}  // namespace ganfast
#endif
