// Launch signatures of the CUDA kernels of normalised weights: tables of raw device pointers, passed by value, and a stream.
#pragma once
#include "../common/launch.h"

namespace ganfast {

// Weights of one launch. A kernel's parameters have 4 KB: more weights are more launches. Weight i is [rows, columns], contiguous; its rows
// are first[i] ... first[i + 1] - 1 among those of all launches.
struct WeightNorms {
  static constexpr int kMost = 80;
  int count;
  int first[kMost + 1], columns[kMost];
  const void *v[kMost], *g[kMost], *gw[kMost];
  void *out[kMost], *gg[kMost];  // out: w or gv
};

// As above; its columns are column[i] ... column[i + 1] - 1 among those of all launches, as are its entries of u and v.
struct SpectralNorms {
  static constexpr int kMost = 96;
  int count;
  int first[kMost + 1], column[kMost + 1];
  const void *weight[kMost], *gw[kMost];
  void* out[kMost];  // weight / sigma, or gweight
};

// out = v * g / |v| of each row, norms[row] = |v|. g has a value for each row.
void weight_norms_fwd_cuda(const WeightNorms& weights, Dtype dtype, float* norms, cudaStream_t stream);
// out = gv, gg, from gw and the forward's norms.
void weight_norms_bwd_cuda(const WeightNorms& weights, Dtype dtype, const float* norms, cudaStream_t stream);

// One half of a power iteration: u = W v (of_u) or v = W^T u, then over max(its norm, eps); sigma[i] is the new vector times W times the
// other one. u [rows], v [columns], sigma: those of all launches, sigma + i that of the launch's weight i.
void spectral_norms_iterate_cuda(const SpectralNorms& weights, Dtype dtype, bool of_u, float eps, float* u, float* v, float* sigma, cudaStream_t stream);
// sigma[i] = u^T W v, by way of scratch [rows].
void spectral_norms_sigma_cuda(const SpectralNorms& weights, Dtype dtype, const float* u, const float* v, float* scratch, float* sigma, cudaStream_t stream);
// out = weight / sigma.
void spectral_norms_divide_cuda(const SpectralNorms& weights, Dtype dtype, const float* sigma, cudaStream_t stream);
// out = gw / sigma - sum(gw * weight) / sigma^2 * u v^T, by way of scratch [rows].
void spectral_norms_bwd_cuda(const SpectralNorms& weights, Dtype dtype, const float* u, const float* v, const float* sigma, float* scratch, cudaStream_t stream);

}  // namespace ganfast
