#include "host_test.h"

#include "../../csrc/batch_norm_act/cuda_modulated.cu"

using namespace host_test;

// What is read beside x, and how: scale and shift of [n, c] or of x's shape; a residual before or after the activation.
struct Form {
  bool columns = false, full = false, residual = false, first = false;
  double factor = 1;
};

// groups 0: a channel of all images, by statistics [c]; else groups of each image's channels, by statistics [n * c].
template <class T> void run(const char* name, int64_t n, int64_t c, int64_t l, bool channels_last, Act act, int64_t groups, Form form, bool with_alpha = false, bool training = true, int shift_by = 0) {
  if (!wanted(name)) return;
  const BatchNormShape claimed{n + overrun, c, l, channels_last, true};
  const int64_t size = n * c * l, columns = n * c, width = groups ? c / groups : 1, statistics = groups ? columns : c;
  Buffer<T> x(size, shift_by), gy(size), y(size), gx(size), by(size), more(size), residual(size), full_gscale(size), full_gshift(size);
  Buffer<float> mean(statistics), invstd(statistics), weight(c), bias(c), alpha(c), scale(columns), shift(columns), gweight(c), gbias(c), galpha(c), gscale(columns),
      gshift(columns), scratch(modulated_norm_act_scratch(claimed));
  for (auto* t : {&x, &gy, &by, &more, &residual}) t->randomize();
  for (auto* t : {&mean, &weight, &bias, &alpha, &scale, &shift}) t->randomize();
  for (int64_t i = 0; i < statistics; ++i) invstd.set(i, 0.6 + 0.1 * (i % 7));
  auto column = [&](int64_t i) { return channels_last ? i / (c * l) * c + i % c : i / l; };
  auto set = [&](int64_t k) { return groups ? k / width : k % c; };

  const int64_t sets = groups ? n * groups : c;
  const double values = static_cast<double>(size) / sets;
  std::vector<double> want_y(size), g(size), h(size), xhat(size), inner(size), want_gx(size), want_gscale(size);
  std::vector<double> bias_sum(c), weight_sum(c), alpha_sum(c), bounds(c), of_h(sets), of_product(sets), column_scale(columns), column_shift(columns), column_bounds(columns);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t k = column(i), channel = k % c;
    const double slope = with_alpha ? alpha[channel] : 0.4f, r = form.residual ? residual[i] : 0;
    xhat[i] = (x[i] - mean[k % statistics]) * invstd[k % statistics], inner[i] = xhat[i] * weight[channel] + bias[channel];
    const double gain = form.full ? by[i] : form.columns ? scale[k] : 1;
    const double z = inner[i] * gain + (form.full ? more[i] : form.columns ? shift[k] : 0) + (form.first ? r : 0);
    want_y[i] = (act_fwd<double>(act, z, slope) + (form.first ? 0 : r)) * form.factor;
    const bool off = act == Act::relu && z < -0.01;  // not where the kernel's own z may have another sign
    if (off) gy.set(i, INFINITY);                    // of which nothing may arrive
    g[i] = off ? 0 : gy[i] * form.factor * act_grad<double>(act, z, slope, false), h[i] = g[i] * gain;
    const double ga = off ? 0 : gy[i] * form.factor * act_alpha_grad<double>(act, z, slope);
    bias_sum[channel] += h[i], weight_sum[channel] += h[i] * xhat[i], alpha_sum[channel] += ga;
    of_h[set(k)] += h[i] * weight[channel] / values, of_product[set(k)] += h[i] * weight[channel] * xhat[i] / values;
    want_gscale[i] = g[i] * inner[i], column_scale[k] += g[i] * inner[i], column_shift[k] += g[i];
    const double bound = std::fabs(g[i]) * (1 + std::fabs(inner[i]) + std::fabs(xhat[i])) + std::fabs(h[i]) * (1 + std::fabs(xhat[i])) + std::fabs(ga);
    bounds[channel] += bound, column_bounds[k] += bound;
  }
  for (int64_t i = 0; i < size; ++i) {
    const int64_t k = column(i);
    want_gx[i] = invstd[k % statistics] * (weight[k % c] * h[i] - (training ? of_h[set(k)] + xhat[i] * of_product[set(k)] : 0));
  }

  Modulation m{mean.data(), invstd.data(), weight.data(), bias.data(), with_alpha ? alpha.data() : nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, form.first,
               statistics, act, 0.4f, static_cast<float>(form.factor)};
  if (form.columns) m.scale = scale.data(), m.shift = shift.data();
  if (form.full) m.full_scale = by.data(), m.full_shift = more.data();
  if (form.residual) m.residual = residual.data();
  batch_norm_act_modulated_fwd_cuda(claimed, dtype_of<T>(), x.data(), m, y.data(), nullptr);
  check("y", y, want_y, {16});
  ModulationGradients to{gweight.data(), gbias.data(), with_alpha ? galpha.data() : nullptr, nullptr, nullptr, nullptr, nullptr};
  if (form.columns) to.gscale = gscale.data(), to.gshift = gshift.data();
  if (form.full) to.full_gscale = full_gscale.data();
  if (form.full || form.first) to.full_gshift = full_gshift.data();
  if (!form.first) m.residual = nullptr;  // the backward knows only of what comes before the activation
  batch_norm_act_modulated_bwd_cuda(claimed, dtype_of<T>(), gy.data(), x.data(), m, groups, training, gx.data(), to, scratch.data(), nullptr);
  check("gbias", gbias, bias_sum, bounds);
  check("gweight", gweight, weight_sum, bounds);
  if (with_alpha) check("galpha", galpha, alpha_sum, bounds);
  if (form.columns) check("gscale", gscale, column_scale, column_bounds), check("gshift", gshift, column_shift, column_bounds);
  if (form.full) check("gscale", full_gscale, want_gscale, {16});
  if (to.full_gshift) check("gshift", full_gshift, g, {16});
  check("gx", gx, want_gx, {32});
}

int main(int argc, char** argv) {
  options(argc, argv);
  const Form columns{true}, full{false, true}, after{false, false, true, false, 0.7}, first{false, false, true, true}, all{false, true, true, true, 0.7};
  const Form columns_first{true, false, true, true, 0.7};
  //                               n  c   l   last   act          groups form
  run<float>("columns nchw", 3, 5, 24, false, Act::relu, 0, columns);
  run<float>("columns nhwc, groups", 2, 12, 9, true, Act::silu, 3, columns, true);
  run<float>("full nchw, unaligned", 2, 4, 32, false, Act::tanh, 0, full, false, true, 1);
  run<BFloat16>("full nhwc", 2, 8, 35, true, Act::leaky_relu, 2, full);
  run<Half>("residual", 3, 6, 16, false, Act::relu, 0, after);
  run<float>("first, odd", 2, 3, 35, true, Act::prelu, 3, first, true);
  run<Half>("first, eval", 2, 5, 16, false, Act::elu, 0, columns_first, true, false);
  run<float>("all nchw, several chunks", 2, 2, 4100, false, Act::softplus, 1, all, true);
  run<float>("all nhwc, across blocks", 2, 132, 5, true, Act::gelu, 33, all);
  run<BFloat16>("many images", 40, 2, 4, false, Act::snake, 0, columns, true);
  return finish();
}
