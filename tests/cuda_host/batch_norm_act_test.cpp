#include "host_test.h"

#include "../../csrc/batch_norm_act/cuda.cu"

using namespace host_test;

template <class T>
void run(const char* name, int64_t n, int64_t image, int64_t l, bool channels_last, Act act, bool affine, bool with_alpha, bool training, double offset = 0,
         int shift = 0, bool per_image = false) {
  if (!wanted(name)) return;
  const BatchNormShape claimed{n + overrun, image, l, channels_last, per_image};
  const int64_t c = per_image ? n * image : image, count = n * image * l / c;  // channels with statistics of their own, and their values
  Buffer<T> x(c * count, shift), gy(c * count), y(c * count), gx(c * count);
  Buffer<float> mean(c), var(c), invstd(c), weight(c), bias(c), alpha(c), gweight(c), gbias(c), galpha(c), scratch(batch_norm_act_scratch(claimed));
  x.randomize(), gy.randomize(), weight.randomize(), bias.randomize(), alpha.randomize();
  auto channel = [&](int64_t i) { return (channels_last ? i / (image * l) * image + i % image : i / l) % c; };
  for (int64_t i = 0; i < x.count; ++i) x.set(i, x[i] * (1 + channel(i) % 3) + offset * (1 + channel(i)));

  batch_norm_act_stats_cuda(claimed, dtype_of<T>(), x.data(), mean.data(), var.data(), scratch.data(), nullptr);
  std::vector<double> want_mean(c), want_var(c), size(c);
  for (int64_t i = 0; i < x.count; ++i) want_mean[channel(i)] += x[i] / count;
  for (int64_t i = 0; i < x.count; ++i) want_var[channel(i)] += (x[i] - want_mean[channel(i)]) * (x[i] - want_mean[channel(i)]) / count;
  for (int64_t i = 0; i < c; ++i) size[i] = std::fabs(want_mean[i]) + want_var[i];
  check("mean", mean, want_mean, size);
  check("var", var, want_var, size);

  for (int64_t i = 0; i < c; ++i) invstd.set(i, 1 / std::sqrt(want_var[i] + 1e-5));
  const float *w = affine ? weight.data() : nullptr, *b = affine ? bias.data() : nullptr, *a = with_alpha ? alpha.data() : nullptr;
  std::vector<double> want_y(x.count), centre(x.count), g(x.count), want_gx(x.count), sum_g(c), sum_gx(c), sum_ga(c), sums(c);
  for (int64_t i = 0; i < x.count; ++i) {
    const int64_t k = channel(i);
    const double xhat = (x[i] - mean[k]) * invstd[k], z = xhat * (affine ? weight[k] : 1) + (affine ? bias[k] : 0), slope = with_alpha ? alpha[k] : 0.4f;
    want_y[i] = act_fwd<double>(act, z, slope), centre[i] = xhat;
    const bool off = act == Act::relu && z < -0.01;  // not where the kernel's own z may have another sign
    if (off) gy.set(i, INFINITY);                    // of which nothing may arrive
    g[i] = off ? 0 : gy[i] * act_grad<double>(act, z, slope, false);
    const double ga = off ? 0 : gy[i] * act_alpha_grad<double>(act, z, slope);
    sum_g[k] += g[i], sum_gx[k] += g[i] * xhat, sum_ga[k] += ga, sums[k] += std::fabs(g[i]) * (1 + std::fabs(xhat)) + std::fabs(ga);
  }
  for (int64_t i = 0; i < x.count; ++i) {
    const int64_t k = channel(i);
    want_gx[i] = (affine ? weight[k] : 1) * invstd[k] * (g[i] - (training ? (sum_g[k] + centre[i] * sum_gx[k]) / count : 0));
  }
  batch_norm_act_fwd_cuda(claimed, dtype_of<T>(), x.data(), mean.data(), invstd.data(), w, b, a, act, 0.4f, y.data(), nullptr);
  check("y", y, want_y, {4});
  batch_norm_act_bwd_cuda(claimed, dtype_of<T>(), gy.data(), x.data(), mean.data(), invstd.data(), w, b, a, act, 0.4f, training, gx.data(), gweight.data(),
                          gbias.data(), with_alpha ? galpha.data() : nullptr, scratch.data(), nullptr);
  check("gbias", gbias, sum_g, sums);
  check("gweight", gweight, sum_gx, sums);
  if (with_alpha) check("galpha", galpha, sum_ga, sums);
  check("gx", gx, want_gx, {8});
  if (training) return;
  gy.set(0, INFINITY);  // by running statistics an infinite gradient stays where it is
  batch_norm_act_bwd_cuda(claimed, dtype_of<T>(), gy.data(), x.data(), mean.data(), invstd.data(), w, b, a, act, 0.4f, training, gx.data(), gweight.data(),
                          gbias.data(), with_alpha ? galpha.data() : nullptr, scratch.data(), nullptr);
  if (std::isfinite(gx[0])) std::printf("%s: gx[0] is %.9g, want an infinity\n", name, gx[0]), ++failures;
  gx.set(0, want_gx[0]);
  check("gx beside an infinity", gx, want_gx, {8});
}

int main(int argc, char** argv) {
  options(argc, argv);
  //                                  n   c   l  last   act             affine alpha train
  run<float>("nchw", 3, 5, 24, false, Act::relu, true, false, true);
  run<float>("nchw, odd rows, far mean", 2, 3, 35, false, Act::tanh, true, false, true, 300);
  run<float>("nchw, unaligned", 2, 2, 32, false, Act::sigmoid, false, false, true, 0, 1);
  run<float>("nchw, several chunks", 2, 1, 4100, false, Act::elu, true, false, true, 20);
  run<float>("nhwc, several chunks", 3, 20, 49, true, Act::snake, true, true, true);
  run<float>("nhwc, rgb", 2, 3, 25, true, Act::linear, false, false, false);
  run<float>("one value a channel", 1, 6, 1, false, Act::silu, true, false, false);
  run<BFloat16>("nhwc, bfloat16", 2, 36, 9, true, Act::leaky_relu, true, false, true, 1);
  run<Half>("nchw, half", 2, 3, 40, false, Act::gelu, true, false, true);
  run<Half>("rows, half", 13, 8, 1, false, Act::softplus, true, true, true);
  run<BFloat16>("nchw, bfloat16, selu", 1, 2, 33, false, Act::selu, false, false, false);
  run<float>("nhwc, 130 channels", 2, 132, 3, true, Act::prelu, true, true, true);
  run<float>("images nchw", 3, 5, 24, false, Act::relu, true, true, true, 0, 0, true);
  run<float>("images nchw, far mean", 2, 2, 300, false, Act::tanh, true, false, true, 300, 0, true);
  run<float>("images nhwc, odd", 3, 5, 35, true, Act::snake, true, true, true, 20, 0, true);
  run<float>("images nhwc, across blocks", 3, 100, 9, true, Act::elu, true, true, true, 0, 0, true);
  run<BFloat16>("images nhwc, several chunks", 2, 36, 100, true, Act::leaky_relu, false, false, true, 0, 0, true);
  run<Half>("images nhwc, half", 5, 8, 4, true, Act::silu, true, false, true, 0, 1, true);
  return finish();
}
