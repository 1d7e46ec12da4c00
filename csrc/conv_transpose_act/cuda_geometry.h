// What every block of the forward computes: phases, tiles, and the host's choice of tile. Host and device.
//
// Outputs o = stride * q + r share phase r in every dimension, and with it the taps that reach them: k = k0 + j * stride / g,
// from input i0 + q - j * dilation / g, g = gcd(stride, dilation). So a phase is a dense convolution.
#pragma once
#include "conv_transpose_act.h"

namespace ganfast {

struct FwdPlan {
  ConvTransposeShape s;
  int c_in, c_out;  // of one group
  int gcd[3], phases[3];
  int64_t pixel_tiles, channel_tiles;  // of the largest phase; of all groups
  bool x_vectors, w_vectors;
};

// One dimension of one phase.
struct Phase {
  int r, taps, k0, k_step, i0, i_step, pixels;
};

// What a block computes. Kept in shared memory: read once a tap, it would cost two dozen registers all through the loop.
struct Work {
  Phase d, h, w;
  int64_t first_pixel, pixels, partial_row;
  int group, first_channel;  // the channel within the group
};

__device__ inline Phase phase_of(const FwdPlan& p, int dim, int r) {
  const ConvTransposeShape& s = p.s;
  const int stride = s.stride[dim], shifted = r + s.padding[dim];
  Phase f{r, 0, 0, stride / p.gcd[dim], 0, s.dilation[dim] / p.gcd[dim], (s.out[dim] - r + stride - 1) / stride};
  while (f.k0 < s.kernel[dim] && (shifted - s.dilation[dim] * f.k0) % stride != 0) ++f.k0;
  if (f.k0 < s.kernel[dim]) {
    f.taps = (s.kernel[dim] - f.k0 + f.k_step - 1) / f.k_step;
    f.i0 = (shifted - s.dilation[dim] * f.k0) / stride;
  }
  return f;
}

__device__ inline Work work_of(const FwdPlan& p, int64_t block, int tile_m, int tile_n) {
  const int64_t channel_tile = block % p.channel_tiles, tiles_a_group = p.channel_tiles / p.s.groups;
  Work work;
  work.partial_row = block / p.channel_tiles;
  int64_t rest = work.partial_row;  // phases of the same pixels are neighbours, so that L2 holds their x and completes their lines of y
  work.w = phase_of(p, 2, rest % p.phases[2]), rest /= p.phases[2];
  work.h = phase_of(p, 1, rest % p.phases[1]), rest /= p.phases[1];
  work.d = phase_of(p, 0, rest % p.phases[0]), rest /= p.phases[0];
  work.first_pixel = rest * tile_m;
  work.pixels = p.s.n * work.d.pixels * work.h.pixels * work.w.pixels;
  work.group = channel_tile / tiles_a_group;
  work.first_channel = channel_tile % tiles_a_group * tile_n;
  return work;
}

inline int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

inline constexpr int kLargeM = 128, kLargeN = 64, kSmallM = 64, kSmallN = 16;

// The large tile does 16 multiply-adds per shared load, the small one 4, but wastes less on few channels or pixels.
inline bool large_tiles(int64_t pixels, int64_t channels) { return pixels > kSmallM && channels > 2 * kSmallN; }

inline FwdPlan fwd_plan(const ConvTransposeShape& shape, bool* large) {
  FwdPlan p{shape, static_cast<int>(shape.c_in / shape.groups), static_cast<int>(shape.c_out / shape.groups), {}, {}, 0, 0, false, false};
  int64_t pixels = shape.n;
  for (int i = 0; i < 3; ++i) {
    // With one input each tap has an output of its own, whatever the stride: a stride past every tap makes that a phase each
    // (a generator's first layer then is a plain matrix product, with no multiplications by padding).
    const int64_t apart = shape.dilation[i] * (static_cast<int64_t>(shape.kernel[i]) + shape.padding[i] + shape.out[i]);
    if (shape.in[i] == 1 && apart <= kMaxGrid / 2) p.s.stride[i] = static_cast<int>(apart);
    p.gcd[i] = gcd(p.s.stride[i], p.s.dilation[i]);
    p.phases[i] = p.s.stride[i] < shape.out[i] ? p.s.stride[i] : shape.out[i];
    pixels *= (shape.out[i] + p.s.stride[i] - 1) / p.s.stride[i];
  }
  *large = large_tiles(pixels, p.c_out);
  const int tile_m = *large ? kLargeM : kSmallM, tile_n = *large ? kLargeN : kSmallN;
  p.pixel_tiles = (pixels + tile_m - 1) / tile_m;
  p.channel_tiles = shape.groups * ((p.c_out + tile_n - 1) / tile_n);
  return p;
}

// Whether runs of `elements` neighbours along dimension `dim` of a tensor can be read whole.
inline bool runs(const int64_t* stride, const int64_t* size, int dim, int64_t channels, int elements) {
  bool whole = stride[dim] == 1 && channels % elements == 0;
  for (int i = 0; i < 5; ++i) whole = whole && (i == dim || size[i] == 1 || stride[i] % elements == 0);
  return whole;
}

#ifdef GANFAST_KERNELS
// kCount elements `step` apart, the first `valid` of them inside the tensor.
template <class T, int kCount> __device__ __forceinline__ void load_run(const T* from, int64_t step, int valid, bool vectors, T (&to)[kCount]) {
  constexpr int kRun = kCount * sizeof(T) > 16 ? 16 / sizeof(T) : kCount;
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kCount; i += kRun) {
      Vec<T, kRun> run{};
      if (i < valid) run = *reinterpret_cast<const Vec<T, kRun>*>(from + i);
#pragma unroll
      for (int e = 0; e < kRun; ++e) to[i + e] = run.v[e];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = i < valid ? from[i * step] : T{};
  }
}
#endif

}  // namespace ganfast
