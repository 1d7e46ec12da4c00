// filtered_act over planes [N, C, H, W], sixteen at a time, which lie side by side in a vector: every tap of either filter is one product of
// vectors, whatever the width. Rows of the upsampled x are made one after the other, activated, and kept for as long as the second filter
// reads them, which is as many rows as it has taps.
#include "../common/wide_vectors.h"

#include "../common/cpu_fir.h"
#include "cpu_middle.h"

namespace ganfast {
namespace {

constexpr int kLanes = 16;

// Anywhere in memory. Members, as a template's argument would lose the attributes.
template <class A> struct LanesOf;
template <> struct LanesOf<float> {
  typedef float type __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
};
template <> struct LanesOf<double> {
  typedef double type __attribute__((vector_size(8 * kLanes), aligned(8), may_alias));
};

struct Both {
  Line rows, columns;
};

Both adjoint(const Both& b) {
  const auto line = [](const Line& l) { return Line{l.out, l.in, l.taps, l.down, l.up, l.taps - l.before - 1}; };
  return {line(b.rows), line(b.columns)};
}

// From x of a size to the upsampled, and on to y.
Both up_map(const FilteredAct& f, int64_t h, int64_t w) {
  const auto line = [&](int64_t d, int64_t in, int64_t taps) {
    return Line{in, in * f.up[d] + f.before[d] + f.after[d] - taps + 1, taps, f.up[d], 1, f.before[d]};
  };
  return {line(0, h, f.up_filter.size(0)), line(1, w, f.up_filter.size(-1))};
}

Both down_map(const FilteredAct& f, const Both& up) {
  const auto line = [&](int64_t d, int64_t in, int64_t taps) { return Line{in, (in - taps) / f.down[d] + 1, taps, 1, f.down[d], 0}; };
  return {line(0, up.rows.out, f.down_filter.size(0)), line(1, up.columns.out, f.down_filter.size(-1))};
}

Filter turned(Filter f) {
  for (auto* part : {&f.down, &f.along, &f.full}) std::reverse(part->begin(), part->end());
  return f;
}

// One resampling: for every column of the result what it reads of a row, and the weights, those of each residue of a tap by `up` together.
template <class A> struct Resampling {
  struct Span {
    int64_t source, weight, count;
  };
  const Both map;
  const bool separable;
  std::vector<A> down, along;  // along: of a filter that is not separable one row behind the other
  std::vector<Span> spans;
  std::vector<A> tall;  // a row of the source's width

  Resampling(const Both& map, const Filter& f) : map(map), separable(f.separable()), down(f.down.begin(), f.down.end()), tall(map.columns.in * kLanes) {
    const Line& c = map.columns;
    const auto& all = separable ? f.along : f.full;
    for (size_t row = 0; row < all.size(); row += c.taps)
      for (int64_t residue = 0; residue < c.up; ++residue)
        for (int64_t t = residue; t < c.taps; t += c.up) along.push_back(static_cast<A>(all[row + t]));
    std::vector<int64_t> begins(c.up, 0);
    for (int64_t q = 1; q < c.up; ++q) begins[q] = begins[q - 1] + (c.taps - q + c.up) / c.up;
    for (int64_t o = 0; o < c.out; ++o) {
      const int64_t t = c.first(o), there = t < c.taps ? (c.taps - t + c.up - 1) / c.up : 0, source = c.source(o, t);
      const int64_t skip = std::clamp<int64_t>(-source, 0, there), end = std::clamp<int64_t>(c.in - source, skip, there);
      spans.push_back({source + skip, begins[t] + skip, end - skip});
    }
  }

  void horizontal(const A* weights, const A* row, bool adds, A* to) const {
    using Lanes = typename LanesOf<A>::type;
    for (const Span& s : spans) {
      Lanes sum = adds ? *reinterpret_cast<const Lanes*>(to) : Lanes{};
      const A *w = weights + s.weight, *x = row + s.source * kLanes;
      for (int64_t k = 0; k < s.count; ++k) sum += w[k] * *reinterpret_cast<const Lanes*>(x + k * kLanes);
      *reinterpret_cast<Lanes*>(to) = sum;
      to += kLanes;
    }
  }

  // Row o of the result; source(r): row r of what it is made of.
  template <class Source> void row(Source source, int64_t o, A* to) {
    const Line& rows = map.rows;
    std::vector<const A*> from;
    std::vector<A> weights;
    bool adds = false;
    for (int64_t t = rows.first(o); t < rows.taps; t += rows.up) {
      const int64_t r = rows.source(o, t);
      if (r < 0 || r >= rows.in) continue;
      if (separable) from.push_back(source(r)), weights.push_back(down[t]);
      else horizontal(along.data() + t * map.columns.taps, source(r), adds, to), adds = true;
    }
    if (separable) {
      combine(from.data(), weights.data(), from.size(), static_cast<int64_t>(tall.size()), tall.data());
      horizontal(along.data(), tall.data(), false, to);
    } else if (!adds) {
      std::fill_n(to, spans.size() * kLanes, A(0));
    }
  }
};

// Rows of sixteen planes as vectors, each made once while it is needed.
template <class T> struct Loaded {
  using A = Acc<T>;
  const at::Tensor& from;
  const int64_t width, slots;
  std::vector<A> values;
  std::vector<int64_t> held;

  Loaded(const at::Tensor& from, const Line& rows)
      : from(from), width(from.size(3)), slots(rows.taps / rows.up + 2), values(slots * width * kLanes, A(0)), held(slots, -1) {}

  const A* row(int64_t plane, int64_t planes, int64_t r, const A* bias) {
    A* to = values.data() + r % slots * width * kLanes;
    if (held[r % slots] == r) return to;
    held[r % slots] = r;
    const int64_t step = from.size(2) * width;
    for (int64_t l = 0; l < planes; ++l) {
      const T* x = from.const_data_ptr<T>() + (plane + l) * step + r * width;
      for (int64_t i = 0; i < width; ++i) to[i * kLanes + l] = static_cast<A>(x[i]) + bias[l];
    }
    return to;
  }
};

template <class T> struct Strips {
  using A = Acc<T>;
  const Arguments& all;
  const int64_t c;
  const Both up, down;
  const Numbers<A> numbers;
  Resampling<A> first, again, second;
  Loaded<T> from, x;
  std::vector<A> ring, u, out;
  A bias[kLanes], alpha[kLanes], scale[kLanes];
  const A none[kLanes] = {};
  A sums[3][kLanes];  // of the row at hand,
  double totals[3][kLanes];  // and of those before it

  explicit Strips(const Arguments& all)
      : all(all), c(all.from.size(1)), up(up_map(all.call, x_of(all).size(2), x_of(all).size(3))), down(down_map(all.call, up)), numbers(all.call, c),
        first(all.transposed ? adjoint(down) : up, all.transposed ? turned(down_weights()) : up_weights()), again(up, up_weights()),
        second(all.transposed ? adjoint(up) : down, all.transposed ? turned(up_weights()) : down_weights()), from(all.from, first.map.rows),
        x(all.x ? *all.x : all.from, up.rows), ring(second.map.rows.taps * up.columns.out * kLanes), u(up.columns.out * kLanes),
        out(second.map.columns.out * kLanes) {}

  static const at::Tensor& x_of(const Arguments& all) { return all.transposed ? all.to : all.from; }
  Filter up_weights() const { return weights_of(all.call.up_filter, all.call.flip, static_cast<double>(all.call.up[0] * all.call.up[1])); }
  Filter down_weights() const { return weights_of(all.call.down_filter, all.call.flip, 1); }

  // The activation of one row, or the slope.
  template <class Tag> void between(Tag act, A* row, bool counts) {
    constexpr bool two = std::is_same_v<Tag, std::integral_constant<Act, Act::snake_beta>>;
    const A gain = numbers.gain, bound = numbers.bound;
    const bool clamps = bound < std::numeric_limits<A>::infinity();
    const auto each = [&](auto body) {
      for (int64_t i = 0; i < up.columns.out * kLanes; i += kLanes) {
#pragma omp simd
        for (int l = 0; l < kLanes; ++l) body(i + l, l);
      }
    };
    if (all.pass == Pass::forward)
      return each([&](int64_t i, int l) __attribute__((always_inline)) {
        const A value = gain * act_fwd<A>(act, row[i], alpha[l], scale[l]);
        row[i] = value > bound ? bound : (value < -bound ? -bound : value);  // NaN stays
      });
    each([&](int64_t i, int l) __attribute__((always_inline)) { row[i] *= gain; });
    if (clamps)
      each([&](int64_t i, int l) __attribute__((always_inline)) {
        const A y = gain * act_fwd<A>(act, u[i], alpha[l], scale[l]);
        row[i] = y > bound || y < -bound ? A(0) : row[i];
      });
    if (counts && all.call.alpha)
      each([&](int64_t i, int l) __attribute__((always_inline)) {
        sums[1][l] += act_alpha_bwd<A>(act, row[i], u[i], alpha[l], scale[l]);
        if constexpr (two) sums[2][l] += act_scale_bwd<A>(row[i], u[i], alpha[l]);
      });
    each([&](int64_t i, int l) __attribute__((always_inline)) { row[i] = act_bwd<A>(act, row[i], u[i], alpha[l], false, scale[l]); });
  }

  void close() {
    for (int t = 0; t < 3; ++t)
      for (int l = 0; l < kLanes; ++l) totals[t][l] += sums[t][l], sums[t][l] = 0;
  }

  // Four columns of a row to a byte of each plane, or times the slopes that a byte tells.
  void write_signs(const A* row, int64_t planes, uint8_t* bytes, int64_t plane_bytes) {
    const int64_t width = up.columns.out;
    for (int64_t i = 0; i < width; i += 4, ++bytes) {
      int codes[kLanes] = {};
      for (int64_t k = 0; k < std::min<int64_t>(4, width - i); ++k)
        for (int l = 0; l < kLanes; ++l) codes[l] |= code_of(all.call.act, row[(i + k) * kLanes + l], alpha[l], numbers.gain, numbers.bound) << 2 * k;
      for (int64_t l = 0; l < planes; ++l) bytes[l * plane_bytes] = static_cast<uint8_t>(codes[l]);
    }
  }

  void times_slopes(const uint8_t* bytes, int64_t planes, int64_t plane_bytes, A* row) {
    const int64_t width = up.columns.out;
    const auto by_code = slopes_of<A>(all.call);
    for (int64_t i = 0; i < width; i += 4, ++bytes) {
      int codes[kLanes] = {};
      for (int64_t l = 0; l < planes; ++l) codes[l] = bytes[l * plane_bytes];
      for (int64_t k = 0; k < std::min<int64_t>(4, width - i); ++k)
        for (int l = 0; l < kLanes; ++l) {
          const int code = codes[l] >> 2 * k & 3;
          row[(i + k) * kLanes + l] *= code == 0 ? by_code[0] : code == 1 ? by_code[1] : A(0);
        }
    }
  }

  // Rows begin ... end - 1 of the results of up to sixteen planes; partial [plane, 3].
  template <class Tag> void strip(int64_t plane, int64_t planes, int64_t begin, int64_t end, Tag act, double* partial, int64_t stride) {
    const Line& rows = second.map.rows;
    const int64_t middle = rows.in, width = up.columns.out, slots = rows.taps, packed = (width + 3) / 4;
    const bool starts = begin == 0, ends = end == rows.out;
    const int64_t own = starts ? 0 : std::clamp<int64_t>(begin * rows.down - rows.before, 0, middle);
    const int64_t until = ends ? middle : std::clamp<int64_t>(end * rows.down - rows.before, own, middle);
    uint8_t* bytes = all.signs ? static_cast<uint8_t*>(all.signs->mutable_data_ptr()) + plane * middle * packed : nullptr;
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t ch = (plane + std::min(l, planes - 1)) % c;
      bias[l] = numbers.bias[ch], alpha[l] = numbers.alpha[ch], scale[l] = numbers.scale[ch];
    }
    std::fill_n(&sums[0][0], 3 * kLanes, A(0)), std::fill_n(&totals[0][0], 3 * kLanes, 0.0);
    std::fill(from.held.begin(), from.held.end(), -1), std::fill(x.held.begin(), x.held.end(), -1);
    const auto kept = [&](int64_t r) { return ring.data() + r % slots * width * kLanes; };
    const auto make = [&](int64_t r) {
      A* row = kept(r);
      const bool counts = r >= own && r < until;
      first.row([&](int64_t k) { return from.row(plane, planes, k, all.transposed ? none : bias); }, r, row);
      if (all.pass == Pass::linear) return times_slopes(bytes + r * packed, planes, middle * packed, row);
      if (all.pass == Pass::forward && bytes && counts) write_signs(row, planes, bytes + r * packed, middle * packed);
      if (all.pass == Pass::backward) again.row([&](int64_t k) { return x.row(plane, planes, k, bias); }, r, u.data());
      between(act, row, counts);
      close();
    };
    int64_t next = own;
    const int64_t made = rows.out * second.map.columns.out;
    for (int64_t o = begin; o < end; ++o) {
      const int64_t last = std::min(middle, o * rows.down - rows.before + rows.taps);
      while (next < last) make(next++);
      second.row(kept, o, out.data());
      for (int64_t l = 0; l < planes; ++l) {
        T* y = all.to.data_ptr<T>() + (plane + l) * made + o * second.map.columns.out;
        for (int64_t i = 0; i < second.map.columns.out; ++i) y[i] = narrow<T>(out[i * kLanes + l]);
      }
      if (all.sums)
        for (size_t i = 0; i < out.size(); ++i) sums[0][i % kLanes] += out[i];
      close();
    }
    while (ends && (all.sums || bytes) && next < middle) make(next++);
    for (int64_t l = 0; l < planes; ++l)
      for (int t = 0; t < 3; ++t) partial[l * stride + t] = totals[t][l];
  }
};

}  // namespace

