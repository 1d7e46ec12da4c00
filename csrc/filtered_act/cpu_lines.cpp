// filtered_act over lines [N, C, L], a piece of the result at a time, all that is between in the first caches. The upsampled values lie dealt
// out to as many phases as the second filter goes down by, so that every loop of both filters runs over contiguous floats; where up and
// down are equal, as in BigVGAN, they are made so.
#include "../common/wide_vectors.h"

#include "../common/cpu_fir.h"
#include "cpu_middle.h"

namespace ganfast {
namespace {

constexpr int64_t kPiece = 1024;  // results: a multiple of 4, as signs lie in bytes of four

int64_t floor_div(int64_t a, int64_t b) { return (a - Line::floor_mod(a, b)) / b; }
int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

// to[i] (+)= sum of weights[k] * from[i + k].
template <class A> void fir(const A* weights, int64_t taps, const A* from, int64_t count, bool adds, A* to) {
  const auto pass = [&](auto used, const A* w, const A* x, bool onto) {
    A held[used];
    for (int k = 0; k < used; ++k) held[k] = w[k];
    if (onto) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        A sum = to[i];
        for (int k = 0; k < used; ++k) sum += held[k] * x[i + k];
        to[i] = sum;
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        A sum = held[0] * x[i];
        for (int k = 1; k < used; ++k) sum += held[k] * x[i + k];
        to[i] = sum;
      }
    }
  };
  if (taps == 0 && !adds) std::fill_n(to, count, A(0));
  for (int64_t k = 0; k < taps; k += 6) {
    const A *w = weights + k, *x = from + k;
    const bool onto = adds || k > 0;
    switch (std::min<int64_t>(6, taps - k)) {
      case 1: pass(std::integral_constant<int, 1>{}, w, x, onto); break;
      case 2: pass(std::integral_constant<int, 2>{}, w, x, onto); break;
      case 3: pass(std::integral_constant<int, 3>{}, w, x, onto); break;
      case 4: pass(std::integral_constant<int, 4>{}, w, x, onto); break;
      case 5: pass(std::integral_constant<int, 5>{}, w, x, onto); break;
      default: pass(std::integral_constant<int, 6>{}, w, x, onto);
    }
  }
}

// A map with its weights, every `step`-th behind each other from each of the first `step` on: up of a first map, down of a second.
template <class A> struct Weighed : Line {
  std::vector<std::vector<A>> weights;

  Weighed(const Line& line, std::vector<double> all, bool reversed, int64_t step) : Line(line), weights(step) {
    if (reversed) std::reverse(all.begin(), all.end());
    for (size_t t = 0; t < all.size(); ++t) weights[t % step].push_back(static_cast<A>(all[t]));
  }
};

// The values of x, as floats, from place `base` on.
template <class A> struct Source {
  std::vector<A> values;
  int64_t base = 0;
};

