#include "host_test.h"

#include "../../csrc/bias_act/cuda.cu"

using namespace host_test;

struct Options {
  bool bias = true, alpha = false, from_y = false, overwrite = false;
  float gain = 1, clamp = NAN;
  int shift = 0;
  bool residual = false, first = false, signs = false;
  float factor = 1;
};

template <class T> void run(const char* name, int64_t n, int64_t c, int64_t l, bool channels_last, Act act, Options o) {
  if (!wanted(name)) return;
  const BiasActShape claimed{n + overrun, c, l, channels_last};
  Buffer<T> x(n * c * l, o.shift), gy(n * c * l), y(n * c * l), gx(n * c * l), residual(n * c * l);
  std::vector<uint8_t> signs(o.signs ? n * c * l : 0, 77);
  Buffer<float> bias(c), alpha(c), gbias(c), galpha(c), scratch(bias_act_bwd_scratch(claimed));
  x.randomize(), gy.randomize(), residual.randomize(), bias.randomize(), alpha.randomize();
  const float *b = o.bias ? bias.data() : nullptr, *a = o.alpha ? alpha.data() : nullptr;
  const double bound = std::isnan(o.clamp) ? INFINITY : o.clamp;
  auto channel = [&](int64_t i) { return channels_last ? i % c : i / l % c; };
  auto slope = [&](int64_t i) { return o.alpha ? alpha[channel(i)] : 0.7f; };
  auto pre = [&](int64_t i) { return x[i] + (o.bias ? bias[channel(i)] : 0) + (o.residual && o.first ? residual[i] : 0); };
  auto unclamped = [&](int64_t i) { return o.gain * act_fwd<double>(act, pre(i), slope(i)); };

  std::vector<double> want_y(x.count), want_gx(x.count), sum_g(c), sum_ga(c), sums(c);
  for (int64_t i = 0; i < x.count; ++i) {
    want_y[i] = (std::fmax(-bound, std::fmin(bound, unclamped(i))) + (o.residual && !o.first ? residual[i] : 0)) * o.factor;
    if (std::fabs(std::fabs(unclamped(i)) - bound) < 0.02 * bound) gy.set(i, 0);  // which side of the bound it falls on is rounding's
  }
  Buffer<T> in(x.count, o.shift);
  for (int64_t i = 0; i < x.count; ++i) in.set(i, x[i]);
  const BiasActAdded added{o.residual ? residual.data() : nullptr, o.first, o.factor, o.signs ? signs.data() : nullptr};
  bias_act_fwd_cuda(claimed, dtype_of<T>(), in.data(), b, a, act, 0.7f, o.gain, o.clamp, added, o.overwrite ? in.data() : y.data(), nullptr);
  if (o.overwrite)
    for (int64_t i = 0; i < x.count; ++i) y.set(i, in[i]);
  check("y", y, want_y, {4});
  for (const uint8_t sign : signs) hash = (hash ^ sign) * 1099511628211ull;

  for (int64_t i = 0; i < x.count; ++i) {
    const int64_t k = channel(i);
    const double z = o.from_y ? y[i] / o.gain : pre(i), g = std::fabs(unclamped(i)) >= bound ? 0 : gy[i] * o.gain;
    const bool off = act == Act::relu && z <= 0;
    if (off) gy.set(i, INFINITY);  // of which nothing may arrive
    want_gx[i] = off ? 0 : g * act_grad<double>(act, z, slope(i), o.from_y);
    const double ga = act == Act::prelu && z > 0 ? 0 : g * act_alpha_grad<double>(act, z, slope(i));
    sum_g[k] += want_gx[i], sum_ga[k] += ga, sums[k] += std::fabs(want_gx[i]) + std::fabs(ga);
  }
  if (o.signs) {
    bias_act_bwd_signs_cuda(claimed, dtype_of<T>(), gy.data(), signs.data(), act, 0.7f, o.gain, gx.data(), gbias.data(), scratch.data(), nullptr);
    check("gx", gx, want_gx, {8});
    check("gbias", gbias, sum_g, sums);
    return;
  }
  if (o.residual) return;  // its backward is that of no residual
  const float limit = o.from_y ? static_cast<float>(y.rounded(o.clamp)) : o.clamp;
  bias_act_bwd_cuda(claimed, dtype_of<T>(), gy.data(), o.from_y ? y.data() : x.data(), b, a, act, 0.7f, o.gain, limit, o.from_y, gx.data(), gbias.data(),
                    o.alpha ? galpha.data() : nullptr, scratch.data(), nullptr);
  check("gx", gx, want_gx, {8});
  check("gbias", gbias, sum_g, sums);
  if (o.alpha) check("galpha", galpha, sum_ga, sums);
}

int main(int argc, char** argv) {
  options(argc, argv);
  //                          n   c   l  last   act
  run<float>("nchw, learned", 3, 5, 24, false, Act::prelu, {.alpha = true});
  run<float>("nchw, odd rows", 2, 3, 35, false, Act::tanh, {.from_y = true, .gain = 1.5f, .clamp = 1});
  run<float>("nchw, unaligned", 1, 2, 32, false, Act::elu, {.from_y = true, .shift = 1});
  run<float>("nchw, overwritten", 2, 3, 40, false, Act::leaky_relu, {.overwrite = true, .gain = 1.41421356f, .clamp = 1.2f});
  run<float>("nhwc, learned", 3, 20, 49, true, Act::snake, {.alpha = true, .gain = -0.5f, .clamp = 0.6f});
  run<float>("nhwc, rgb, chunks", 2, 3, 4100, true, Act::softplus, {.from_y = true});
  run<BFloat16>("nhwc, bfloat16", 2, 36, 9, true, Act::gelu, {.gain = 2, .clamp = 0.7f});
  run<Half>("nchw, half", 2, 3, 40, false, Act::selu, {.from_y = true, .gain = 0.5f, .clamp = 0.7f});
  run<Half>("rows, half", 7, 12, 1, false, Act::softplus, {.alpha = true, .overwrite = true});
  run<BFloat16>("nchw, bfloat16, no bias", 1, 2, 33, false, Act::silu, {.bias = false, .gain = 0});
  run<float>("nhwc, 130 channels", 2, 132, 3, true, Act::linear, {.from_y = true, .gain = 3, .clamp = 2});
  run<float>("nchw, sigmoid", 2, 3, 12, false, Act::sigmoid, {.bias = false});
  run<Half>("nhwc, relu", 2, 8, 12, true, Act::relu, {.from_y = true, .overwrite = true});
  run<float>("nchw, added", 2, 3, 40, false, Act::tanh, {.gain = 1.5f, .clamp = 0.8f, .residual = true, .factor = 0.7f});
  run<float>("nhwc, added, unaligned", 2, 8, 12, true, Act::silu, {.shift = 1, .residual = true});
  run<Half>("nchw, added first", 2, 3, 35, false, Act::softplus, {.overwrite = true, .residual = true, .first = true, .factor = 0.7f});
  run<float>("nchw, added, signs", 2, 3, 40, false, Act::relu, {.overwrite = true, .residual = true, .signs = true});
  run<BFloat16>("nhwc, added, signs", 2, 36, 9, true, Act::leaky_relu, {.gain = 1.4f, .clamp = 0.7f, .residual = true, .signs = true});
  run<Half>("nchw, odd, added first, signs", 2, 3, 35, false, Act::leaky_relu, {.bias = false, .residual = true, .first = true, .signs = true});
  run<float>("nhwc, rgb, signs alone", 2, 3, 70, true, Act::linear, {.clamp = 0.9f, .signs = true});
  return finish();
}
