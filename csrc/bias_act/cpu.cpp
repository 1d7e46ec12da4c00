// CPU bias + activation + gain + clamp (+ residual): one pass forward, one backward with its channel sums.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include <limits>

#include "../common/cpu_rows.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using MaybeDouble = std::optional<double>;

// snake_beta's alpha is [2, C]: one of its two vectors.
MaybeTensor part_of(const MaybeTensor& alpha, int64_t part) {
  if (!alpha || !alpha->defined()) return alpha;
  return alpha->dim() == 2 ? alpha->select(0, part) : part == 0 ? alpha : MaybeTensor();
}

// The numbers of one call; bias, alpha and snake_beta's scale as columns of the rows.
template <class A> struct Numbers {
  std::vector<A> bias, alpha, scale;
  A gain, bound;

  Numbers(const Rows& rows, const MaybeTensor& bias_of, const MaybeTensor& alpha_of, double alpha_value, double gain_, MaybeDouble bound_)
      : bias(as_columns<A>(rows, bias_of, 0)), alpha(as_columns<A>(rows, part_of(alpha_of, 0), alpha_value)),
        scale(as_columns<A>(rows, part_of(alpha_of, 1), 0)), gain(gain_), bound(bound_.value_or(0)) {}
};

// x and y may be the same memory. kClamps here and below: two comparisons are a third of what bfloat16's leaky_relu costs.
template <class T, bool kLast, bool kClamps, class Tag> void fwd_block(const Rows& rows, int64_t block, const T* x, const Numbers<Acc<T>>& v, Tag act, T* y) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *bias = v.bias.data() + channel, *alpha = v.alpha.data() + channel, *scale = v.scale.data() + channel;
    const A bias0 = *bias, alpha0 = *alpha, scale0 = *scale, gain = v.gain, clamp = v.bound;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      A value = gain * act_fwd<A>(act, static_cast<A>(x[at + i]) + (kLast ? bias[i] : bias0), kLast ? alpha[i] : alpha0, kLast ? scale[i] : scale0);
      if constexpr (kClamps) value = value > clamp ? clamp : (value < -clamp ? -clamp : value);  // NaN stays
      y[at + i] = narrow<T>(value);
    }
  });
}

// Where a residual is added: to x + bias, or after gain and clamp. Then all is multiplied by the factor.
enum class Adds { nothing, first, last };

constexpr int64_t kPiece = 2048;  // elements that a stack's array holds on their way to and from bytes
constexpr uint8_t kClamped = 2;   // of the signs that a backward reads in place of y: 1 where the slope is 1, else 0

constexpr bool has_signs(Act act) { return act == Act::linear || act == Act::relu || act == Act::leaky_relu || act == Act::prelu; }

// x and y may be the same memory. Without a clamp v.bound is infinite, and kClamps is false where a type has such an instance. Signs are
// those of y as it would be without what is added after it, rounded, so that they say what such a y would.
template <class T, bool kLast, Adds kAdds, bool kSigns, bool kClamps, class Tag>
void added_block(const Rows& rows, int64_t block, const T* x, const T* residual, const Numbers<Acc<T>>& v, Acc<T> by, Tag act, T* y, uint8_t* signs) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A gain = v.gain, clamp = v.bound, factor = by, edge = narrow<T>(clamp);
    const bool clamps = clamp < std::numeric_limits<A>::infinity();
    A seen[kSigns ? kPiece : 1];
    const int64_t piece = kSigns ? kPiece : length;
    for (int64_t first = 0; first < length; first += piece) {
      const int64_t from = at + first, count = std::min(piece, length - first), c = channel + (kLast ? first : 0);
      const A *bias = v.bias.data() + c, *alpha = v.alpha.data() + c, *scale = v.scale.data() + c;
      const A bias0 = *bias, alpha0 = *alpha, scale0 = *scale;
      const T *in = x + from, *r = residual + from;
      T* out = y + from;
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        A z = static_cast<A>(in[i]) + (kLast ? bias[i] : bias0);
        if constexpr (kAdds == Adds::first) z += static_cast<A>(r[i]);
        A value = gain * act_fwd<A>(act, z, kLast ? alpha[i] : alpha0, kLast ? scale[i] : scale0);
        if constexpr (kClamps) value = value > clamp ? clamp : (value < -clamp ? -clamp : value);  // NaN stays
        if constexpr (kSigns) seen[i] = kClamps ? static_cast<A>(narrow<T>(value)) : value;
        if constexpr (kAdds == Adds::last) value += static_cast<A>(r[i]);
        out[i] = narrow<T>(value * factor);
      }
      if constexpr (kSigns) {
        uint8_t* to = signs + from;
        for (int64_t i = 0; i < count; ++i) {
          const A u = seen[i];
          const int on = act == Act::relu ? !(u == 0) : u > 0;  // relu's slope is 1 at NaN
          if constexpr (kClamps) to[i] = static_cast<uint8_t>(clamps & ((u >= edge) | (u <= -edge)) ? int{kClamped} : on);
          else to[i] = static_cast<uint8_t>(on);
        }
      }
    }
  });
}

