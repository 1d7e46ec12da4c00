#include "normalised_weights.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

std::vector<at::Tensor> like(at::TensorList tensors) {
  std::vector<at::Tensor> made;
  for (const auto& t : tensors) made.push_back(at::empty_like(t));
  return made;
}

int narrowed(int64_t count, const char* what) {
  TORCH_CHECK(count <= kMaxGrid, "normalised_weights: ", count, " ", what, " of all weights together; the kernels count to ", kMaxGrid);
  return static_cast<int>(count);
}

// f(table) for the weights of each launch; fill(i, table, place) writes the pointers of weight i.
template <class Fill, class F> void in_launches(at::TensorList v, at::TensorList g, Fill fill, F f) {
  int64_t row = 0;
  WeightNorms table;
  table.count = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const int k = table.count++;
    table.first[k] = narrowed(row, "rows");
    table.columns[k] = narrowed(v[i].numel() / g[i].numel(), "columns");
    table.first[k + 1] = narrowed(row += g[i].numel(), "rows");
    table.v[k] = v[i].const_data_ptr(), table.g[k] = g[i].const_data_ptr();
    table.gw[k] = nullptr, table.gg[k] = nullptr;
    fill(i, table, k);
    if (table.count == WeightNorms::kMost || i + 1 == v.size()) f(table), table.count = 0;
  }
}

std::tuple<std::vector<at::Tensor>, at::Tensor> weight_norms_fwd(at::TensorList v, at::TensorList g) {
  const Place place(v[0]);
  auto made = like(v);
  int64_t rows = 0;
  for (const auto& gain : g) rows += gain.numel();
  at::Tensor norms = new_floats(v[0], {rows});
  in_launches(
      v, g, [&](size_t i, WeightNorms& table, int k) { table.out[k] = made[i].mutable_data_ptr(); },
      [&](const WeightNorms& table) { weight_norms_fwd_cuda(table, dtype_of(v[0]), norms.mutable_data_ptr<float>(), place.stream); });
  return {made, norms};
}

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>> weight_norms_bwd(at::TensorList gw, at::TensorList v, at::TensorList g, const at::Tensor& norms) {
  const Place place(v[0]);
  auto gv = like(v), gg = like(g);
  in_launches(
      v, g,
      [&](size_t i, WeightNorms& table, int k) {
        table.gw[k] = gw[i].const_data_ptr(), table.out[k] = gv[i].mutable_data_ptr(), table.gg[k] = gg[i].mutable_data_ptr();
      },
      [&](const WeightNorms& table) { weight_norms_bwd_cuda(table, dtype_of(v[0]), norms.const_data_ptr<float>(), place.stream); });
  return {gv, gg};
}

// f(table, the place of its first weight)
template <class F> void in_launches(at::TensorList weights, at::TensorList gw, const std::vector<at::Tensor>& made, F f) {
  int64_t row = 0, column = 0;
  SpectralNorms table;
  table.count = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const int k = table.count++;
    const int64_t rows = weights[i].size(0);
    table.first[k] = narrowed(row, "rows"), table.column[k] = narrowed(column, "columns");
    table.first[k + 1] = narrowed(row += rows, "rows"), table.column[k + 1] = narrowed(column += weights[i].numel() / rows, "columns");
    table.weight[k] = weights[i].const_data_ptr(), table.gw[k] = gw.empty() ? nullptr : gw[i].const_data_ptr(), table.out[k] = made[i].mutable_data_ptr();
    if (table.count == SpectralNorms::kMost || i + 1 == weights.size()) f(table, i + 1 - table.count), table.count = 0;
  }
}

at::Tensor joined(at::TensorList vectors) { return at::cat(vectors).to(at::kFloat, false, true); }

std::tuple<std::vector<at::Tensor>, at::Tensor, at::Tensor, at::Tensor> spectral_norms_fwd(at::TensorList weights, at::TensorList u, at::TensorList v,
                                                                                           int64_t iterations, double eps, bool u_first) {
  const Place place(weights[0]);
  auto made = like(weights);
  at::Tensor left = joined(u), right = joined(v), sigmas = new_floats(weights[0], {static_cast<int64_t>(weights.size())});
  at::Tensor scratch = new_floats(weights[0], {iterations ? 0 : left.numel()});
  float *lefts = left.mutable_data_ptr<float>(), *rights = right.mutable_data_ptr<float>();
  const Dtype dtype = dtype_of(weights[0]);
  in_launches(weights, {}, made, [&](const SpectralNorms& table, size_t begin) {
    float* sigma = sigmas.mutable_data_ptr<float>() + begin;
    for (int64_t k = 0; k < 2 * iterations; ++k) spectral_norms_iterate_cuda(table, dtype, (k % 2 == 0) == u_first, eps, lefts, rights, sigma, place.stream);
    if (!iterations) spectral_norms_sigma_cuda(table, dtype, lefts, rights, scratch.mutable_data_ptr<float>(), sigma, place.stream);
    spectral_norms_divide_cuda(table, dtype, sigma, place.stream);
  });
  return {made, left, right, sigmas};
}

std::vector<at::Tensor> spectral_norms_bwd(at::TensorList gw, at::TensorList weights, const at::Tensor& u, const at::Tensor& v, const at::Tensor& sigmas) {
  const Place place(weights[0]);
  auto made = like(weights);
  at::Tensor scratch = new_floats(u, {u.numel()});
  in_launches(weights, gw, made, [&](const SpectralNorms& table, size_t begin) {
    spectral_norms_bwd_cuda(table, dtype_of(weights[0]), u.const_data_ptr<float>(), v.const_data_ptr<float>(), sigmas.const_data_ptr<float>() + begin,
                            scratch.mutable_data_ptr<float>(), place.stream);
  });
  return made;
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) {
  m.impl("weight_norms_fwd_native", &weight_norms_fwd);
  m.impl("weight_norms_bwd_native", &weight_norms_bwd);
  m.impl("spectral_norms_fwd_native", &spectral_norms_fwd);
  m.impl("spectral_norms_bwd_native", &spectral_norms_bwd);
}

}  // namespace ganfast
