#include "host_test.h"

#include <list>

#include "../../csrc/normalised_weights/cuda.cu"

using namespace host_test;

struct Size {
  int rows, columns;
};

// A buffer for each weight.
template <class T> std::list<Buffer<T>> buffers(const std::vector<Size>& sizes, bool of_rows, int shift) {
  std::list<Buffer<T>> made;
  for (const Size& s : sizes) made.emplace_back(of_rows ? s.rows : static_cast<int64_t>(s.rows) * s.columns, shift).randomize();
  return made;
}

template <class T> void weight_norms(const char* name, const std::vector<Size>& sizes, int shift = 0) {
  if (!wanted(name)) return;
  auto v = buffers<T>(sizes, false, shift), gw = buffers<T>(sizes, false, 0), w = buffers<T>(sizes, false, 0), gv = buffers<T>(sizes, false, 0);
  auto g = buffers<T>(sizes, true, 0), gg = buffers<T>(sizes, true, 0);
  WeightNorms forward, backward;
  forward.count = static_cast<int>(sizes.size()), forward.first[0] = 0;
  for (int i = 0; i < forward.count; ++i) {
    forward.first[i + 1] = forward.first[i] + sizes[i].rows, forward.columns[i] = sizes[i].columns + overrun;
    forward.v[i] = std::next(v.begin(), i)->data(), forward.g[i] = std::next(g.begin(), i)->data(), forward.out[i] = std::next(w.begin(), i)->data();
    forward.gw[i] = nullptr, forward.gg[i] = nullptr;
  }
  backward = forward;
  for (int i = 0; i < forward.count; ++i) {
    backward.gw[i] = std::next(gw.begin(), i)->data(), backward.out[i] = std::next(gv.begin(), i)->data(), backward.gg[i] = std::next(gg.begin(), i)->data();
  }
  Buffer<float> norms(forward.first[forward.count]);
  weight_norms_fwd_cuda(forward, dtype_of<T>(), norms.data(), nullptr);
  weight_norms_bwd_cuda(backward, dtype_of<T>(), norms.data(), nullptr);
  auto of = [](auto& list, int i) -> auto& { return *std::next(list.begin(), i); };
  std::vector<double> want_norms;
  for (int i = 0; i < forward.count; ++i) {
    const auto [rows, columns] = sizes[i];
    std::vector<double> want_w, want_gv, want_gg;
    for (int r = 0; r < rows; ++r) {
      double square = 0, along = 0;
      for (int c = 0; c < columns; ++c) square += std::pow(of(v, i)[r * columns + c], 2), along += of(v, i)[r * columns + c] * of(gw, i)[r * columns + c];
      const double norm = std::sqrt(square), scale = of(g, i)[r] / norm;
      want_norms.push_back(norm), want_gg.push_back(along / norm);
      for (int c = 0; c < columns; ++c) {
        want_w.push_back(of(v, i)[r * columns + c] * scale);
        want_gv.push_back(scale * (of(gw, i)[r * columns + c] - of(v, i)[r * columns + c] * along / square));
      }
    }
    check("w", of(w, i), want_w, {4});
    check("gv", of(gv, i), want_gv, {4});
    check("gg", of(gg, i), want_gg, {double(columns)});
  }
  check("norms", norms, want_norms, {8});
}