template <class T, Adds kAdds, bool kClamps, class Tag> auto added_run(bool channels_last, bool signs, Tag) {
  if constexpr (!std::is_same_v<Tag, Act>)
    if constexpr (has_signs(Tag::value))
      if (signs) return channels_last ? &added_block<T, true, kAdds, true, kClamps, Tag> : &added_block<T, false, kAdds, true, kClamps, Tag>;
  return channels_last ? &added_block<T, true, kAdds, false, kClamps, Tag> : &added_block<T, false, kAdds, false, kClamps, Tag>;
}

template <class T, Adds kAdds, class Tag> auto added_run(bool channels_last, bool signs, bool clamps, Tag tag) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, at::BFloat16>)
    if (!clamps) return added_run<T, kAdds, false>(channels_last, signs, tag);
  return added_run<T, kAdds, true>(channels_last, signs, tag);
}

// Signs of a piecewise linear activation, or an empty tensor: bytes where there is a clamp, else bools.
at::Tensor forward(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                   MaybeDouble clamp, bool channels_last, const MaybeTensor& residual, bool residual_first, double factor, bool keep_signs,
                   const at::Tensor& y) {
  const Rows rows = Rows::spread_out(x, channels_last);
  const Act parsed = parse_act(act);
  const bool adds = residual && residual->defined();
  TORCH_CHECK(!keep_signs || has_signs(parsed), "no signs of ", act);
  const auto of_signs = x.options().dtype(clamp ? at::kByte : at::kBool);
  at::Tensor signs = keep_signs ? at::empty_like(x, of_signs) : at::empty({0}, of_signs);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "bias_act_fwd_cpu", [&] {
    using T = scalar_t;
    const T* in = x.const_data_ptr<T>();
    T* out = y.data_ptr<T>();
    if (!adds && !keep_signs) {
      const Numbers<Acc<T>> v(rows, bias, alpha, alpha_value, gain, clamp);
      with_sines(parsed, [&](auto tag) {
        const auto run = rows.channels_last ? (clamp ? &fwd_block<T, true, true, decltype(tag)> : &fwd_block<T, true, false, decltype(tag)>)
                                            : (clamp ? &fwd_block<T, false, true, decltype(tag)> : &fwd_block<T, false, false, decltype(tag)>);
        each_block(rows, [&](int64_t b) { run(rows, b, in, v, tag, out); });
      });
      return;
    }
    const Numbers<Acc<T>> v(rows, bias, alpha, alpha_value, gain, clamp.value_or(std::numeric_limits<double>::infinity()));
    const T* r = adds ? residual->const_data_ptr<T>() : in;
    uint8_t* bytes = keep_signs ? static_cast<uint8_t*>(signs.mutable_data_ptr()) : nullptr;
    with_sines(parsed, [&](auto tag) {
      const bool last = rows.channels_last, clamps = clamp.has_value();
      const auto run = !adds            ? added_run<T, Adds::nothing>(last, keep_signs, clamps, tag)
                       : residual_first ? added_run<T, Adds::first>(last, keep_signs, clamps, tag)
                                        : added_run<T, Adds::last>(last, keep_signs, clamps, tag);
      each_block(rows, [&](int64_t b) { run(rows, b, in, r, v, adds ? factor : 1, tag, out, bytes); });
    });
  });
  return signs;
}

