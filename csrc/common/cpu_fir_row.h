// An upfirdn on a CPU, a row of the result at a time. Down the columns first: a weighted sum of rows of x, into a row of floats with zeros on
// both sides, which never leaves the first cache; then along it. Every loop runs over contiguous floats: of `down` phases that the row is
// dealt out to, one is read for each tap, and of the result every up-th value is made at a time.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu_rows.h"

namespace ganfast {

constexpr int64_t kVector = 16;  // channels that fill a vector

// Along one dimension: result o is the sum over taps t of weight(t) * x[(o * down + t - before) / up], where that divides.
struct Line {
  int64_t in, out, taps, up, down, before;

  int64_t first(int64_t o) const { return floor_mod(before - o * down, up); }  // tap
  int64_t source(int64_t o, int64_t t) const { return (o * down + t - before) / up; }
  // Zeros to the left and right of x that the result reads.
  int64_t left() const { return std::max<int64_t>(0, (before + up - 1) / up); }
  int64_t right() const { return std::max<int64_t>(0, ((out - 1) * down + taps - 1 - before) / up - (in - 1)); }
  static int64_t floor_mod(int64_t a, int64_t b) { return ((a % b) + b) % b; }
};

// to = sum of weights[k] * from[k], `length` values; four sources a pass over `to`.
template <class S, class A> void combine(const S* const* from, const A* weights, int64_t count, int64_t length, A* to) {
  if (count == 0) std::fill_n(to, length, A(0));
  for (int64_t k = 0; k < count; k += 4) {
    const int64_t there = std::min<int64_t>(4, count - k);
    const S *a = from[k], *b = from[k + (there > 1)], *c = from[k + 2 * (there > 2)], *d = from[k + 3 * (there > 3)];
    const A p = weights[k], q = there > 1 ? weights[k + 1] : 0, r = there > 2 ? weights[k + 2] : 0, s = there > 3 ? weights[k + 3] : 0;
    const auto pass = [&](auto used, auto adds) {
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        A sum = p * static_cast<A>(a[i]);
        if constexpr (used > 1) sum += q * static_cast<A>(b[i]);
        if constexpr (used > 2) sum += r * static_cast<A>(c[i]);
        if constexpr (used > 3) sum += s * static_cast<A>(d[i]);
        if constexpr (adds) to[i] += sum;
        else to[i] = sum;
      }
    };
    const auto sized = [&](auto adds) {
      switch (there) {
        case 1: return pass(std::integral_constant<int, 1>{}, adds);
        case 2: return pass(std::integral_constant<int, 2>{}, adds);
        case 3: return pass(std::integral_constant<int, 3>{}, adds);
        default: return pass(std::integral_constant<int, 4>{}, adds);
      }
    };
    k == 0 ? sized(std::false_type{}) : sized(std::true_type{});
  }
}

template <class T> void put(const Acc<T>* from, int64_t count, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = narrow<T>(from[i]);
}

