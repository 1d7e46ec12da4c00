#include "host_test.h"

#include "../../csrc/group_norm_act/cuda.cu"

using namespace host_test;

template <class T>
void run(const char* name, int64_t n, int64_t c, int64_t l, int64_t groups, bool channels_last, Act act, bool affine = true, bool with_alpha = false, bool modulated = false,
         double offset = 0, int shift_by = 0) {
  if (!wanted(name)) return;
  const GroupNormShape claimed{n + overrun, c, l, groups, channels_last};
  const int64_t size = n * c * l, columns = n * c, width = c / groups, sets = n * groups;
  const double values = static_cast<double>(width * l);
  Buffer<T> x(size, shift_by), gy(size), y(size), gx(size);
  Buffer<float> mean(sets), invstd(sets), weight(c), bias(c), alpha(c), scale(columns), shift(columns), gweight(c), gbias(c), galpha(c), gscale(columns), gshift(columns),
      scratch(group_norm_act_scratch(claimed));
  x.randomize(), gy.randomize();
  for (auto* t : {&weight, &bias, &alpha, &scale, &shift}) t->randomize();
  auto column = [&](int64_t i) { return channels_last ? i / (c * l) * c + i % c : i / l; };
  for (int64_t i = 0; i < size; ++i) x.set(i, x[i] * (1 + column(i) % 3) + offset * (1 + column(i) % c));

  std::vector<double> want_mean(sets), want_var(sets), want_invstd(sets), bound(sets);
  for (int64_t i = 0; i < size; ++i) want_mean[column(i) / width] += x[i] / values;
  for (int64_t i = 0; i < size; ++i) want_var[column(i) / width] += (x[i] - want_mean[column(i) / width]) * (x[i] - want_mean[column(i) / width]) / values;
  for (int64_t k = 0; k < sets; ++k) want_invstd[k] = 1 / std::sqrt(want_var[k] + 1e-5), bound[k] = std::fabs(want_mean[k]);
  const GroupNormVectors v{affine ? weight.data() : nullptr, affine ? bias.data() : nullptr, modulated ? scale.data() : nullptr, modulated ? shift.data() : nullptr,
                           with_alpha ? alpha.data() : nullptr, act, 0.4f};
  group_norm_act_fwd_cuda(claimed, dtype_of<T>(), x.data(), v, 1e-5f, y.data(), mean.data(), invstd.data(), nullptr);
  check("mean", mean, want_mean, bound);
  check("invstd", invstd, want_invstd, {1});

  std::vector<double> want_y(size), g(size), xhat(size), gain(columns), want_gx(size), of_g(sets), of_product(sets);
  std::vector<double> bias_sum(c), weight_sum(c), alpha_sum(c), bounds(c), scale_sum(columns), shift_sum(columns), column_bounds(columns);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t k = column(i), channel = k % c;
    const double w = affine ? weight[channel] : 1, b = affine ? bias[channel] : 0, by = modulated ? scale[k] : 1, slope = with_alpha ? alpha[channel] : 0.4f;
    xhat[i] = (x[i] - mean[k / width]) * invstd[k / width], gain[k] = w * by;
    const double inner = xhat[i] * w + b, z = inner * by + (modulated ? shift[k] : 0);
    want_y[i] = act_fwd<double>(act, z, slope);
    const bool off = act == Act::relu && z < -0.01;  // not where the kernel's own z may have another sign
    if (off) gy.set(i, INFINITY);                    // of which nothing may arrive
    g[i] = off ? 0 : gy[i] * act_grad<double>(act, z, slope, false);
    const double ga = off ? 0 : gy[i] * act_alpha_grad<double>(act, z, slope);
    bias_sum[channel] += g[i] * by, weight_sum[channel] += g[i] * by * xhat[i], alpha_sum[channel] += ga;
    scale_sum[k] += g[i] * inner, shift_sum[k] += g[i];
    of_g[k / width] += g[i] * gain[k] / values, of_product[k / width] += g[i] * gain[k] * xhat[i] / values;
    const double most = std::fabs(g[i]) * (1 + std::fabs(by)) * (1 + std::fabs(xhat[i]) + std::fabs(inner)) + std::fabs(ga);
    bounds[channel] += most, column_bounds[k] += most;
  }
  for (int64_t i = 0; i < size; ++i) want_gx[i] = invstd[column(i) / width] * (gain[column(i)] * g[i] - of_g[column(i) / width] - xhat[i] * of_product[column(i) / width]);
  check("y", y, want_y, {16});
  group_norm_act_bwd_cuda(claimed, dtype_of<T>(), gy.data(), x.data(), mean.data(), invstd.data(), v, gx.data(),
                          {gweight.data(), gbias.data(), with_alpha ? galpha.data() : nullptr, modulated ? gscale.data() : nullptr, modulated ? gshift.data() : nullptr},
                          scratch.data(), nullptr);
  check("gbias", gbias, bias_sum, bounds);
  check("gweight", gweight, weight_sum, bounds);
  if (with_alpha) check("galpha", galpha, alpha_sum, bounds);
  if (modulated) check("gscale", gscale, scale_sum, column_bounds), check("gshift", gshift, shift_sum, column_bounds);
  check("gx", gx, want_gx, {32});
}

