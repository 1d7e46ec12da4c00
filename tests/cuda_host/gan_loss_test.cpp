#include "host_test.h"

#include "../../csrc/gan_loss/cuda.cu"

using namespace host_test;

static double softplus(double v) { return std::fmax(v, 0) + std::log1p(std::exp(-std::fabs(v))); }

// The design's table, straight; the gradient comes from central differences in float64.
static double loss_of(const GanLossShape& s, const std::vector<double>& real, const std::vector<double>& fake) {
  double sum_real = 0, sum_fake = 0, mean_real = 0, mean_fake = 0;
  const double target = 1 - s.smoothing;
  for (double r : real) mean_real += r / real.size();
  for (double f : fake) mean_fake += f / fake.size();
  const bool d = !s.generator;
  for (double r : real) {
    if (s.kind == GanLoss::minimax || s.kind == GanLoss::nonsaturating) sum_real += d ? target * softplus(-r) + s.smoothing * softplus(r) : 0;
    if (s.kind == GanLoss::hinge) sum_real += d ? std::fmax(1 - r, 0) : 0;
    if (s.kind == GanLoss::lsgan) sum_real += d ? (r - target) * (r - target) / 2 : 0;
    if (s.kind == GanLoss::wasserstein) sum_real += d ? -r : 0;
    if (s.kind == GanLoss::relativistic_average) sum_real += softplus(d ? mean_fake - r : r - mean_fake);
  }
  for (size_t i = 0; i < fake.size(); ++i) {
    const double f = fake[i];
    if (s.kind == GanLoss::minimax) sum_fake += d ? softplus(f) : -softplus(f);
    if (s.kind == GanLoss::nonsaturating) sum_fake += d ? softplus(f) : softplus(-f);
    if (s.kind == GanLoss::hinge) sum_fake += d ? std::fmax(1 + f, 0) : -f;
    if (s.kind == GanLoss::lsgan) sum_fake += d ? f * f / 2 : (f - 1) * (f - 1) / 2;
    if (s.kind == GanLoss::wasserstein) sum_fake += d ? f : -f;
    if (s.kind == GanLoss::relativistic) sum_fake += softplus(d ? f - real[i] : real[i] - f);
    if (s.kind == GanLoss::relativistic_average) sum_fake += softplus(d ? f - mean_real : mean_real - f);
  }
  return (real.empty() ? 0 : sum_real / real.size()) + sum_fake / fake.size();
}

template <class T> void run(const std::string& name, GanLossShape s, double size = 2) {
  if (!wanted(name)) return;
  Buffer<T> real(s.n_real), fake(s.n_fake);
  real.randomize(size), fake.randomize(size);
  for (Buffer<T>* logits : {&real, &fake})
    for (int64_t i = 0; i < logits->count; ++i)
      if (std::fabs((*logits)[i]) == 1) logits->set(i, 1.5);  // hinge's corners have no slope to compare
  std::vector<double> r(s.n_real), f(s.n_fake), want_real(s.n_real), want_fake(s.n_fake), stats(5);
  const double threshold = s.kind == GanLoss::lsgan ? 0.5 : 0;
  for (int64_t i = 0; i < s.n_real; ++i) r[i] = real[i], stats[0] += (r[i] > threshold) / double(s.n_real), stats[2] += r[i] / s.n_real, stats[4] += ((r[i] > 0) - (r[i] < 0)) / double(s.n_real);
  for (int64_t i = 0; i < s.n_fake; ++i) f[i] = fake[i], stats[1] += (f[i] < threshold) / double(s.n_fake), stats[3] += f[i] / s.n_fake;
  const double want = loss_of(s, r, f);
  auto slopes = [&](std::vector<double>& at, std::vector<double>& to) {
    const int64_t every = at.size() > 1000 ? at.size() / 7 : 1;  // long ones at a few places: a difference costs a pass
    const double h = at.size() > 1000 ? 1e-3 : 1e-5;  // the rounding of a long sum, divided by 2 h, must stay small
    for (size_t i = 0; i < at.size(); i += every) {
      const double keep = at[i];
      at[i] = keep + h;
      const double up = loss_of(s, r, f);
      at[i] = keep - h;
      to[i] = (up - loss_of(s, r, f)) / (2 * h) * at.size();
      at[i] = keep;
    }
  };
  slopes(r, want_real), slopes(f, want_fake);

  Buffer<float> loss(1), greal(s.n_real), gfake(s.n_fake), got(5);
  s.n_fake += overrun;
  Buffer<float> scratch(gan_loss_fwd_scratch(s));
  cuda_host::launches = 0;
  gan_loss_fwd_cuda(s, dtype_of<T>(), s.n_real ? real.data() : nullptr, fake.data(), loss.data(), greal.data(), gfake.data(), got.data(), scratch.data(), nullptr);
  const bool few = s.n_real + s.n_fake <= 65536;  // loss, gradients and statistics in one launch
  if ((cuda_host::launches == 1) != few) std::printf("%s: %d launches\n", current.c_str(), cuda_host::launches), ++failures;
  check("loss", loss, {want}, {std::fabs(want)});
  check("stats", got, stats, {2});
  auto scaled = [&](Buffer<float>& gradient, const std::vector<double>& to) {  // by the count, so that the limit is of one size
    for (int64_t i = 0; i < gradient.count; ++i) gradient.set(i, gradient.count > 1000 && i % (gradient.count / 7) ? (std::isnan(gradient[i]) ? NAN : 0) : gradient[i] * gradient.count);
    check("gradient", gradient, to, {4});
  };
  scaled(greal, want_real), scaled(gfake, want_fake);
}

int main(int argc, char** argv) {
  options(argc, argv);
  const char* names[] = {"minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average"};
  for (int kind = 0; kind < 7; ++kind)
    for (bool generator : {false, true}) {
      GanLoss parsed{};
      if (!gan_loss_from_name(names[kind], &parsed) || parsed != static_cast<GanLoss>(kind)) ++failures;
      const std::string name = std::string(names[kind]) + (generator ? " generator" : " discriminator");
      const bool same = parsed == GanLoss::relativistic, smooth = !generator && (kind < 2 || parsed == GanLoss::lsgan);
      run<float>(name, {61, same ? 61 : 37, parsed, generator, smooth ? 0.1f : 0});
      if (generator && kind < 5) run<BFloat16>(name + ", fake only", {0, 19, parsed, generator, 0});
    }
  run<Half>("hinge, half", {700, 600, GanLoss::hinge, false, 0});
  run<float>("nonsaturating, far out", {9, 9, GanLoss::nonsaturating, false, 0}, 4000);
  run<float>("minimax, several blocks", {40000, 35001, GanLoss::minimax, false, 0.2f});
  run<BFloat16>("relativistic, several blocks", {33001, 33001, GanLoss::relativistic, true, 0});
  run<float>("relativistic_average, several blocks", {30001, 36000, GanLoss::relativistic_average, false, 0});
  return finish();
}
