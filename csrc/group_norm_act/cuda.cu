// Group norm + activation, a team of threads a group: statistics, normalising and activating in one launch; backward in one, and a sum
// over the blocks' shares of the vectors' gradients. What is needed twice is read again, from the block's cache or L2. No atomics: all
// sums have an order that only shape and alignment decide.
#include "cuda_tiling.h"

namespace ganfast {
namespace {

inline constexpr int kGroupWarps = kGroupThreads / 32;

// The bound on blocks a multiprocessor: without it ptxas saves registers for one block more, and spills.
template <class T>
__global__ void __launch_bounds__(kGroupThreads, sizeof(T) == 4 ? 2 : 3) group_norm_act_fwd_kernel(GroupTiling g, const T* x, GroupNormVectors v, float eps, T* y, float* mean_out, float* invstd_out) {
  GANFAST_SHARED(float, shared, 3 * kGroupWarps);
  const GroupThread t(g);
  const unsigned groups = static_cast<unsigned>(g.groups);  // division of 32 bits
  const int64_t group = blockIdx.x % groups, image = static_cast<int64_t>(blockIdx.x / groups) * (kGroupThreads / g.team) + t.team;
  float n = 0, mean[kVec] = {}, m2[kVec] = {};
  for (int64_t column = t.slot; column < g.columns && image < g.n; column += g.side)
    for_column<T, 1>(g, t, {x}, column_base(g, image, column_channel(g, group, column)), [&](int64_t, const float (&values)[1][kVec]) {
      n += 1;
      const float share = 1 / n;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float delta = values[0][i] - mean[i];
        mean[i] += delta * share;
        m2[i] += delta * (values[0][i] - mean[i]);
      }
    });
  Moments all{n, mean[0], m2[0]};
#pragma unroll
  for (int i = 1; i < kVec; ++i)
    if (i < g.vec) all = merge(all, {n, mean[i], m2[i]});
  for (int lane = 16; lane; lane >>= 1)
    all = merge(all, {__shfl_down_sync(0xffffffffu, all.n, lane), __shfl_down_sync(0xffffffffu, all.mean, lane), __shfl_down_sync(0xffffffffu, all.m2, lane)});
  if (threadIdx.x % 32 == 0) {
    float* to = shared + threadIdx.x / 32 * 3;
    to[0] = all.n, to[1] = all.mean, to[2] = all.m2;
  }
  __syncthreads();
  if (image >= g.n) return;
  all = {};
  for (int warp = 0; warp < g.team / 32; ++warp) {
    const float* from = shared + (t.team * (g.team / 32) + warp) * 3;
    all = merge(all, {from[0], from[1], from[2]});
  }
  const float invstd = 1 / sqrtf(all.m2 / all.n + eps);
  if (t.lane == 0) mean_out[image * g.groups + group] = all.mean, invstd_out[image * g.groups + group] = invstd;
  with_act(v.act, [&](auto tag) {
    for (int64_t column = t.slot; column < g.columns; column += g.side) {
      const int64_t channel = column_channel(g, group, column);
      const GroupColumn affine(g, v, image, channel);
      for_column<T, 1>(g, t, {x}, column_base(g, image, channel), [&](int64_t at, float (&values)[1][kVec]) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) values[0][i] = tag.fwd((values[0][i] - all.mean) * invstd * affine.gain[i] + affine.shift[i], affine.alpha[i]);
        store_item(y + at, g.vec, values[0]);
      });
    }
  });
}

// The sum of each slot over the threads that look at the same column; true for the threads whose result counts, `part` of g.parts.
template <int kSums> __device__ __forceinline__ bool sum_column(const GroupTiling& g, const GroupThread& t, float (&sums)[kSums][kVec], int* part) {
  const int from = g.across ? g.side : 1, to = g.across ? 32 : (t.per < 32 ? t.per : 32);
  for (int mask = from; mask < to; mask *= 2) {
#pragma unroll
    for (int i = 0; i < kSums * kVec; ++i) sums[i / kVec][i % kVec] += __shfl_xor_sync(0xffffffffu, sums[i / kVec][i % kVec], mask);
  }
  *part = g.across ? (g.side < 32 ? t.lane / 32 : t.first) : t.first / 32;
  return g.across ? t.lane % 32 < g.side : t.first % 32 == 0;
}

