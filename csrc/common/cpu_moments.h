// Count, mean and M2 of every channel, block by block in two passes while the block is in cache. The second pass also sums
// the deviations themselves: they correct the rounding of the first mean, which far from zero would spoil the merging.
#pragma once
#include "cpu_rows.h"

namespace ganfast {

// Sums term(i) over [0, count) in 32 lanes: as an explicit array, because GCC leaves these reductions scalar otherwise.
template <class A, class Term> A sum_lanes(int64_t count, Term term) {
  constexpr int64_t kLanes = 32;
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  A sum = 0;
  for (; i < count; ++i) sum += term(i);
  for (int64_t j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

// moments [3, C] of one block of x.
template <class T, bool kLast> void block_moments(const T* x, const Rows& rows, int64_t block, Acc<T>* moments) {
  using A = Acc<T>;
  A *mean = moments + rows.c, *m2 = moments + 2 * rows.c;
  int64_t count = 0;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    if constexpr (kLast) {
      ++count;
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) mean[i] += static_cast<A>(x[at + i]);
    } else {
      const T* plane = x + at;
      const A center = sum_lanes<A>(length, [=](int64_t i) { return static_cast<A>(plane[i]); }) / length;
      const A rest = sum_lanes<A>(length, [=](int64_t i) { return static_cast<A>(plane[i]) - center; });
      const A square = sum_lanes<A>(length, [=](int64_t i) { return (static_cast<A>(plane[i]) - center) * (static_cast<A>(plane[i]) - center); });
      mean[channel] = center + rest / length, m2[channel] = square - rest * rest / length;
      count = length;
    }
  });
  if constexpr (kLast) {
    A* rest = moments;  // the counts' place, until they are written
    for (int64_t i = 0; i < rows.c; ++i) mean[i] /= count;
    visit_block<true>(rows, block, [&](int64_t at, int64_t length, int64_t) {
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const A d = static_cast<A>(x[at + i]) - mean[i];
        rest[i] += d, m2[i] += d * d;
      }
    });
    for (int64_t i = 0; i < rows.c; ++i) mean[i] += rest[i] / count, m2[i] -= rest[i] * rest[i] / count;
  }
  for (int64_t i = 0; i < rows.c; ++i) moments[i] = static_cast<A>(count);
}

// [1, 3, C] of the whole tensor: the blocks merged by Chan's rule, in double and in order.
template <class T> at::Tensor moments(const T* x, const Rows& rows, at::TensorOptions options) {
  using A = Acc<T>;
  const int64_t c = rows.c;
  std::vector<A> blocks(rows.blocks() * 3 * c, A(0));
  each_block(rows, [&](int64_t b) {
    A* into = blocks.data() + b * 3 * c;
    rows.channels_last ? block_moments<T, true>(x, rows, b, into) : block_moments<T, false>(x, rows, b, into);
  });
  std::vector<double> count(c, 0), mean(c, 0), m2(c, 0);
  for (const A* m = blocks.data(); m != blocks.data() + blocks.size(); m += 3 * c)
    for (int64_t i = 0; i < c; ++i) {
      const double total = count[i] + m[i], delta = m[c + i] - mean[i];
      mean[i] += delta * m[i] / total;
      m2[i] += m[2 * c + i] + delta * delta * count[i] * m[i] / total;
      count[i] = total;
    }
  auto out = at::empty({1, 3, c}, options.dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt));
  A* data = out.template data_ptr<A>();
  for (int64_t i = 0; i < c; ++i) data[i] = count[i], data[c + i] = mean[i], data[2 * c + i] = m2[i];
  return out;
}

}  // namespace ganfast