// Channels' moments in chunks, some of them empty, into groups.
void merging(const char* name, int64_t n, int64_t c, int64_t groups, int64_t chunks) {
  if (!wanted(name)) return;
  const int64_t columns = n * c, width = c / groups, sets = n * groups;
  Buffer<float> partials(chunks * 3 * columns), mean(sets), invstd(sets), mean_columns(columns), invstd_columns(columns);
  std::vector<double> count(sets), sum(sets), square(sets), want_mean(sets), want_invstd(sets), spread_mean(columns), spread_invstd(columns);
  for (int64_t t = 0; t < chunks; ++t)
    for (int64_t k = 0; k < columns; ++k) {
      const double of = (t + k) % 3, at = of ? 100 + 3 * random_value() : 0, m2 = of ? 1 + std::fabs(random_value()) : 0;
      float* to = partials.data() + t * 3 * columns + k;
      to[0] = of, to[columns] = at, to[2 * columns] = m2;
      count[k / width] += of, sum[k / width] += of * to[columns], square[k / width] += to[2 * columns];
    }
  for (int64_t k = 0; k < sets; ++k) want_mean[k] = sum[k] / count[k];
  for (int64_t t = 0; t < chunks; ++t)
    for (int64_t k = 0; k < columns; ++k) {
      const float* from = partials.data() + t * 3 * columns + k;
      square[k / width] += from[0] * (from[columns] - want_mean[k / width]) * (from[columns] - want_mean[k / width]);
    }
  for (int64_t k = 0; k < sets; ++k) want_invstd[k] = 1 / std::sqrt(square[k] / count[k] + 1e-5);
  for (int64_t k = 0; k < columns; ++k) spread_mean[k] = want_mean[k / width], spread_invstd[k] = want_invstd[k / width];
  group_norm_act_merge_cuda({n, c, 1, groups, false}, partials.data(), chunks, 1e-5f, mean.data(), invstd.data(), mean_columns.data(), invstd_columns.data(), nullptr);
  check("mean", mean, want_mean, {100});
  check("invstd", invstd, want_invstd, {1});
  check("mean of columns", mean_columns, spread_mean, {100});
  check("invstd of columns", invstd_columns, spread_invstd, {1});
}

int main(int argc, char** argv) {
  options(argc, argv);
  //                              n   c   l   groups last  act          affine alpha modulated offset
  run<float>("nchw, two teams", 5, 6, 200, 2, false, Act::relu, true, false, true);
  run<float>("nchw, odd, far mean", 2, 3, 35, 1, false, Act::tanh, true, false, false, 300);
  run<float>("nchw, unaligned", 2, 4, 32, 2, false, Act::sigmoid, false, false, false, 0, 1);
  run<BFloat16>("nchw, one team", 3, 4, 700, 2, false, Act::silu);
  run<float>("nchw, many channels", 2, 80, 12, 2, false, Act::softplus, true, true, true);
  run<Half>("nhwc, runs of 8", 5, 16, 70, 2, true, Act::leaky_relu, true, false, true);
  run<float>("nhwc, odd", 3, 15, 7, 3, true, Act::snake, true, true, true, 5);
  run<BFloat16>("nhwc, wide", 2, 264, 9, 1, true, Act::gelu);
  run<Half>("rows", 70, 48, 1, 1, false, Act::elu, true, true);
  run<float>("rows, wide", 5, 2100, 1, 1, false, Act::prelu, true, true);
  run<float>("rows, groups", 13, 20, 1, 4, true, Act::selu);
  run<float>("instances", 3, 5, 40, 5, false, Act::linear, false);
  merging("merge", 3, 12, 4, 5);
  merging("merge, wide", 1, 80, 2, 3);
  return finish();
}
