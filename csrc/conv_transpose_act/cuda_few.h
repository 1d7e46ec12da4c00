// What every block of the few-channel forward computes, and the host's choice of its tile. Host and device.
//
// A block takes tile_h * tile_w outputs of one image, all phases, and `channels` output channels. It multiplies every input
// pixel under them once by the weights of all taps ("columns": taps * channels float32 numbers a pixel, in shared memory), then
// every output adds up the columns of its taps. Input pixels go in chunks of 8 along a row, 8 chunks a warp.
#pragma once
#include "cuda_geometry.h"

namespace ganfast {

inline constexpr int kFewChannels = 8, kFewStride = 8;     // the most output channels of a group, the largest stride
inline constexpr int kFewWarps = 6;                        // most warps a block, so that two blocks share a multiprocessor
inline constexpr int kFewColumns = 48;                     // columns whose weights are staged at once
inline constexpr int kFewWeightBytes = 64 * kFewColumns * 4;  // of 64 input channels
inline constexpr int kFewSharedBytes = 96 * 1024;          // with the static part under the 99 KB of 8.6, 8.9 and 12.0
inline constexpr int kFewProcessors = 132;                 // an H100's; what the choice of tile balances

struct FewPlan {
  FwdPlan fwd;  // s, c_in, c_out, gcd; the rest is unused
  int channels, passes;               // output channels a block, blocks that share a group's
  int tile_h, tile_w, tiles_h, tiles_w;
  int pitch, shared_bytes, warps;     // of the columns: floats from one to the next
};

inline int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }

// The inputs [first, end) under outputs [from, to) of one dimension, empty or not.
struct Reach {
  int first, end;
};
GANFAST_HD Reach reach_of(const ConvTransposeShape& s, int dim, int from, int to) {
  const int low = from + s.padding[dim] - s.dilation[dim] * (s.kernel[dim] - 1), high = to - 1 + s.padding[dim];
  const int first = low > 0 ? (low + s.stride[dim] - 1) / s.stride[dim] : 0, end = high / s.stride[dim] + 1;
  return {first, end < s.in[dim] ? end : s.in[dim]};
}

// What a block computes: in shared memory, as the registers are needed.
struct FewWork {
  int64_t tile, image;                       // which of all tiles; its image
  int group, first_channel, channels;        // the first channel within the group
  int from_h, from_w, out_h, out_w;          // the first output, and how many
  Reach rows;                                // input rows
  int left, across, chunks;                  // the first chunk's column, chunks a row, chunks
};
__device__ inline void few_work(const FewPlan& p, int64_t block, FewWork& work) {
  const ConvTransposeShape& s = p.fwd.s;
  const int64_t parts = s.groups * p.passes, part = block % parts;
  work.tile = block / parts;
  work.image = work.tile / (static_cast<int64_t>(p.tiles_w) * p.tiles_h);
  work.group = part / p.passes, work.first_channel = part % p.passes * p.channels;
  work.channels = p.fwd.c_out - work.first_channel < p.channels ? p.fwd.c_out - work.first_channel : p.channels;
  work.from_h = work.tile / p.tiles_w % p.tiles_h * p.tile_h, work.from_w = work.tile % p.tiles_w * p.tile_w;
  work.out_h = s.out[1] - work.from_h < p.tile_h ? s.out[1] - work.from_h : p.tile_h;
  work.out_w = s.out[2] - work.from_w < p.tile_w ? s.out[2] - work.from_w : p.tile_w;
  work.rows = reach_of(s, 1, work.from_h, work.from_h + work.out_h);
  const Reach cells = reach_of(s, 2, work.from_w, work.from_w + work.out_w);
  work.left = cells.first / 8 * 8, work.across = cells.end > cells.first ? (cells.end - work.left + 7) / 8 : 0;
  work.chunks = work.rows.end > work.rows.first ? (work.rows.end - work.rows.first) * work.across : 0;
}

// The most inputs under `outputs` neighbours, and the most 8-pixel chunks that cover them where tiles start at multiples of 8.
inline int most_rows(const ConvTransposeShape& s, int dim, int outputs) {
  const int64_t most = (outputs - 1 + static_cast<int64_t>(s.dilation[dim]) * (s.kernel[dim] - 1)) / s.stride[dim] + 1;
  return static_cast<int>(most < s.in[dim] ? most : s.in[dim]);
}
inline int most_chunks(const ConvTransposeShape& s, int dim, int outputs) {
  const int64_t shift = ceil_div(s.padding[dim] - static_cast<int64_t>(s.dilation[dim]) * (s.kernel[dim] - 1), s.stride[dim]) % 8;
  const int64_t most = ((shift + 8) % 8 + (outputs - 1 + static_cast<int64_t>(s.dilation[dim]) * (s.kernel[dim] - 1)) / s.stride[dim] + 1 + 7) / 8;
  const int64_t all = (s.in[dim] + 7) / 8;
  return static_cast<int>(most < all ? most : all);
}

