// CPU losses: loss, gradient of every logit and statistics in one pass over each side; relativistic_average first reads the
// means and last adds to every gradient what reaches it through them.
#include <torch/library.h>

#include "../common/cpu_rows.h"

namespace ganfast {
namespace {

constexpr int64_t kBlock = 4096;  // logits a partial sum; never depends on the number of threads, so sums do not either
constexpr int64_t kGrain = 4;     // blocks worth handing to another thread

template <class A> struct Term {
  A loss, slope;  // d loss / d logit, before the mean
};

// log(1 + e) for 0 <= e <= 1. In float as 2 atanh(t), t = e / (2 + e) <= 1/3, by its series, cut at 1e-8 of the value: libm's
// log1p is a call per element.
template <class A> inline __attribute__((always_inline)) A log1p_unit(A e) {
  if constexpr (sizeof(A) == 8) {
    return std::log1p(e);
  } else {
    const A t = e / (A(2) + e), q = t * t;
    A p = A(1) / 13;
    p = p * q + A(1) / 11;
    p = p * q + A(1) / 9;
    p = p * q + A(1) / 7;
    p = p * q + A(1) / 5;
    p = p * q + A(1) / 3;
    return A(2) * (t + t * q * p);
  }
}

// above * softplus(u) + below * softplus(-u); the two share log1p(exp(-|u|)). A weight of 0 also silences an infinite logit.
template <class A> inline __attribute__((always_inline)) Term<A> logistic(A u, A above, A below) {
  const A e = act_math::exp<A>(u < 0 ? u : -u), large = A(1) / (A(1) + e), small = e * large;
  const A up = above == 0 ? A(0) : above * (u < 0 ? A(0) : u), down = below == 0 ? A(0) : below * (u < 0 ? -u : A(0));
  return {up + down + (above + below) * log1p_unit(e), above * (u < 0 ? small : large) - below * (u < 0 ? large : small)};
}

// What one logit v, the i-th, adds.
template <class A> struct Logistic {
  A above, below, center;
  inline __attribute__((always_inline)) Term<A> operator()(A v, int64_t) const { return logistic<A>(v - center, above, below); }
};
template <class A> struct Paired {
  A above, below;
  const A* other;
  inline __attribute__((always_inline)) Term<A> operator()(A v, int64_t i) const { return logistic<A>(v - other[i], above, below); }
};
template <class A> struct Hinge {  // relu(1 + sign * v); NaN passes
  A sign;
  inline __attribute__((always_inline)) Term<A> operator()(A v, int64_t) const {
    const A margin = A(1) + sign * v;
    return {margin <= 0 ? A(0) : margin, margin <= 0 ? A(0) : sign};
  }
};
template <class A> struct Square {
  A target;
  inline __attribute__((always_inline)) Term<A> operator()(A v, int64_t) const { return {A(0.5) * (v - target) * (v - target), v - target}; }
};
template <class A> struct Linear {
  A sign;
  inline __attribute__((always_inline)) Term<A> operator()(A v, int64_t) const { return {sign == 0 ? A(0) : sign * v, sign}; }
};

struct Sums {
  double loss = 0, value = 0, slope = 0, above = 0, below = 0, sign = 0;

  void operator+=(const Sums& s) { loss += s.loss, value += s.value, slope += s.slope, above += s.above, below += s.below, sign += s.sign; }
};

// The sum of block(begin, end) over blocks of n logits, in their order.
template <class Block> Sums reduce(int64_t n, Block block) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  if (blocks == 1) return block(0, n);
  std::vector<Sums> partial(blocks);
  at::parallel_for(0, blocks, kGrain, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) partial[b] = block(b * kBlock, std::min(n, (b + 1) * kBlock));
  });
  Sums total;
  for (const Sums& s : partial) total += s;
  return total;
}

template <class A> double mean_of(const A* v, int64_t n) {
  return reduce(n, [&](int64_t begin, int64_t end) {
    const A* x = v;
    A value = 0;
#pragma omp simd reduction(+ : value)
    for (int64_t i = begin; i < end; ++i) value += x[i];
    Sums sums;
    sums.value = value;
    return sums;
  }).value / n;
}

// grad[i] = slope * scale; `term` says what a logit adds, above and below count its sides of `threshold`.
template <class A, class F> Sums side(const A* __restrict v, int64_t n, A threshold, A* __restrict grad, A scale, F term) {
  return reduce(n, [&](int64_t begin, int64_t end) {
    // Copies: read through the closure, the compiler gathers and scatters instead of loading and storing.
    const A *x = v, t = threshold, s = scale;
    A *g = grad, loss = 0, value = 0, slope = 0;
    const F f = term;
    int32_t above = 0, below = 0, sign = 0;
#pragma omp simd reduction(+ : loss, value, slope, above, below, sign)
    for (int64_t i = begin; i < end; ++i) {
      const Term<A> one = f(x[i], i);
      g[i] = one.slope * s;
      loss += one.loss, value += x[i], slope += one.slope;
      above += x[i] > t, below += x[i] < t, sign += (x[i] > 0) - (x[i] < 0);
    }
    return Sums{loss, value, slope, double(above), double(below), double(sign)};
  });
}

