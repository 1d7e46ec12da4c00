// How a block shares groups: a team of threads owns one, and goes through it column by column.
#pragma once
#include "group_norm_act.h"
#include "../common/channel_grid.h"

#ifdef GANFAST_KERNELS
namespace ganfast {

inline constexpr int kGroupThreads = 256;

// An item is `vec` neighbours in memory. A column is a channel whose items lie along its pixels; or, where channels are neighbours
// (`across`: channels_last, or one pixel), `vec` channels with an item a pixel. `side` columns are gone through at once, each by
// team / side threads. The blocks of a group take `images` images each, their teams in turn.
struct GroupTiling {
  int64_t n, c, l, groups, width, columns, items, step, slices, images;
  bool across;
  int vec, team, side, parts;  // parts: sums of one column that are added in shared memory

  int teams() const { return kGroupThreads / team; }
  int64_t blocks() const { return slices * groups; }
  int64_t steps() const { return images / teams(); }
};

// slices: at most so many blocks a group.
inline GroupTiling group_tiling(const GroupNormShape& s, bool vectors, int64_t slices) {
  GroupTiling g{s.n, s.c, s.l, s.groups, s.c / s.groups, 0, 0, 0, 0, 0, s.channels_last || s.l == 1, 1, 32, 1, 1};
  if (vectors && (g.across ? g.width : g.l) % kVec == 0) g.vec = kVec;
  g.columns = g.across ? g.width / g.vec : g.width;
  g.items = g.across ? g.l : g.l / g.vec;
  g.step = g.across ? g.c : g.vec;
  while (g.team < kGroupThreads && g.team * 8 < g.width * g.l) g.team *= 2;
  if (g.across) {
    while (g.side < g.team && g.side < g.columns) g.side *= 2;
    g.parts = g.team / (g.side > 32 ? g.side : 32);
  } else {
    int along = 1;  // threads side by side in a channel: a line of memory, more where each has four items
    while (along < g.team && along < g.items && (along < 8 || along * 4 < g.items)) along *= 2;
    g.side = g.team / along;
    while (g.side > 1 && g.side / 2 >= g.columns) g.side /= 2;
    g.parts = g.team / g.side > 32 ? g.team / g.side / 32 : 1;
  }
  const int64_t most = (g.n + g.teams() - 1) / g.teams();
  if (slices > most) slices = most;
  g.images = ((g.n + slices - 1) / slices + g.teams() - 1) / g.teams() * g.teams();
  g.slices = (g.n + g.images - 1) / g.images;
  return g;
}

// One thread's place: its team, which column of those side by side it looks at, and its first item there.
struct GroupThread {
  int team, lane, slot, first, per;

  __device__ explicit GroupThread(const GroupTiling& g) : team(threadIdx.x / g.team), lane(threadIdx.x % g.team), per(g.team / g.side) {
    slot = g.across ? lane % g.side : lane / per;
    first = g.across ? lane / g.side : lane % per;
  }
};

// body(offset, values [input][slot]) for every item of the thread in one column that begins at `base`.
template <class T, int kInputs, int kBatch = kItemsAtOnce<T, kInputs>, class F>
__device__ __forceinline__ void for_column(const GroupTiling& g, const GroupThread& t, const T* const (&from)[kInputs], int64_t base, F body) {
  for (int64_t item = t.first; item < g.items; item += static_cast<int64_t>(t.per) * kBatch) {
    Vec<T, kVec> raw[kBatch][kInputs] = {};
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t at = item + b * t.per;
      if (at >= g.items) continue;
#pragma unroll
      for (int k = 0; k < kInputs; ++k) {
        const T* place = from[k] + base + at * g.step;
        if (g.vec == kVec) raw[b][k] = *reinterpret_cast<const Vec<T, kVec>*>(place);
        else raw[b][k].v[0] = *place;
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int64_t at = item + b * t.per;
      if (at >= g.items) continue;
      float values[kInputs][kVec];
#pragma unroll
      for (int i = 0; i < kInputs * kVec; ++i) values[i / kVec][i % kVec] = to_float(raw[b][i / kVec].v[i % kVec]);
      body(base + at * g.step, values);
    }
  }
}

// The first element of a column of a group of an image, and its first channel.
__device__ __forceinline__ int64_t column_channel(const GroupTiling& g, int64_t group, int64_t column) { return group * g.width + (g.across ? column * g.vec : column); }
__device__ __forceinline__ int64_t column_base(const GroupTiling& g, int64_t image, int64_t channel) { return image * g.c * g.l + (g.across ? channel : channel * g.l); }

// z = xhat * gain + shift for the slots of a column's items.
struct GroupColumn {
  float gain[kVec], shift[kVec], alpha[kVec];

  __device__ __forceinline__ GroupColumn(const GroupTiling& g, const GroupNormVectors& v, int64_t image, int64_t channel) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const int64_t k = channel + (g.across && i < g.vec ? i : 0);
      gain[i] = v.weight ? v.weight[k] : 1, shift[i] = v.bias ? v.bias[k] : 0, alpha[i] = v.alpha ? v.alpha[k] : v.alpha_value;
      if (!v.scale) continue;
      const float by = v.scale[image * g.c + k];
      gain[i] *= by, shift[i] = shift[i] * by + v.shift[image * g.c + k];
    }
  }
};

}  // namespace ganfast
#endif