// Chooses among a few tiles the one with the least work on the busiest multiprocessor, counted in products of 64 pixels by 48
// columns; false where none fits, or where the few-channel kernel does not apply: see few_channels.
inline bool few_plan(const ConvTransposeShape& s, FewPlan* best, int processors = kFewProcessors) {
  const int c_in = static_cast<int>(s.c_in / s.groups), c_out = static_cast<int>(s.c_out / s.groups);
  if (c_out > kFewChannels || s.in[0] != 1 || s.out[0] != 1 || s.kernel[0] != 1 || s.in[1] * static_cast<int64_t>(s.in[2]) == 1) return false;
  if (s.stride[1] > kFewStride || s.stride[2] > kFewStride) return false;
  const int64_t taps = static_cast<int64_t>(s.kernel[1]) * s.kernel[2];
  int64_t least = 0;
  for (int passes = 1; passes <= c_out; ++passes) {
    const int channels = (c_out + passes - 1) / passes;
    if ((passes - 1) * channels >= c_out) continue;  // the last pass would be empty
    const int64_t columns = taps * channels, slices = (columns + kFewColumns - 1) / kFewColumns;
    for (int h : {1, 4, 8, 16})
      for (int w : {8, 32, 64}) {
        const int tile_h = h * s.stride[1], tile_w = w * s.stride[2];
        const int64_t chunks = static_cast<int64_t>(most_rows(s, 1, tile_h)) * most_chunks(s, 2, tile_w), groups = (chunks + 7) / 8;
        const int64_t pitch = (chunks * 8 + 15) / 16 * 16 + 4;  // 4 or 20 modulo 32: what keeps shared stores free of conflicts
        if (columns * pitch * 4 + kFewWeightBytes > kFewSharedBytes) continue;
        const int tiles_h = (s.out[1] + tile_h - 1) / tile_h, tiles_w = (s.out[2] + tile_w - 1) / tile_w;
        const int64_t blocks = s.n * tiles_h * tiles_w * s.groups * passes;
        const int64_t work = (blocks + processors - 1) / processors * (groups * slices + 1);
        if (least && work >= least) continue;
        least = work;
        *best = {{s, c_in, c_out, {1, gcd(s.stride[1], s.dilation[1]), gcd(s.stride[2], s.dilation[2])}, {}, 0, 0, false, false},
                 channels, passes, tile_h, tile_w, tiles_h, tiles_w, static_cast<int>(pitch),
                 static_cast<int>(columns * pitch * 4 + kFewWeightBytes), static_cast<int>(groups < kFewWarps ? groups : kFewWarps)};
      }
  }
  return least > 0;
}

inline ConvTransposeTiles few_tiles(const FewPlan& p) {
  const int64_t tiles = p.fwd.s.n * p.tiles_h * p.tiles_w;
  return {tiles * p.fwd.s.groups * p.passes, tiles};
}

void conv_transpose_act_fwd_few_cuda(FewPlan plan, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha, Act act,
                                     float alpha_value, const ConvTransposeAdded& added, void* y, void* z, float* partials, cudaStream_t stream);

// An output's end, from the convolution's value with its bias; gives y as it is stored.
template <class T>
__device__ __forceinline__ T finish_output(float value, int64_t at, Act act, float alpha, const ConvTransposeAdded& added, T* y, T* z) {
  const float other = added.residual ? to_float(static_cast<const T*>(added.residual)[at]) : 0;
  if (added.residual && added.first) value += other;
  if (z && !added.signs) z[at] = from_float<T>(value);
  with_act(act, [&](auto tag) { value = tag.fwd(value, alpha); });
  if (z && added.signs) {
    const float seen = to_float(from_float<T>(value));
    reinterpret_cast<uint8_t*>(z)[at] = act == Act::relu ? !(seen == 0) : seen > 0;  // relu's slope is 1 at NaN
  }
  if (added.residual) value = (added.first ? value : value + other) * added.factor;
  return y[at] = from_float<T>(value);
}

}  // namespace ganfast