// Shared memory of a team: [parts + 1][rows][width], the last the sums over the team's images of gbias, gweight and galpha.
template <class T>
__global__ void __launch_bounds__(kGroupThreads, 2) group_norm_act_bwd_kernel(GroupTiling g, const T* gy, const T* x, const float* mean_of, const float* invstd_of, GroupNormVectors v,
                                                                           int64_t steps, T* gx, float* gscale, float* gshift, float* partials) {
  GANFAST_DYNAMIC_SHARED(float, dynamic);
  GANFAST_SHARED(float, shared, 2 * kGroupWarps);
  const GroupThread t(g);
  const int rows = v.alpha ? 3 : 2, teams = kGroupThreads / g.team;
  const unsigned groups = static_cast<unsigned>(g.groups);
  const int64_t group = blockIdx.x % groups, slice = blockIdx.x / groups, size = rows * g.width;
  float *sums = dynamic + t.team * (g.parts + 1) * size, *kept = sums + g.parts * size;
  for (int64_t k = t.lane; k < g.width; k += g.team)
    for (int row = 0; row < rows; ++row) kept[row * g.width + k] = 0;
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t image = slice * g.images + s * teams + t.team;
    const bool there = image < g.n;
    const float mean = there ? mean_of[image * g.groups + group] : 0, invstd = there ? invstd_of[image * g.groups + group] : 0;
    for (int64_t first = 0; first < g.columns && there; first += g.side) {
      const int64_t column = first + t.slot;
      float found[3][kVec] = {};
      if (column < g.columns) {
        const int64_t channel = column_channel(g, group, column);
        const GroupColumn affine(g, v, image, channel);
        with_act(v.act, [&](auto tag) {
          for_column<T, 2, 2>(g, t, {gy, x}, column_base(g, image, channel), [&](int64_t, const float (&values)[2][kVec]) {
#pragma unroll
            for (int i = 0; i < kVec; ++i) {
              const float xhat = (values[1][i] - mean) * invstd, z = xhat * affine.gain[i] + affine.shift[i];
              const float gz = tag.bwd(values[0][i], z, affine.alpha[i], false);
              found[0][i] += gz;
              found[1][i] += gz * xhat;
              if (v.alpha) found[2][i] += tag.alpha_bwd(values[0][i], z, affine.alpha[i]);
            }
          });
        });
      }
      int part;
      const bool counts = sum_column(g, t, found, &part) && column < g.columns;
      if (!counts) continue;
      float* to = sums + part * size + (g.across ? column * g.vec : column);
#pragma unroll
      for (int row = 0; row < 3; ++row) {
        if (row == rows) break;
        float whole = found[row][0];
#pragma unroll
        for (int i = 1; i < kVec; ++i) {
          if (i >= g.vec) break;
          if (g.across) to[row * g.width + i] = found[row][i];
          else whole += found[row][i];
        }
        to[row * g.width] = whole;
      }
    }
    __syncthreads();
    float of_g = 0, of_product = 0;
    for (int64_t k = t.lane; k < g.width && there; k += g.team) {
      float total[3] = {};
      for (int part = 0; part < g.parts; ++part)
        for (int row = 0; row < rows; ++row) total[row] += sums[part * size + row * g.width + k];
      const int64_t channel = group * g.width + k, at = image * g.c + channel;
      const float by = v.scale ? v.scale[at] : 1, w = v.weight ? v.weight[channel] : 1;
      of_g += total[0] * (w * by), of_product += total[1] * (w * by);
      kept[k] += total[0] * by, kept[g.width + k] += total[1] * by;
      if (v.alpha) kept[2 * g.width + k] += total[2];
      if (gscale) gscale[at] = total[1] * w + total[0] * (v.bias ? v.bias[channel] : 0), gshift[at] = total[0];
    }
    of_g = warp_sum(of_g), of_product = warp_sum(of_product);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = of_g, shared[kGroupWarps + threadIdx.x / 32] = of_product;
    __syncthreads();
    if (!there) continue;
    of_g = of_product = 0;
    for (int warp = t.team * (g.team / 32); warp < (t.team + 1) * (g.team / 32); ++warp) of_g += shared[warp], of_product += shared[kGroupWarps + warp];
    const float inverse_count = 1.0f / (g.width * g.l), offset = of_g * inverse_count, slope = of_product * inverse_count;
    with_act(v.act, [&](auto tag) {
      for (int64_t column = t.slot; column < g.columns; column += g.side) {
        const int64_t channel = column_channel(g, group, column);
        const GroupColumn affine(g, v, image, channel);
        for_column<T, 2, 2>(g, t, {gy, x}, column_base(g, image, channel), [&](int64_t at, float (&values)[2][kVec]) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            const float xhat = (values[1][i] - mean) * invstd;
            const float gz = tag.bwd(values[0][i], xhat * affine.gain[i] + affine.shift[i], affine.alpha[i], false);
            values[1][i] = invstd * (affine.gain[i] * gz - (offset + xhat * slope));
          }
          store_item(gx + at, g.vec, values[1]);
        });
      }
    });
  }
  for (int64_t k = threadIdx.x; k < size; k += kGroupThreads) {  // all teams' are there since the last barrier
    float total = 0;
    for (int team = 0; team < teams; ++team) total += dynamic[(team * (g.parts + 1) + g.parts) * size + k];
    partials[(slice * 3 + k / g.width) * g.c + group * g.width + k % g.width] = total;
  }
}

