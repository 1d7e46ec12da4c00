// Count, mean and M2 of every channel, block by block in two passes while the block is in cache. The second pass also sums
// the deviations themselves: they correct the rounding of the first mean, which far from zero would spoil the merging.
#pragma once
#include "cpu_rows.h"

namespace ganfast {

inline constexpr int64_t kLanes = 32;

// The sum of the lanes, halved again and again: added one to the next they would wait for each other longer than a short run takes.
template <class A> A sum_of(A* lanes) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

// Sums term(i) over [0, count) in lanes: as an explicit array, because GCC leaves these reductions scalar otherwise.
template <class A, class Term> A sum_lanes(int64_t count, Term term) {
  A lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  A sum = 0;
  for (; i < count; ++i) sum += term(i);
  return sum + sum_of(lanes);
}

// Mean and M2 of a plane: deviations from a first mean and their squares, summed together. Of a short plane the first mean is that of its
// first values: with n values of which k give it, it lies within sqrt(n / k) deviations of the true one, and the squares lose n / k of
// their last bits at most.
template <class T> void plane_moments(const T* x, int64_t length, Acc<T>* mean, Acc<T>* m2) {
  using A = Acc<T>;
  const int64_t first = length <= 64 * kLanes ? std::min(length, kLanes) : length;
  const A center = sum_lanes<A>(first, [=](int64_t i) { return static_cast<A>(x[i]); }) / first;
  A rests[kLanes] = {}, squares[kLanes] = {}, rest = 0, square = 0;
  int64_t i = 0;
  for (; i + kLanes <= length; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      const A d = static_cast<A>(x[i + j]) - center;
      rests[j] += d, squares[j] += d * d;
    }
  for (; i < length; ++i) {
    const A d = static_cast<A>(x[i]) - center;
    rest += d, square += d * d;
  }
  rest += sum_of(rests), square += sum_of(squares);
  *mean = center + rest / length, *m2 = square - rest * rest / length;
}

// The same of up to kLanes planes, a lane each: for planes too short to fill lanes of their own.
template <class T> void short_planes(const T* x, int64_t length, int64_t planes, Acc<T>* count, Acc<T>* mean, Acc<T>* m2) {
  using A = Acc<T>;
  A center[kLanes] = {}, rest[kLanes] = {}, square[kLanes] = {};
  for (int64_t k = 0; k < length; ++k)
    for (int64_t j = 0; j < planes; ++j) center[j] += static_cast<A>(x[j * length + k]);
  for (int64_t j = 0; j < planes; ++j) center[j] /= length;
  for (int64_t k = 0; k < length; ++k)
    for (int64_t j = 0; j < planes; ++j) {
      const A d = static_cast<A>(x[j * length + k]) - center[j];
      rest[j] += d, square[j] += d * d;
    }
  for (int64_t j = 0; j < planes; ++j)
    mean[j] = center[j] + rest[j] / length, m2[j] = square[j] - rest[j] * rest[j] / length, count[j] = static_cast<A>(length);
}

// moments [3, C] of one block of x.
template <class T, bool kLast> void block_moments(const T* x, const Rows& rows, int64_t block, Acc<T>* moments) {
  using A = Acc<T>;
  A *mean = moments + rows.c, *m2 = moments + 2 * rows.c;
  if (!kLast && rows.p < kLanes) {
    const int64_t image = rows.partial(block), part = block % rows.channel_blocks(), end = rows.edge(part + 1);
    for (int64_t ch = rows.edge(part); ch < end; ch += kLanes)
      short_planes(x + (image * rows.c + ch) * rows.p, rows.p, std::min(kLanes, end - ch), moments + ch, mean + ch, m2 + ch);
    return;
  }
  int64_t count = 0;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    if constexpr (kLast) {
      ++count;
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) mean[i] += static_cast<A>(x[at + i]);
    } else {
      plane_moments<T>(x + at, length, mean + channel, m2 + channel);
      moments[channel] = static_cast<A>(length);
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
    for (int64_t i = 0; i < rows.c; ++i) {
      mean[i] += rest[i] / count, m2[i] -= rest[i] * rest[i] / count;
      moments[i] = static_cast<A>(count);
    }
  }
}

// Moments [tiles, 3, columns] merged to [3, channels] by Chan's rule in its two-pass form, in double and in order.
template <class A> std::vector<double> merge_moments(const A* all, int64_t tiles, int64_t columns, int64_t spread) {
  std::vector<double> count(columns, 0), mean(columns, 0), m2(columns, 0);
  const auto each_tile = [&](auto add) {
    for (int64_t t = 0; t < tiles; ++t) {
      const A *n = all + t * 3 * columns, *center = n + columns, *square = center + columns;
      for (int64_t i = 0; i < columns; ++i) add(i, static_cast<double>(n[i]), static_cast<double>(center[i]), static_cast<double>(square[i]));
    }
  };
  each_tile([&](int64_t i, double n, double center, double) { count[i] += n, mean[i] += n * center; });
  std::vector<double> merged = fold_columns(count, spread), sums = fold_columns(mean, spread);
  for (size_t c = 0; c < sums.size(); ++c) sums[c] /= merged[c];
  for (int64_t i = 0; i < columns; ++i) mean[i] = sums[i / spread];
  each_tile([&](int64_t i, double n, double center, double square) { m2[i] += square + n * (center - mean[i]) * (center - mean[i]); });
  const auto squares = fold_columns(m2, spread);
  merged.insert(merged.end(), sums.begin(), sums.end());
  merged.insert(merged.end(), squares.begin(), squares.end());
  return merged;
}

// [3, channels] of the whole tensor.
template <class T> std::vector<double> moments(const T* x, const Rows& rows) {
  using A = Acc<T>;
  const int64_t width = 3 * rows.c, each = rows.group_partials();
  std::vector<A> blocks(rows.groups * each * width, A(0));
  each_block(rows, [&](int64_t b) {
    A* into = blocks.data() + rows.partial(b) * width;
    rows.channels_last ? block_moments<T, true>(x, rows, b, into) : block_moments<T, false>(x, rows, b, into);
  });
  if (rows.groups == 1) return merge_moments<A>(blocks.data(), each, rows.c, rows.spread);
  std::vector<double> all(3 * rows.columns());
  for (int64_t g = 0; g < rows.groups; ++g) {
    const auto merged = merge_moments<A>(blocks.data() + g * each * width, each, rows.c, 1);
    for (int64_t t = 0; t < 3; ++t) std::copy_n(merged.begin() + t * rows.c, rows.c, all.begin() + t * rows.columns() + g * rows.c);
  }
  return all;
}

}  // namespace ganfast
