// CPU upfirdn, a row of the result at a time. Down the columns first: a weighted sum of rows of x, into a row of floats with zeros on both
// sides, which never leaves the first cache; then along it. Every loop runs over contiguous floats: of `down` phases that the row is dealt
// out to, one is read for each tap, and of the result every up-th value is made at a time.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include "../common/cpu_fir.h"

namespace ganfast {
namespace {

constexpr int64_t kVector = 16;  // channels that fill a vector

template <class A> void interleave(const A* even, const A* odd, int64_t count, A* to) {
  for (int64_t i = 0; i < count; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
}

// Rows of a plane [h, w], or, with channels, of an image [h, w, c].
template <class T> struct Run {
  using A = Acc<T>;
  const Line rows, columns;
  const Filter& filter;
  const int64_t channels, left;
  const bool planar;    // runs are values of one channel, a phase each; else they are the channels of a pixel, or whole rows
  const int64_t phase;  // values of a row of floats that each run holds
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

  void row(const T* x, int64_t o, T* y) {
    const int64_t width = columns.in * channels;
    parts.clear(), over.clear(), weights.clear();
    for (int64_t t = rows.first(o); t < rows.taps; t += rows.up) {
      const int64_t r = rows.source(o, t);
      if (r < 0 || r >= rows.in) continue;
      if (filter.separable()) {
        over.push_back(x + r * width), weights.push_back(static_cast<A>(filter.down[t]));
        continue;
      }
      auto& slot = kept[r % rows.taps];
      if (held[r % rows.taps] != r) {
        over.assign(1, x + r * width), weights.assign(1, A(1));
        spread(slot), held[r % rows.taps] = r;
      }
      parts.push_back({slot.data(), filter.full.data() + t * columns.taps});
    }
    if (filter.separable()) {
      spread(kept[0]);
      parts.push_back({kept[0].data(), filter.along.data()});
    }
    results(made.data());
    put<T>(made.data(), made_values(), y);
  }

  void forget() { std::fill(held.begin(), held.end(), -1); }
};

// x [N, C, L] or [N, C, H, W]; filter [taps], of 2-D x along both dimensions, or [h, w].
at::Tensor upfirdn_fwd_cpu(const at::Tensor& x, const at::Tensor& filter, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef before, at::IntArrayRef after,
                           bool flip, double gain, bool channels_last) {
  const bool flat = x.dim() == 3;
  const int64_t d = flat ? 0 : 1, n = x.size(0), c = x.size(1), along = filter.size(-1), over = flat ? 1 : filter.size(0);
  const auto result = [](int64_t in, int64_t up, int64_t down, int64_t pad, int64_t taps) { return (in * up + pad - taps) / down + 1; };
  const int64_t w = x.size(-1), h = flat ? 1 : x.size(2);
  const Line columns{w, result(w, up[d], down[d], before[d] + after[d], along), along, up[d], down[d], before[d]};
  const Line rows = flat ? Line{1, 1, 1, 1, 1, 0} : Line{h, result(h, up[0], down[0], before[0] + after[0], over), over, up[0], down[0], before[0]};
  auto size = x.sizes().vec();
  size.back() = columns.out;
  if (!flat) size[2] = rows.out;
  auto y = at::empty(size, x.options().memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  Filter weights = weights_of(filter, flip, gain);
  if (flat && weights.separable()) weights.down.assign(1, 1.0);
  const int64_t channels = channels_last ? c : 1, planes = channels_last ? n : n * c;
  const int64_t width = w * channels, made = columns.out * channels;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "upfirdn_fwd_cpu", [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    at::parallel_for(0, planes * rows.out, std::max<int64_t>(1, 32768 / std::max(width, made)), [&](int64_t begin, int64_t end) {
      Run<scalar_t> run(rows, columns, weights, channels);
      for (int64_t r = begin; r < end; ++r) {
        if (r % rows.out == 0) run.forget();
        run.row(from + r / rows.out * h * width, r % rows.out, to + r * made);
      }
    });
  });
  return y;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("upfirdn_fwd_native", upfirdn_fwd_cpu); }

}  // namespace
}  // namespace ganfast
