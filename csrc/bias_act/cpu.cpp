// CPU bias + activation + gain + clamp: one pass forward, one backward with its channel sums.
#include <torch/library.h>

#include "../common/cpu_rows.h"

namespace ganfast {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using MaybeDouble = std::optional<double>;

// The numbers of one call; bias and alpha as columns of the rows.
template <class A> struct Numbers {
  std::vector<A> bias, alpha;
  A gain, bound;

  Numbers(const Rows& rows, const MaybeTensor& bias_of, const MaybeTensor& alpha_of, double alpha_value, double gain_, MaybeDouble bound_)
      : bias(as_columns<A>(rows, bias_of, 0)), alpha(as_columns<A>(rows, alpha_of, alpha_value)), gain(gain_), bound(bound_.value_or(0)) {}
};

// x and y may be the same memory. kClamps here and below: two comparisons are a third of what bfloat16's leaky_relu costs.
template <class T, bool kLast, bool kClamps, class Tag> void fwd_block(const Rows& rows, int64_t block, const T* x, const Numbers<Acc<T>>& v, Tag act, T* y) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *bias = v.bias.data() + channel, *alpha = v.alpha.data() + channel;
    const A bias0 = *bias, alpha0 = *alpha, gain = v.gain, clamp = v.bound;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      A value = gain * act_fwd<A>(act, static_cast<A>(x[at + i]) + (kLast ? bias[i] : bias0), kLast ? alpha[i] : alpha0);
      if constexpr (kClamps) value = value > clamp ? clamp : (value < -clamp ? -clamp : value);  // NaN stays
      y[at + i] = narrow<T>(value);
    }
  });
}

void forward(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain, MaybeDouble clamp,
             bool channels_last, const at::Tensor& y) {
  const Rows rows = Rows::spread_out(x, channels_last);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "bias_act_fwd_cpu", [&] {
    using T = scalar_t;
    const Numbers<Acc<T>> v(rows, bias, alpha, alpha_value, gain, clamp);
    const T* in = x.const_data_ptr<T>();
    T* out = y.data_ptr<T>();
    with_act(parse_act(act), [&](auto tag) {
      const auto run = rows.channels_last ? (clamp ? &fwd_block<T, true, true, decltype(tag)> : &fwd_block<T, true, false, decltype(tag)>)
                                          : (clamp ? &fwd_block<T, false, true, decltype(tag)> : &fwd_block<T, false, false, decltype(tag)>);
      each_block(rows, [&](int64_t b) { run(rows, b, in, v, tag, out); });
    });
  });
}

at::Tensor bias_act_fwd_cpu(const at::Tensor& x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                            MaybeDouble clamp, bool channels_last) {
  auto y = at::empty_like(x);
  forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, y);
  return y;
}

void bias_act_fwd_cpu_(at::Tensor x, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act, double alpha_value, double gain,
                       MaybeDouble clamp, bool channels_last) {
  forward(x, bias, alpha, act, alpha_value, gain, clamp, channels_last, x);
}

struct Backward {
  bool from_y, with_alpha;
};

// sums [2, C]: gx before it is rounded, and with_alpha g * df/dalpha, where g = gy * gain, 0 where |y| reaches the bound.
template <class T, bool kLast, bool kClamps, class Tag>
void bwd_block(const Rows& rows, int64_t block, const T* gy, const T* saved, const Numbers<Acc<T>>& v, Backward how, Tag act, T* gx, Acc<T>* sums) {
  using A = Acc<T>;
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *bias = v.bias.data() + channel, *alpha = v.alpha.data() + channel;
    A *bias_sum = sums + channel, *alpha_sum = bias_sum + rows.c;
    const bool from_y = how.from_y;
    const A bias0 = *bias, alpha0 = *alpha, gain = v.gain, limit = v.bound, scale = from_y ? A(1) / gain : A(1);
    const auto slope = [&](int64_t i, A z, A a) __attribute__((always_inline)) {
      if constexpr (!kClamps) return static_cast<A>(gy[at + i]) * gain;
      const A y = from_y ? static_cast<A>(saved[at + i]) : gain * act_fwd<A>(act, z, a);
      return y >= limit || y <= -limit ? A(0) : static_cast<A>(gy[at + i]) * gain;
    };
    A total = 0, alpha_total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < length; ++i) {
      const A z = static_cast<A>(saved[at + i]) * scale + (kLast ? bias[i] : bias0), a = kLast ? alpha[i] : alpha0;
      const A g = act_bwd<A>(act, slope(i, z, a), z, a, from_y);
      gx[at + i] = narrow<T>(g);
      if constexpr (kLast) bias_sum[i] += g;
      else total += g;
    }
    if (how.with_alpha)
      for (int64_t i = 0; i < length; ++i) {
        const A z = static_cast<A>(saved[at + i]) + (kLast ? bias[i] : bias0), a = kLast ? alpha[i] : alpha0;
        const A term = act_alpha_bwd<A>(act, slope(i, z, a), z, a);
        if constexpr (kLast) alpha_sum[i] += term;
        else alpha_total += term;
      }
    if constexpr (!kLast) *bias_sum += total, *alpha_sum += alpha_total;
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bias_act_bwd_cpu(const at::Tensor& gy, const at::Tensor& saved, const MaybeTensor& bias, const MaybeTensor& alpha,
                                                                c10::string_view act, double alpha_value, double gain, MaybeDouble limit, bool from_y,
                                                                bool channels_last) {
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
    with_act(parse_act(act), [&](auto tag) {
      const auto run = rows.channels_last ? (limit ? &bwd_block<T, true, true, decltype(tag)> : &bwd_block<T, true, false, decltype(tag)>)
                                          : (limit ? &bwd_block<T, false, true, decltype(tag)> : &bwd_block<T, false, false, decltype(tag)>);
      const auto sums = reduce_blocks<A>(rows, 2, [&](int64_t b, A* into) { run(rows, b, g, from, v, how, tag, out, into); });
      const int64_t c = rows.channels();
      gbias = as_tensor<A>(sums.data(), c, gy.options()), galpha = as_tensor<A>(sums.data() + c, how.with_alpha ? c : 0, gy.options());
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
