// filtered_act over planes [N, C, H, W], a strip of rows at a time: rows of the upsampled x are made one after the other, activated, and kept
// for as long as the second filter reads them, which is as many rows as it has taps.
#include "../common/wide_vectors.h"

#include "../common/cpu_fir_row.h"
#include "cpu_middle.h"

namespace ganfast {
namespace {

struct Both {
  Line rows, columns;
};

Both adjoint(const Both& b) {
  const auto line = [](const Line& l) { return Line{l.out, l.in, l.taps, l.down, l.up, l.taps - l.before - 1}; };
  return {line(b.rows), line(b.columns)};
}

int64_t tap_rows(const at::Tensor& filter) { return filter.size(0); }
int64_t tap_columns(const at::Tensor& filter) { return filter.size(-1); }

// From x of a size to the upsampled.
Both up_map(const FilteredAct& f, int64_t h, int64_t w) {
  const auto line = [&](int64_t d, int64_t in, int64_t taps) {
    return Line{in, in * f.up[d] + f.before[d] + f.after[d] - taps + 1, taps, f.up[d], 1, f.before[d]};
  };
  return {line(0, h, tap_rows(f.up_filter)), line(1, w, tap_columns(f.up_filter))};
}

Both down_map(const FilteredAct& f, const Both& up) {
  const auto line = [&](int64_t d, int64_t in, int64_t taps) { return Line{in, (in - taps) / f.down[d] + 1, taps, 1, f.down[d], 0}; };
  return {line(0, up.rows.out, tap_rows(f.down_filter)), line(1, up.columns.out, tap_columns(f.down_filter))};
}

template <class T> struct Strips {
  using A = Acc<T>;
  const Arguments& all;
  const int64_t c;
  const Both up, down, first_map, second_map;
  const Filter up_weights, down_weights, first_weights, second_weights;
  const Numbers<A> numbers;
  const Slopes<A> slopes;
  Run<T> first, again;
  Run<A> second;
  std::vector<std::vector<A>> ring;
  std::vector<A> u, out;

  explicit Strips(const Arguments& all)
      : all(all), c(all.from.size(1)), up(up_map(all.call, x_of(all).size(2), x_of(all).size(3))), down(down_map(all.call, up)),
        first_map(all.transposed ? adjoint(down) : up), second_map(all.transposed ? adjoint(up) : down),
        up_weights(weights_of(all.call.up_filter, all.call.flip, static_cast<double>(all.call.up[0] * all.call.up[1]))),
        down_weights(weights_of(all.call.down_filter, all.call.flip, 1)), first_weights(all.transposed ? turned(down_weights) : up_weights),
        second_weights(all.transposed ? turned(up_weights) : down_weights), numbers(all.call, c), slopes(slopes_of<A>(all.call)),
        first(first_map.rows, first_map.columns, first_weights, 1), again(up.rows, up.columns, up_weights, 1),
        second(second_map.rows, second_map.columns, second_weights, 1), ring(second_map.rows.taps, std::vector<A>(up.columns.out)),
        u(up.columns.out), out(second_map.columns.out) {}

  static const at::Tensor& x_of(const Arguments& all) { return all.transposed ? all.to : all.from; }
  static Filter turned(Filter f) {
    for (auto* part : {&f.down, &f.along, &f.full}) std::reverse(part->begin(), part->end());
    return f;
  }

  const T* plane_of(const at::Tensor& t, int64_t plane) { return t.const_data_ptr<T>() + plane * t.size(2) * t.size(3); }

  // Rows begin ... end - 1 of a plane's result.
  template <class Tag> void strip(int64_t plane, int64_t begin, int64_t end, Tag act, A* sums) {
    const Line& rows = second_map.rows;
    const int64_t middle = rows.in, width = up.columns.out, slots = ring.size(), ch = plane % c;
    const bool starts = begin == 0, ends = end == rows.out;
    const int64_t own = starts ? 0 : std::clamp<int64_t>(begin * rows.down - rows.before, 0, middle);
    const int64_t until = ends ? middle : std::clamp<int64_t>(end * rows.down - rows.before, own, middle);
    const T *from = plane_of(all.from, plane), *x = all.x ? plane_of(*all.x, plane) : nullptr;
    const int64_t from_width = all.from.size(3), x_width = all.x ? all.x->size(3) : 0, packed = (width + 3) / 4;
    uint8_t* bytes = all.signs ? static_cast<uint8_t*>(all.signs->mutable_data_ptr()) + plane * middle * packed : nullptr;
    const A alpha = numbers.alpha[ch], scale = numbers.scale[ch], gain = numbers.gain, bound = numbers.bound;
    first.bias = all.transposed ? A(0) : numbers.bias[ch], again.bias = numbers.bias[ch];
    first.forget(), again.forget(), second.forget();
    int64_t next = own;
    const auto make = [&](int64_t r) {
      A* row = ring[r % slots].data();
      first.compute([&](int64_t k) { return from + k * from_width; }, r, row);
      if (all.pass == Pass::linear) return times(slopes, bytes + r * packed, width, row);
      if (all.pass == Pass::forward) {
        if (bytes && r >= own && r < until) pack<A>(all.call.act, row, width, alpha, gain, bound, bytes + r * packed);
        return activate<A>(act, row, width, alpha, scale, gain, bound, row);
      }
      again.compute([&](int64_t k) { return x + k * x_width; }, r, u.data());
      const bool counts = r >= own && r < until;
      const auto found = slope<A>(act, u.data(), width, alpha, scale, gain, bound, counts, row);
      if (counts) sums[1] += found.alpha, sums[2] += found.scale;
    };
    T* y = all.to.data_ptr<T>() + (plane * rows.out + begin) * out.size();
    for (int64_t o = begin; o < end; ++o) {
      const int64_t last = std::min(middle, o * rows.down - rows.before + rows.taps);
      while (next < last) make(next++);
      second.compute([&](int64_t k) { return ring[k % slots].data(); }, o, out.data());
      if (all.sums)
        for (const A v : out) sums[0] += v;
      put<T>(out.data(), out.size(), y), y += out.size();
    }
    while (ends && (all.sums || bytes) && next < middle) make(next++);
  }
};

}  // namespace

void filtered_act_planes(const Arguments& all) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, all.from.scalar_type(), "filtered_act_cpu", [&] {
    using A = Acc<scalar_t>;
    const int64_t planes = all.from.size(0) * all.from.size(1), rows = all.to.size(2), taps = std::max(tap_rows(all.call.up_filter), tap_rows(all.call.down_filter));
    // Strips cost as many rows twice as there are taps; the sums' order must not depend on the number of threads.
    const int64_t strips = std::clamp<int64_t>(16 / planes, 1, std::max<int64_t>(1, rows / (4 * taps)));
    std::vector<A> partial(planes * strips * 3, A(0));
    with_sines(all.call.act, [&](auto act) {
      at::parallel_for(0, planes * strips, std::max<int64_t>(1, 8192 * strips / (rows * all.to.size(3))), [&](int64_t begin, int64_t end) {
        Strips<scalar_t> each(all);
        for (int64_t k = begin; k < end; ++k) {
          const int64_t s = k % strips;
          each.strip(k / strips, rows * s / strips, rows * (s + 1) / strips, act, partial.data() + 3 * k);
        }
      });
    });
    if (all.sums) *all.sums = by_channel(partial, strips, planes, all.from.size(1));
  });
}

}  // namespace ganfast