template <class A> void interleave(const A* even, const A* odd, int64_t count, A* to) {
  for (int64_t i = 0; i < count; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
}

struct Filter {
  std::vector<double> down, along;  // separable: weights of both dimensions, in the order in which taps are met
  std::vector<double> full;         // else [taps down, taps along]
  bool separable() const { return full.empty(); }
};

// Rows of a plane [h, w], or, with channels, of an image [h, w, c].
template <class T> struct Run {
  using A = Acc<T>;
  const Line rows, columns;
  const Filter& filter;
  const int64_t channels, left;
  const bool planar;    // runs are values of one channel, a phase each; else they are the channels of a pixel, or whole rows
  const int64_t phase;  // values of a row of floats that each run holds
  A bias = 0;           // added to every value of x, of one channel
  // Rows of floats with zeros at both ends, dealt out to phases and channels: of a separable filter the row that it goes along, else rows
  // of x, by their number modulo the taps.
  std::vector<std::vector<A>> kept;
  std::vector<int64_t> held;
  std::vector<A> floats, sums, made, weights;
  std::vector<const T*> over;
  std::vector<const A*> sources;
  struct Part {
    const A* row;
    const double* along;
  };
  std::vector<Part> parts;
  // For every residue of a column by `up`: where in a row of floats its values begin, tap by tap.
  std::vector<std::vector<std::pair<int64_t, int64_t>>> begins;

  Run(const Line& rows, const Line& columns, const Filter& filter, int64_t channels)
      : rows(rows), columns(columns), filter(filter), channels(channels), left(columns.left()),
        planar(channels == 1 || (channels < kVector && (columns.up > 1 || columns.down > 1))), phase((left + columns.in + columns.right()) / columns.down + 1),
        kept(filter.separable() ? 1 : rows.taps), held(kept.size(), -1), floats((phase + 1) * columns.down * channels, A(0)), sums(made_values() + columns.up),
        made(made_values()), begins(std::min(columns.up, columns.out)) {
    for (auto& row : kept) row.assign(floats.size(), A(0));
    for (size_t q = 0; q < begins.size(); ++q)
      for (int64_t t = columns.first(q); t < columns.taps; t += columns.up) begins[q].push_back({place(left + columns.source(q, t)), t});
  }

  int64_t made_values() const { return columns.out * channels; }
  bool deals() const { return planar && (columns.down > 1 || channels > 1); }

  // In a row of floats: a column, counted from the left of the zeros, and every down-th after it; channels follow after `phase` values.
  int64_t place(int64_t column) const {
    return deals() ? column % columns.down * channels * phase + column / columns.down : column * channels;
  }

  // sum of weights * rows of x as one row of floats.
  void spread(std::vector<A>& to) {
    auto& row = deals() ? floats : to;
    combine(over.data(), weights.data(), over.size(), columns.in * channels, row.data() + left * channels);
    if (bias != 0) {
      A added = 0;
      for (const A weight : weights) added += weight * bias;
      for (int64_t i = left; i < left + columns.in; ++i) row[i] += added;
    }
    if (!deals()) return;
    const int64_t runs = columns.down * channels;
    for (int64_t p = 0; p < runs; ++p)
      for (int64_t i = 0; i < phase; ++i) to[p * phase + i] = floats[i * runs + p];
  }

  // The parts' sums for column q and every up-th after it; `ahead`: values further on in every row of floats.
  void sum(int64_t q, int64_t ahead, int64_t length, A* into) {
    sources.clear(), weights.clear();
    for (const auto& part : parts)
      for (const auto& [begin, t] : begins[q]) sources.push_back(part.row + begin + ahead), weights.push_back(static_cast<A>(part.along[t]));
    combine(sources.data(), weights.data(), sources.size(), length, into);
  }

  void results(A* to) {
    const int64_t up = columns.up, most = (columns.out + up - 1) / up;
    if (!planar) {
      if (up == 1 && columns.down == 1) return sum(0, 0, made_values(), to);
      for (int64_t o = 0; o < columns.out; ++o) sum(o % up, o / up * columns.down * channels, channels, to + o * channels);
      return;
    }
    if (up == 1 && channels == 1) return sum(0, 0, columns.out, to);
    for (int64_t ch = 0; ch < channels; ++ch) {
      if (up == 2 && channels == 1 && columns.out % 2 == 0) {
        sum(0, 0, most, sums.data()), sum(1, 0, most, sums.data() + most);
        interleave(sums.data(), sums.data() + most, most, to);
        continue;
      }
      for (size_t q = 0; q < begins.size(); ++q) {
        const int64_t count = (columns.out - static_cast<int64_t>(q) + up - 1) / up;
        sum(q, ch * phase, count, sums.data());
        for (int64_t i = 0; i < count; ++i) to[(static_cast<int64_t>(q) + up * i) * channels + ch] = sums[i];
      }
    }
  }

  // Row o of the result, as floats; source(r): row r of x.
  template <class Source> void compute(Source source, int64_t o, A* to) {
    parts.clear(), over.clear(), weights.clear();
    for (int64_t t = rows.first(o); t < rows.taps; t += rows.up) {
      const int64_t r = rows.source(o, t);
      if (r < 0 || r >= rows.in) continue;
      if (filter.separable()) {
        over.push_back(source(r)), weights.push_back(static_cast<A>(filter.down[t]));
        continue;
      }
      auto& slot = kept[r % rows.taps];
      if (held[r % rows.taps] != r) {
        over.assign(1, source(r)), weights.assign(1, A(1));
        spread(slot), held[r % rows.taps] = r;
      }
      parts.push_back({slot.data(), filter.full.data() + t * columns.taps});
    }
    if (filter.separable()) {
      spread(kept[0]);
      parts.push_back({kept[0].data(), filter.along.data()});
    }
    results(to);
  }

  void row(const T* x, int64_t o, T* y) {
    const int64_t width = columns.in * channels;
    compute([&](int64_t r) { return x + r * width; }, o, made.data());
    put<T>(made.data(), made_values(), y);
  }

  void forget() { std::fill(held.begin(), held.end(), -1); }
};

inline Filter weights_of(const at::Tensor& filter, bool flip, double gain) {
  const auto dense = filter.to(at::kDouble).contiguous();
  const double* values = dense.const_data_ptr<double>();
  std::vector<double> all(values, values + dense.numel());
  if (!flip) std::reverse(all.begin(), all.end());
  if (filter.dim() == 2) {
    for (auto& v : all) v *= gain;
    return {{}, {}, all};
  }
  auto along = all;
  for (auto& v : along) v *= gain;
  return {all, along, {}};
}

}  // namespace ganfast