std::tuple<at::Tensor, at::Tensor> bias_act_fwd_cpu(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act,
                                                    double alpha_value, double gain, MaybeDouble clamp, bool channels_last, const MaybeTensor& residual,
                                                    bool residual_first, double factor, bool keep_signs) {
  auto y = at::empty_like(x);
  auto signs = forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor, keep_signs, y);
  return {y, signs};
}

at::Tensor bias_act_fwd_cpu_(at::Tensor x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                             MaybeDouble clamp, bool channels_last, const MaybeTensor& residual, bool residual_first, double factor, bool keep_signs) {
  return forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, residual, residual_first, factor, keep_signs, x);
}

struct Backward {
  bool from_y, with_alpha;
};

// sums [2 or 3, C]: gx before it is rounded, and with_alpha g * df/dalpha, where g = gy * gain, 0 where |y| reaches the bound; of snake_beta
// g * df/dscale too.
template <class T, bool kLast, bool kClamps, class Tag>
void bwd_block(const Rows& rows, int64_t block, const T* gy, const T* saved, const Numbers<Acc<T>>& v, Backward how, Tag act, T* gx, Acc<T>* sums) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *bias = v.bias.data() + channel, *alpha = v.alpha.data() + channel, *scale = v.scale.data() + channel;
    A *bias_sum = sums + channel, *alpha_sum = bias_sum + rows.c, *scale_sum = alpha_sum + rows.c;
    const bool from_y = how.from_y;
    const A bias0 = *bias, alpha0 = *alpha, scale0 = *scale, gain = v.gain, limit = v.bound, undone = from_y ? A(1) / gain : A(1);
    const auto slope = [&](int64_t i, A z, A a, A s) __attribute__((always_inline)) {
      if constexpr (!kClamps) return static_cast<A>(gy[at + i]) * gain;
      const A y = from_y ? static_cast<A>(saved[at + i]) : gain * act_fwd<A>(act, z, a, s);
      return y >= limit || y <= -limit ? A(0) : static_cast<A>(gy[at + i]) * gain;
    };
    A total = 0, alpha_total = 0, scale_total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < length; ++i) {
      const A z = static_cast<A>(saved[at + i]) * undone + (kLast ? bias[i] : bias0), a = kLast ? alpha[i] : alpha0, s = kLast ? scale[i] : scale0;
      const A g = act_bwd<A>(act, slope(i, z, a, s), z, a, from_y, s);
      gx[at + i] = narrow<T>(g);
      if constexpr (kLast) bias_sum[i] += g;
      else total += g;
    }
    if (how.with_alpha) {
#pragma omp simd reduction(+ : alpha_total, scale_total)
      for (int64_t i = 0; i < length; ++i) {
        const A z = static_cast<A>(saved[at + i]) + (kLast ? bias[i] : bias0), a = kLast ? alpha[i] : alpha0, s = kLast ? scale[i] : scale0;
        const A g = slope(i, z, a, s), term = act_alpha_bwd<A>(act, g, z, a, s);
        if constexpr (kLast) alpha_sum[i] += term;
        else alpha_total += term;
        if constexpr (std::is_same_v<Tag, std::integral_constant<Act, Act::snake_beta>>) {
          if constexpr (kLast) scale_sum[i] += act_scale_bwd<A>(g, z, a);
          else scale_total += act_scale_bwd<A>(g, z, a);
        }
      }
    }
    if constexpr (!kLast) *bias_sum += total, *alpha_sum += alpha_total;
    if constexpr (!kLast && std::is_same_v<Tag, std::integral_constant<Act, Act::snake_beta>>) *scale_sum += scale_total;
  });
}