template <class A> struct Losses {
  const A *real, *fake;  // real is null, n_real 0, without real logits
  int64_t n_real, n_fake;
  bool generator;
  A threshold, *greal, *gfake;
  Sums of_real, of_fake;

  template <class R, class F> void both(R real_term, F fake_term, bool mean = true) {
    if (real) of_real = side<A>(real, n_real, threshold, greal, mean ? A(1) / n_real : A(1), real_term);
    of_fake = side<A>(fake, n_fake, threshold, gfake, mean ? A(1) / n_fake : A(1), fake_term);
  }
  template <class R, class F> void apart(R real_term, F fake_term) {
    generator ? both(Linear<A>{0}, fake_term) : both(real_term, fake_term);
  }

  static void shift(A* grad, int64_t n, A by) {
    const A scale = A(1) / n;
    at::parallel_for(0, n, kGrain * kBlock, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) grad[i] = (grad[i] + by) * scale;
    });
  }

  // The sum of both sides' means.
  double run(c10::string_view kind, A smoothing) {
    const A g = generator ? 1 : 0, d = 1 - g;
    if (kind == "minimax") {
      apart(Logistic<A>{smoothing, 1 - smoothing, 0}, Logistic<A>{d - g, 0, 0});
    } else if (kind == "nonsaturating") {
      apart(Logistic<A>{smoothing, 1 - smoothing, 0}, Logistic<A>{d, g, 0});
    } else if (kind == "hinge") {
      generator ? apart(Hinge<A>{-1}, Linear<A>{-1}) : apart(Hinge<A>{-1}, Hinge<A>{1});
    } else if (kind == "lsgan") {
      apart(Square<A>{1 - smoothing}, Square<A>{g});
    } else if (kind == "wasserstein") {
      apart(Linear<A>{-1}, Linear<A>{d - g});
    } else if (kind == "relativistic") {
      both(Paired<A>{g, d, fake}, Paired<A>{d, g, real});
      of_real.loss = 0;  // the same terms, seen from the other side
    } else {
      TORCH_CHECK(kind == "relativistic_average", "unknown kind ", kind);
      const A mean_real = mean_of(real, n_real), mean_fake = mean_of(fake, n_fake);
      both(Logistic<A>{g, d, mean_fake}, Logistic<A>{d, g, mean_real}, false);
      // A logit acts by its own term and, through its mean, by every term of the other side, with the sign turned.
      shift(greal, n_real, -of_fake.slope / n_fake);
      shift(gfake, n_fake, -of_real.slope / n_real);
    }
    return (real ? of_real.loss / n_real : 0) + of_fake.loss / n_fake;
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gan_loss_fwd_cpu(
    const std::optional<at::Tensor>& real, const at::Tensor& fake, c10::string_view kind, bool generator, double smoothing) {
  // bfloat16 and float16 are widened beforehand: mixed into the loops they cost ten times the arithmetic.
  const auto acc = fake.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor wide_fake = fake.to(acc), wide_real = real && real->defined() ? real->to(acc) : at::Tensor();
  const int64_t n_real = wide_real.defined() ? wide_real.numel() : 0, n_fake = fake.numel();
  const auto options = wide_fake.options();
  auto loss = at::empty({}, options), greal = at::empty({n_real}, options), gfake = at::empty({n_fake}, options), stats = at::empty({5}, options);
  AT_DISPATCH_FLOATING_TYPES(acc, "gan_loss_fwd_cpu", [&] {
    using A = scalar_t;
    Losses<A> losses{n_real ? wide_real.const_data_ptr<A>() : nullptr, wide_fake.const_data_ptr<A>(), n_real, n_fake, generator,
                     A(kind == "lsgan" ? 0.5 : 0), greal.data_ptr<A>(), gfake.data_ptr<A>(), {}, {}};
    *loss.data_ptr<A>() = losses.run(kind, smoothing);
    A* out = stats.data_ptr<A>();
    const double per_real = n_real ? 1.0 / n_real : 0, per_fake = 1.0 / n_fake;
    out[0] = losses.of_real.above * per_real, out[1] = losses.of_fake.below * per_fake;
    out[2] = losses.of_real.value * per_real, out[3] = losses.of_fake.value * per_fake, out[4] = losses.of_real.sign * per_real;
  });
  return {loss, greal, gfake, stats};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("gan_loss_fwd_native", gan_loss_fwd_cpu); }

}  // namespace
}  // namespace ganfast