// Iterations of u first or v first, then the weights; 0: sigma of u and v as they are.
template <class T> void spectral_norms(const char* name, const std::vector<Size>& sizes, int iterations, bool u_first, int shift = 0) {
  if (!wanted(name)) return;
  auto x = buffers<T>(sizes, false, shift), gw = buffers<T>(sizes, false, 0), w = buffers<T>(sizes, false, 0), gx = buffers<T>(sizes, false, 0);
  auto of = [](auto& list, int i) -> auto& { return *std::next(list.begin(), i); };
  SpectralNorms forward, backward;
  forward.count = static_cast<int>(sizes.size()), forward.first[0] = forward.column[0] = 0;
  for (int i = 0; i < forward.count; ++i) {
    for (int64_t k = 0; k < of(x, i).count; ++k) of(x, i).set(k, of(x, i)[k] * 0.1 + 0.5);  // one large singular value
    forward.first[i + 1] = forward.first[i] + sizes[i].rows, forward.column[i + 1] = forward.column[i] + sizes[i].columns;
    forward.weight[i] = of(x, i).data(), forward.gw[i] = nullptr, forward.out[i] = of(w, i).data();
  }
  forward.column[forward.count] += overrun;
  backward = forward;
  for (int i = 0; i < forward.count; ++i) backward.gw[i] = of(gw, i).data(), backward.out[i] = of(gx, i).data();
  const int rows = forward.first[forward.count], columns = forward.column[forward.count] - overrun;
  Buffer<float> u(rows), v(columns), sigma(forward.count), scratch(rows);
  u.randomize(), v.randomize();
  for (int r = 0; r < rows; ++r) u.set(r, 1 + 0.1 * u[r]);
  for (int c = 0; c < columns; ++c) v.set(c, 1 + 0.1 * v[c]);
  std::vector<double> want_u, want_v, want_sigma;
  for (int r = 0; r < rows; ++r) want_u.push_back(u[r]);
  for (int c = 0; c < columns; ++c) want_v.push_back(v[c]);
  for (int i = 0; i < forward.count; ++i) {
    const auto [h, k] = sizes[i];
    const auto times = [&](bool of_u) {
      std::vector<double> made(of_u ? h : k);
      for (int r = 0; r < h; ++r)
        for (int c = 0; c < k; ++c) made[of_u ? r : c] += of(x, i)[r * k + c] * (of_u ? want_v[forward.column[i] + c] : want_u[forward.first[i] + r]);
      return made;
    };
    for (int n = 0; n < 2 * iterations; ++n) {
      const bool of_u = (n % 2 == 0) == u_first;
      const auto made = times(of_u);
      double square = 0;
      for (double value : made) square += value * value;
      for (size_t k2 = 0; k2 < made.size(); ++k2) (of_u ? want_u[forward.first[i] + k2] : want_v[forward.column[i] + k2]) = made[k2] / std::sqrt(square);
    }
    const auto made = times(true);
    double total = 0;
    for (int r = 0; r < h; ++r) total += made[r] * want_u[forward.first[i] + r];
    want_sigma.push_back(total);
  }
  for (int n = 0; n < 2 * iterations; ++n)
    spectral_norms_iterate_cuda(forward, dtype_of<T>(), (n % 2 == 0) == u_first, 1e-12f, u.data(), v.data(), sigma.data(), nullptr);
  if (!iterations) spectral_norms_sigma_cuda(forward, dtype_of<T>(), u.data(), v.data(), scratch.data(), sigma.data(), nullptr);
  spectral_norms_divide_cuda(forward, dtype_of<T>(), sigma.data(), nullptr);
  spectral_norms_bwd_cuda(backward, dtype_of<T>(), u.data(), v.data(), sigma.data(), scratch.data(), nullptr);
  check("u", u, want_u, {2});
  check("v", v, want_v, {2});
  check("sigma", sigma, want_sigma, {want_sigma[0]});
  for (int i = 0; i < forward.count; ++i) {
    const auto [h, k] = sizes[i];
    std::vector<double> want_w, want_g;
    double along = 0;
    for (int64_t n = 0; n < of(x, i).count; ++n) along += of(x, i)[n] * of(gw, i)[n];
    for (int n = 0; n < h * k; ++n) {
      want_w.push_back(of(x, i)[n] / want_sigma[i]);
      want_g.push_back(of(gw, i)[n] / want_sigma[i] - along / want_sigma[i] / want_sigma[i] * want_u[forward.first[i] + n / k] * want_v[forward.column[i] + n % k]);
    }
    check("w", of(w, i), want_w, {2});
    check("gweight", of(gx, i), want_g, {10});
  }
}

int main(int argc, char** argv) {
  options(argc, argv);
  weight_norms<float>("weight, vectors", {{3, 24}, {5, 8}, {1, 520}});
  weight_norms<float>("weight, odd", {{2, 7}, {4, 1}, {1, 129}});
  weight_norms<float>("weight, unaligned", {{3, 24}, {2, 8}}, 1);
  weight_norms<BFloat16>("weight, bfloat16", {{3, 24}, {5, 8}});
  weight_norms<Half>("weight, half", {{2, 9}, {3, 8}});
  spectral_norms<float>("spectral, u first", {{3, 24}, {5, 8}, {12, 36}}, 2, true);
  spectral_norms<float>("spectral, v first", {{5, 7}, {20, 3}}, 1, false);
  spectral_norms<float>("spectral, evaluated", {{5, 8}, {3, 44}}, 0, true);
  spectral_norms<float>("spectral, unaligned", {{5, 8}, {3, 44}}, 1, true, 1);
  spectral_norms<BFloat16>("spectral, bfloat16", {{4, 16}, {9, 8}}, 1, true);
  spectral_norms<Half>("spectral, half", {{4, 16}, {9, 5}}, 1, false);
  return finish();
}