// One warp a group: Chan's rule over the chunks of its channels.
__global__ void __launch_bounds__(kFinishThreads) group_norm_act_merge_kernel(const float* partials, int64_t chunks, int64_t columns, int64_t width, float eps, float* mean,
                                                                              float* invstd, float* mean_columns, float* invstd_columns) {
  const int64_t group = blockIdx.x * static_cast<int64_t>(kFinishThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (group * width >= columns) return;
  Moments all{};
  for (int64_t e = lane; e < chunks * width; e += 32) {
    const float* from = partials + e / width * 3 * columns + group * width + e % width;
    all = merge(all, {from[0], from[columns], from[2 * columns]});
  }
  for (int by = 16; by; by >>= 1)
    all = merge(all, {__shfl_down_sync(0xffffffffu, all.n, by), __shfl_down_sync(0xffffffffu, all.mean, by), __shfl_down_sync(0xffffffffu, all.m2, by)});
  const float center = __shfl_sync(0xffffffffu, all.mean, 0), inverse = __shfl_sync(0xffffffffu, 1 / sqrtf(all.m2 / all.n + eps), 0);
  if (lane == 0) mean[group] = center, invstd[group] = inverse;
  for (int64_t i = lane; i < width; i += 32) mean_columns[group * width + i] = center, invstd_columns[group * width + i] = inverse;
}

// Blocks a group in the backward, whose shares one warp a channel adds.
int64_t most_slices(const GroupNormShape& s) { return s.groups > 1024 ? 1 : s.groups < 4 ? kMaxChunks : 1024 / s.groups; }

}  // namespace

int64_t group_norm_act_scratch(const GroupNormShape& s) { return 3 * s.c * (s.n < most_slices(s) ? s.n : most_slices(s)); }

void group_norm_act_fwd_cuda(const GroupNormShape& s, Dtype dtype, const void* x, const GroupNormVectors& v, float eps, void* y, float* mean, float* invstd,
                             cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_x = static_cast<const T*>(x);
    T* typed_y = static_cast<T*>(y);
    const GroupTiling g = group_tiling(s, aligned(typed_x, kVec) && aligned(typed_y, kVec), s.n);  // an image a team
    GANFAST_LAUNCH(group_norm_act_fwd_kernel<T>, g.blocks(), kGroupThreads, stream, g, typed_x, v, eps, typed_y, mean, invstd);
  });
}

void group_norm_act_bwd_cuda(const GroupNormShape& s, Dtype dtype, const void* gy, const void* x, const float* mean, const float* invstd, const GroupNormVectors& v,
                             void* gx, const GroupNormGradients& to, float* scratch, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_gy = static_cast<const T*>(gy), *typed_x = static_cast<const T*>(x);
    T* typed_gx = static_cast<T*>(gx);
    const GroupTiling g = group_tiling(s, aligned(typed_gy, kVec) && aligned(typed_x, kVec) && aligned(typed_gx, kVec), most_slices(s));
    const int bytes = static_cast<int>(g.teams() * (g.parts + 1) * (v.alpha ? 3 : 2) * g.width * sizeof(float));
    GANFAST_LAUNCH_SHARED(group_norm_act_bwd_kernel<T>, g.blocks(), kGroupThreads, bytes, stream, g, typed_gy, typed_x, mean, invstd, v, g.steps(), typed_gx, to.gscale,
                          to.gshift, scratch);
    GANFAST_LAUNCH(channel_sums_kernel<3>, finish_blocks(s.c), kFinishThreads, stream, scratch, g.slices, s.c, ChannelSums{{to.gbias, to.gweight, to.galpha}, nullptr});
  });
}

void group_norm_act_merge_cuda(const GroupNormShape& s, const float* partials, int64_t chunks, float eps, float* mean, float* invstd, float* mean_columns,
                               float* invstd_columns, cudaStream_t stream) {
  GANFAST_LAUNCH(group_norm_act_merge_kernel, finish_blocks(s.n * s.groups), kFinishThreads, stream, partials, chunks, s.n * s.c, s.c / s.groups, eps, mean, invstd,
                 mean_columns, invstd_columns);
}

}  // namespace ganfast