// From signs; sums [c]. slope: the activation's where it is not 1; where it is 0 the result is 0 whatever arrives.
template <class T, bool kLast, bool kLeaks>
void signs_block(const Rows& rows, int64_t block, const T* gy, const uint8_t* signs, Acc<T> gain_, Acc<T> slope_, T* gx, Acc<T>* sums) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A gain = gain_, slope = slope_;
    A on[kPiece];  // the slope, never below 0, or -1: bytes in the loop of the sums would keep it from vectors
    for (int64_t first = 0; first < length; first += kPiece) {
      const int64_t from = at + first, count = std::min(kPiece, length - first);
      const uint8_t* s = signs + from;
      const T* g = gy + from;
      T* out = gx + from;
      A* sum = sums + channel + (kLast ? first : 0);
      A total = 0;
      for (int64_t i = 0; i < count; ++i) on[i] = s[i] == 1 ? A(1) : (s[i] == 0 ? slope : A(-1));
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < count; ++i) {
        const A scaled = static_cast<A>(g[i]) * gain, f = on[i];
        A result;
        if constexpr (kLeaks) result = f == A(-1) ? A(0) : scaled * f;
        else result = f > 0 ? scaled : A(0);
        out[i] = narrow<T>(result);
        if constexpr (kLast) sum[i] += result;
        else total += result;
      }
      if constexpr (!kLast) *sum += total;
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> from_signs(const at::Tensor& gy, const at::Tensor& signs, Act act, double alpha_value, double gain,
                                                          bool channels_last) {
  auto gx = at::empty_like(gy);
  const Rows rows = Rows::spread_out(gy, channels_last);
  const double slope = act == Act::linear ? 1 : act == Act::relu ? 0 : alpha_value;
  at::Tensor gbias;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gy.scalar_type(), "bias_act_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const auto run = rows.channels_last ? (slope != 0 ? &signs_block<T, true, true> : &signs_block<T, true, false>)
                                        : (slope != 0 ? &signs_block<T, false, true> : &signs_block<T, false, false>);
    const T* g = gy.const_data_ptr<T>();
    const auto* bytes = static_cast<const uint8_t*>(signs.const_data_ptr());
    T* out = gx.data_ptr<T>();
    const auto sums = reduce_blocks<A>(rows, 1, [&](int64_t b, A* into) { run(rows, b, g, bytes, gain, slope, out, into); });
    gbias = as_tensor<A>(sums.data(), rows.channels(), gy.options());
  });
  return {gx, gbias, at::empty({0}, gbias.options())};
}

// saved: y if from_y, else x; or the forward's signs, which hold the clamp.
std::tuple<at::Tensor, at::Tensor, at::Tensor> bias_act_bwd_cpu(const at::Tensor& gy, const at::Tensor& saved, const MaybeTensor& bias, const MaybeTensor& alpha,
                                                                c10::string_view act, double alpha_value, double gain, MaybeDouble limit, bool from_y,
                                                                bool channels_last) {
  if (!saved.is_floating_point()) return from_signs(gy, saved, parse_act(act), alpha_value, gain, channels_last);
  auto gx = at::empty_like(gy);
  const Rows rows = Rows::spread_out(gy, channels_last);
  const Backward how{from_y, alpha && alpha->defined()};
  at::Tensor gbias, galpha;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gy.scalar_type(), "bias_act_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const Numbers<A> v(rows, from_y ? MaybeTensor() : bias, alpha, alpha_value, gain, limit);
    const T *g = gy.const_data_ptr<T>(), *from = saved.const_data_ptr<T>();
    T* out = gx.data_ptr<T>();
    const Act parsed = parse_act(act);
    const int64_t terms = parsed == Act::snake_beta ? 3 : 2;
    with_sines(parsed, [&](auto tag) {
      const auto run = rows.channels_last ? (limit ? &bwd_block<T, true, true, decltype(tag)> : &bwd_block<T, true, false, decltype(tag)>)
                                          : (limit ? &bwd_block<T, false, true, decltype(tag)> : &bwd_block<T, false, false, decltype(tag)>);
      const auto sums = reduce_blocks<A>(rows, terms, [&](int64_t b, A* into) { run(rows, b, g, from, v, how, tag, out, into); });
      const int64_t c = rows.channels();
      gbias = as_tensor<A>(sums.data(), c, gy.options());
      galpha = as_tensor<A>(sums.data() + c, how.with_alpha ? (terms - 1) * c : 0, gy.options());
      if (terms == 3) galpha = galpha.view({2, c});
    });
  });
  return {gx, gbias, galpha};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("bias_act_fwd_native", bias_act_fwd_cpu);
  m.impl("bias_act_fwd_native_", bias_act_fwd_cpu_);
  m.impl("bias_act_bwd_native", bias_act_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