template <class T> struct Lines {
  using A = Acc<T>;
  const Arguments& all;
  const int64_t c, size, made, middle;  // channels; of from, to and the upsampled x
  const Weighed<A> first, second, up;   // up: of a backward, x's own way
  const Numbers<A> numbers;
  const int64_t left, right;  // results beyond both ends, which are added to the first and last one
  const int64_t phases;
  std::vector<double> fold;  // weights of the second filter, where it is turned round

  static Line up_line(const FilteredAct& f, int64_t x) {
    const int64_t taps = f.up_filter.size(0);
    return {x, x * f.up[0] + f.before[0] + f.after[0] - taps + 1, taps, f.up[0], 1, f.before[0]};
  }
  static Line down_line(const FilteredAct& f, int64_t middle, int64_t y) {
    const int64_t taps = f.down_filter.size(0);
    return {middle, y, taps, 1, f.down[0], f.replicate ? floor_div(taps - f.down[0] + 1, 2) : 0};
  }
  static Line adjoint(const Line& l) { return {l.out, l.in, l.taps, l.down, l.up, l.taps - l.before - 1}; }

  explicit Lines(const Arguments& all)
      : all(all), c(all.from.size(1)), size(all.from.size(2)), made(all.to.size(2)), middle(up_line(all.call, all.transposed ? made : size).out),
        first(all.transposed ? adjoint(down()) : ups(), all.transposed ? down_weights() : up_weights(), all.transposed, all.transposed ? all.call.down[0] : all.call.up[0]),
        second(all.transposed ? adjoint(ups()) : down(), all.transposed ? up_weights() : down_weights(), all.transposed, all.transposed ? all.call.up[0] : all.call.down[0]),
        up(ups(), up_weights(), false, all.call.up[0]), numbers(all.call, c), left(folds() ? ups().left() : 0), right(folds() ? ups().right() : 0),
        phases(second.down) {
    if (folds()) fold = down_weights();
  }

  bool folds() const { return all.transposed && all.call.replicate; }
  Line ups() const { return up_line(all.call, all.transposed ? made : size); }
  Line down() const { return down_line(all.call, middle, all.transposed ? size : made); }
  std::vector<double> up_weights() const { return weights_of(all.call.up_filter, all.call.flip, static_cast<double>(all.call.up[0])).along; }
  std::vector<double> down_weights() const { return weights_of(all.call.down_filter, all.call.flip, 1).along; }

  // What one thread works with.
  std::vector<A> u, h, out, whole;
  Source<A> source, x;

  // The values that places m0 ... m0 + count - 1 of a map's result read.
  void load(const Line& map, const T* from, int64_t m0, int64_t count, A bias, bool replicate, Source<A>& to) {
    to.base = floor_div(m0 - map.before, map.up);
    const int64_t end = floor_div(m0 + count - 1 + map.taps - 1 - map.before, map.up) + 1;
    to.values.resize(end - to.base);
    const int64_t inside = std::clamp<int64_t>(0, to.base, end), beyond = std::clamp<int64_t>(map.in, inside, end);
    A* v = to.values.data() - to.base;
    std::fill(v + to.base, v + inside, replicate ? static_cast<A>(from[0]) + bias : A(0));
#pragma omp simd
    for (int64_t s = inside; s < beyond; ++s) v[s] = static_cast<A>(from[s]) + bias;
    std::fill(v + beyond, v + end, replicate ? static_cast<A>(from[map.in - 1]) + bias : A(0));
  }

  // Results m0 + p + phases * j of a first map, phase by phase, `count` each.
  void spread(const Weighed<A>& map, const Source<A>& from, int64_t m0, int64_t count, A* to) {
    for (int64_t p = 0; p < phases; ++p) {
      A* row = to + p * count;
      const auto run = [&](int64_t m, int64_t length, A* into) {
        const int64_t t = Line::floor_mod(map.before - m, map.up);
        const auto& w = map.weights[t];
        fir(w.data(), w.size(), from.values.data() + (m + t - map.before) / map.up - from.base, length, false, into);
      };
      if (map.up == phases) run(m0 + p, count, row);
      else
        for (int64_t j = 0; j < count; ++j) run(m0 + p + phases * j, 1, row + j);
    }
  }

  // Calls run(begin, end, place) for the parts of all phases that hold places from ... to - 1; place: that of the first.
  template <class F> void within(int64_t m0, int64_t count, int64_t from, int64_t to, F run) {
    for (int64_t p = 0; p < phases; ++p) {
      const int64_t begin = std::clamp<int64_t>(ceil_div(from - m0 - p, phases), 0, count), end = std::clamp<int64_t>(ceil_div(to - m0 - p, phases), begin, count);
      if (begin < end) run(p * count + begin, p * count + end, m0 + p + phases * begin);
    }
  }

  A& at(std::vector<A>& v, int64_t m0, int64_t count, int64_t m) { return v[(m - m0) % phases * count + (m - m0) / phases]; }

  // Of the second filter's adjoint, what reaches places before 0, or from `middle` on.
  std::pair<A, A> folded(const T* gy) {
    const Line map = down();
    double before = 0, after = 0;
    const auto add = [&](int64_t o) {
      for (int64_t t = 0; t < map.taps; ++t) {
        const int64_t m = o * map.down + t - map.before;
        if (m < 0) before += fold[t] * static_cast<A>(gy[o]);
        if (m >= middle) after += fold[t] * static_cast<A>(gy[o]);
      }
    };
    const int64_t reach = map.taps / map.down + 1;
    for (int64_t o = 0; o < map.out; ++o)
      if (o < reach || o >= map.out - reach - 1) add(o);
    return {static_cast<A>(before), static_cast<A>(after)};
  }

  template <class Tag> void piece(int64_t plane, int64_t begin, int64_t end, Tag act, A* sums) {
    const bool starts = begin == 0, ends = end == made;
    int64_t o0 = starts ? -left : begin, o1 = ends ? end + right : end;
    if (all.sums && starts) o0 = std::min(o0, floor_div(second.before, second.down));  // places that no result reads have slopes too
    if (all.sums && ends) o1 = std::max(o1, ceil_div(middle + second.before, second.down));
    const int64_t m0 = o0 * second.down - second.before, count = o1 - o0 + (second.taps - 1) / second.down, ch = plane % c;
    const int64_t own = starts ? 0 : std::clamp<int64_t>(begin * second.down - second.before, 0, middle);
    const int64_t until = ends ? middle : std::clamp<int64_t>(end * second.down - second.before, own, middle);
    const A alpha = numbers.alpha[ch], scale = numbers.scale[ch], gain = numbers.gain, bound = numbers.bound;
    const T* from = all.from.const_data_ptr<T>() + plane * size;
    h.resize(phases * count);
    load(first, from, m0, phases * count, all.transposed ? A(0) : numbers.bias[ch], all.call.replicate && !all.transposed, source);
    spread(first, source, m0, count, h.data());
    if (folds()) {
      const auto [before, after] = folded(from);
      if (m0 <= 0 && m0 + phases * count > 0) at(h, m0, count, 0) += before;
      if (m0 < middle && m0 + phases * count >= middle) at(h, m0, count, middle - 1) += after;
    }
    if (all.pass == Pass::forward) {
      if (all.signs) signs(plane, m0, count, own, until, alpha);
      activate<A>(act, h.data(), phases * count, alpha, scale, gain, bound, h.data());
    } else if (all.pass == Pass::linear) {
      masked(plane, m0, count);
    } else {
      u.resize(phases * count);
      load(up, all.x->const_data_ptr<T>() + plane * made, m0, phases * count, numbers.bias[ch], all.call.replicate, x);
      spread(up, x, m0, count, u.data());
      const auto run = [&](bool counts) {
        return [&, counts](int64_t b, int64_t e, int64_t) {
          const auto found = slope<A>(act, u.data() + b, e - b, alpha, scale, gain, bound, counts, h.data() + b);
          sums[1] += found.alpha, sums[2] += found.scale;
        };
      };
      within(m0, count, m0, own, run(false)), within(m0, count, own, until, run(true)), within(m0, count, until, m0 + phases * count, run(false));
    }
    const bool goes_on = all.call.replicate && !all.transposed;
    const A edge0 = goes_on && m0 < 0 ? at(h, m0, count, 0) : A(0), edge1 = goes_on && m0 + phases * count > middle ? at(h, m0, count, middle - 1) : A(0);
    within(m0, count, m0, 0, [&](int64_t b, int64_t e, int64_t) { std::fill(h.data() + b, h.data() + e, edge0); });
    within(m0, count, middle, m0 + phases * count, [&](int64_t b, int64_t e, int64_t) { std::fill(h.data() + b, h.data() + e, edge1); });
    out.resize(o1 - o0);
    for (int64_t p = 0; p < phases; ++p) fir(second.weights[p].data(), second.weights[p].size(), h.data() + p * count, o1 - o0, p > 0, out.data());
    A* results = out.data() - o0;
    for (int64_t o = starts ? -left : 0; o < 0; ++o) results[0] += results[o];
    if (ends)
      for (int64_t o = made; o < made + right; ++o) results[made - 1] += results[o];
    T* y = all.to.data_ptr<T>() + plane * made;
    if (all.sums)
      for (int64_t o = begin; o < end; ++o) sums[0] += results[o];
    put<T>(results + begin, end - begin, y + begin);
  }

  void signs(int64_t plane, int64_t m0, int64_t count, int64_t own, int64_t until, A alpha) {
    whole.resize(until - own);
    within(m0, count, own, until, [&](int64_t b, int64_t e, int64_t m) {
      for (int64_t i = b; i < e; ++i) whole[m - own + (i - b) * phases] = h[i];
    });
    pack<A>(all.call.act, whole.data(), until - own, alpha, numbers.gain, numbers.bound, all.signs->data_ptr<uint8_t>() + plane * ((middle + 3) / 4) + own / 4);
  }

  void masked(int64_t plane, int64_t m0, int64_t count) {
    const uint8_t* bytes = all.signs->const_data_ptr<uint8_t>() + plane * ((middle + 3) / 4);
    const int64_t begin = std::max<int64_t>(0, m0) / 4 * 4, end = std::min(middle, m0 + phases * count);
    const auto by_code = slopes_of<A>(all.call);
    whole.resize(std::max<int64_t>(0, end - begin));
    for (int64_t i = 0; i < end - begin; ++i) whole[i] = by_code[bytes[(begin + i) / 4] >> 2 * (i % 4) & 3];
    within(m0, count, std::max<int64_t>(0, m0), end, [&](int64_t b, int64_t e, int64_t m) {
      for (int64_t i = b; i < e; ++i) h[i] *= whole[m - begin + (i - b) * phases];
    });
  }
};

}  // namespace

void filtered_act_lines(const Arguments& all) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, all.from.scalar_type(), "filtered_act_cpu", [&] {
    using A = Acc<scalar_t>;
    const int64_t planes = all.from.size(0) * all.from.size(1), made = all.to.size(2), pieces = (made + kPiece - 1) / kPiece;
    std::vector<A> partial(planes * pieces * 3, A(0));
    with_sines(all.call.act, [&](auto act) {
      at::parallel_for(0, planes * pieces, std::max<int64_t>(1, 8192 / std::min(made, kPiece)), [&](int64_t begin, int64_t end) {
        Lines<scalar_t> lines(all);
        for (int64_t k = begin; k < end; ++k) {
          const int64_t first = k % pieces * kPiece;
          lines.piece(k / pieces, first, std::min(made, first + kPiece), act, partial.data() + 3 * k);
        }
      });
    });
    if (all.sums) *all.sums = by_channel(partial, pieces, planes, all.from.size(1));
  });
}

}  // namespace ganfast
