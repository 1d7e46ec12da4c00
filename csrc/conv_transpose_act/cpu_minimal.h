// Winograd's minimal filtering for kernel 4, stride 2, padding 1: vectors, register tiles, the transforms in one dimension.
//
// A phase of the convolution is a 2-tap filter an axis. For 3 outputs from 4 inputs d, at the points 0, 1, -1, infinity:
//   y = out(in(d) * weights(g)):  y0 = d0 g0 + d1 g1, y1 = d1 g0 + d2 g1, y2 = d2 g0 + d3 g1    4 products instead of 6
// and for 2 outputs from 3 inputs the same without the point -1 (product 2): the same weights, 3 products instead of 4.
#pragma once
#include <algorithm>
#include <cstdint>

namespace ganfast::minimal {

#ifdef __AVX512F__
constexpr int kLanes = 16, kRows = 14;  // 28 accumulators of 32 registers
#else
constexpr int kLanes = 8, kRows = 6;  // 12 of 16
#endif
constexpr int kPanel = 2 * kLanes;  // output channels a register tile covers
constexpr int kDepth = 128;         // terms summed in a register before they are added to the others: short chains round less

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float Unaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t Lanes __attribute__((vector_size(kLanes * 4)));
inline Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }

// c [R, kPanel] (+)= a [R, depth], rows `a_row` apart, times b [depth, kPanel].
template <int R, bool kAdd> __attribute__((noinline)) void register_tile(int64_t depth, const float* a, int64_t a_row, const float* b, float* c) {
  Vec sum[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = Vec{};
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k, b += kPanel) {
    const Vec b0 = load(b), b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Vec left = Vec{} + a[r * a_row + k];
      sum[r][0] += left * b0, sum[r][1] += left * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      float* to = c + r * kPanel + half * kLanes;
      store(to, kAdd ? load(to) + sum[r][half] : sum[r][half]);
    }
}

template <bool kAdd, int R = kRows> void some_rows(int64_t rows, int64_t depth, const float* a, int64_t a_row, const float* b, float* c) {
  if constexpr (R > 1)
    if (rows < R) return some_rows<kAdd, R - 1>(rows, depth, a, a_row, b, c);
  register_tile<R, kAdd>(depth, a, a_row, b, c);
}

// c [rows, kPanel] = a [rows, depth] times b [depth, kPanel].
inline void product(int64_t rows, int64_t depth, const float* a, int64_t a_row, const float* b, float* c) {
  const int64_t tiles = (rows + kRows - 1) / kRows;
  for (int64_t k = 0; k < depth; k += kDepth)
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t from = rows * t / tiles, count = rows * (t + 1) / tiles - from, some = std::min<int64_t>(kDepth, depth - k);
      (k ? some_rows<true> : some_rows<false>)(count, some, a + from * a_row + k, a_row, b + k * kPanel, c + from * kPanel);
    }
}

// to[j][i] = from[i][j], kLanes by kLanes: each round interleaves row i with row i + kLanes/2.
inline void transpose(const float* from, int64_t from_row, float* to, int64_t to_row) {
#ifdef __clang__  // knows no shuffle by a vector
  for (int j = 0; j < kLanes; ++j)
    for (int i = 0; i < kLanes; ++i) to[j * to_row + i] = from[i * from_row + j];
#else
  Vec v[kLanes], u[kLanes];
  Lanes low{}, high{};
  for (int i = 0; i < kLanes; ++i) low[i] = i / 2 + i % 2 * kLanes, high[i] = low[i] + kLanes / 2;
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) v[i] = load(from + i * from_row);
#pragma GCC unroll 4
  for (int round = 1; round < kLanes; round *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      u[2 * i] = __builtin_shuffle(v[i], v[i + kLanes / 2], low);
      u[2 * i + 1] = __builtin_shuffle(v[i], v[i + kLanes / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) v[i] = u[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) store(to + i * to_row, v[i]);
#endif
}

// The products of an axis; those of a tile of 2 outputs leave out the third.
constexpr bool used(int outputs, int product) { return outputs == 3 || product % 3 != 2; }

template <int kOut> inline void in(const Vec* d, Vec* v) {
  if constexpr (kOut == 3) v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
  else v[0] = d[0] - d[1], v[1] = d[1] + d[1], v[3] = d[1] - d[2];
}
// Both phases of a transposed convolution, the second one pixel further on: its v[0] is the first's v[3]. So 7 inputs, phase p's
// product i from input 3 * p + i.
template <int kOut> inline void in_both(const Vec* d, Vec* v) {
  Vec second[4];
  in<kOut>(d, v), in<kOut>(d + 1, second);
  v[4] = second[1], v[6] = second[3];
  if constexpr (kOut == 3) v[5] = second[2];
}
inline void weights(Vec g0, Vec g1, Vec* u) {
  const Vec half0 = g0 * 0.5f, half1 = g1 * 0.5f;
  u[0] = g0, u[1] = half0 + half1, u[2] = half0 - half1, u[3] = g1;
}
template <int kOut> inline void out(const Vec* m, Vec* y) {
  if constexpr (kOut == 3) y[0] = m[0] + (m[1] + m[2]), y[1] = m[1] - m[2], y[2] = (m[1] + m[2]) - m[3];
  else y[0] = m[0] + m[1], y[1] = m[1] - m[3];
}

}  // namespace ganfast::minimal