void filtered_act_planes(const Arguments& all) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, all.from.scalar_type(), "filtered_act_cpu", [&] {
    const int64_t planes = all.from.size(0) * all.from.size(1), rows = all.to.size(2), blocks = (planes + kLanes - 1) / kLanes;
    const int64_t taps = std::max(all.call.up_filter.size(0), all.call.down_filter.size(0));
    // Strips cost as many rows twice as there are taps; the sums' order must not depend on the number of threads.
    const int64_t strips = std::clamp<int64_t>(16 / blocks, 1, std::max<int64_t>(1, rows / (4 * taps)));
    std::vector<double> partial(planes * strips * 3, 0.0);
    with_sines(all.call.act, [&](auto act) {
      at::parallel_for(0, blocks * strips, std::max<int64_t>(1, 8192 * strips / (rows * all.to.size(3) * kLanes)), [&](int64_t begin, int64_t end) {
        Strips<scalar_t> each(all);
        for (int64_t k = begin; k < end; ++k) {
          const int64_t s = k % strips, plane = k / strips * kLanes;
          each.strip(plane, std::min<int64_t>(kLanes, planes - plane), rows * s / strips, rows * (s + 1) / strips, act,
                     partial.data() + (plane * strips + s) * 3, strips * 3);
        }
      });
    });
    if (all.sums) *all.sums = by_channel(partial, strips, planes, all.from.size(1));
  });
}

}  // namespace ganfast
