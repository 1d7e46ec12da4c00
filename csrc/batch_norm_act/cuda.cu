// Batch norm + activation: a pass for the statistics, one that normalises and activates; backward one reducing and one
// writing pass. Sums are per block, then per channel by one warp, in an order that only shape and alignment decide.
#include "../common/channel_grid.h"
#include "../common/channel_moments.h"
#include "batch_norm_act.h"

namespace ganfast {
namespace {

// z = (x - mean) * scale + shift for the slots of one thread.
struct Affine {
  float mean[kVec], scale[kVec], shift[kVec];
};
__device__ __forceinline__ Affine load_affine(const ChannelGrid& g, int64_t channel, const float* mean, const float* invstd, const float* weight, const float* bias) {
  Affine a;
  float gain[kVec];
  load_channels(g, channel, mean, 0, a.mean);
  load_channels(g, channel, invstd, 0, a.scale);
  load_channels(g, channel, weight, 1, gain);
  load_channels(g, channel, bias, 0, a.shift);
#pragma unroll
  for (int i = 0; i < kVec; ++i) a.scale[i] *= gain[i];
  return a;
}

// partials[chunk][0..2][channel] = (n, mean, M2) of the block's items.
template <class T, bool kImages = false>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_stats_kernel(ChannelGrid g, const T* x, float* partials) {
  GANFAST_SHARED(float, counts, kChannelThreads);
  GANFAST_SHARED(float, means, kVec * kChannelThreads);
  GANFAST_SHARED(float, m2s, kVec * kChannelThreads);
  Walk walk(g, kImages);
  float n = 0, mean[kVec] = {}, m2[kVec] = {};
  for_items<T, 1>(walk, {x}, [&](int64_t, const float (&v)[1][kVec]) {
    n += 1;
    const float weight = 1 / n;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float delta = v[0][i] - mean[i];
      mean[i] += delta * weight;
      m2[i] += delta * (v[0][i] - mean[i]);
    }
  });
  const int t = threadIdx.x;
  counts[t] = n;
#pragma unroll
  for (int i = 0; i < kVec; ++i) means[i * kChannelThreads + t] = mean[i], m2s[i * kChannelThreads + t] = m2[i];
  __syncthreads();
  for (int half = kChannelThreads / 2; half >= g.lanes; half /= 2) {
    if (t < half) {
      Moments both{};
      for (int i = 0; i < g.width; ++i) {
        float *to_mean = means + i * kChannelThreads + t, *to_m2 = m2s + i * kChannelThreads + t;
        both = merge({counts[t], *to_mean, *to_m2}, {counts[t + half], to_mean[half], to_m2[half]});
        *to_mean = both.mean, *to_m2 = both.m2;
      }
      counts[t] = both.n;
    }
    __syncthreads();
  }
  if (t >= g.lanes || walk.channel >= g.c) return;
  Moments all{};
  for (int i = 0; i < g.width; ++i) {
    const Moments slot{counts[t], means[i * kChannelThreads + t], m2s[i * kChannelThreads + t]};
    all = g.channels_last ? slot : merge(all, slot);
    if (!g.channels_last && i + 1 < g.width) continue;
    float* to = partials + walk.chunk * 3 * g.c + walk.channel + (g.channels_last ? i : 0);
    to[0] = all.n, to[g.c] = all.mean, to[2 * g.c] = all.m2;
  }
}

// One warp a channel merges its chunks.
__global__ void __launch_bounds__(kFinishThreads) batch_norm_act_stats_finish_kernel(const float* partials, int64_t chunks, int64_t c, float* mean, float* var) {
  const int64_t channel = blockIdx.x * static_cast<int64_t>(kFinishThreads / 32) + threadIdx.x / 32;
  if (channel >= c) return;
  Moments all{};
  for (int64_t chunk = threadIdx.x % 32; chunk < chunks; chunk += 32) {
    const float* from = partials + chunk * 3 * c + channel;
    all = merge(all, {from[0], from[c], from[2 * c]});
  }
  for (int lane = 16; lane; lane >>= 1)
    all = merge(all, {__shfl_down_sync(0xffffffffu, all.n, lane), __shfl_down_sync(0xffffffffu, all.mean, lane), __shfl_down_sync(0xffffffffu, all.m2, lane)});
  if (threadIdx.x % 32 == 0) mean[channel] = all.mean, var[channel] = all.m2 / all.n;
}

template <class T, bool kImages = false>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_fwd_kernel(ChannelGrid g, const T* x, const float* mean, const float* invstd, const float* weight,
                                                                             const float* bias, const float* alpha, Act act, float alpha_value, T* y) {
  Walk walk(g, kImages);
  const Affine affine = load_affine(g, walk.channel, mean, invstd, weight, bias);
  float a[kVec];
  load_channels(g, walk.channel, alpha, alpha_value, a);
  with_act(act, [&](auto tag) {
    for_items<T, 1>(walk, {x}, [&](int64_t at, float (&v)[1][kVec]) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) v[0][i] = tag.fwd((v[0][i] - affine.mean[i]) * affine.scale[i] + affine.shift[i], a[i]);
      store_item(y + at, g.width, v[0]);
    });
  });
}

// partials[chunk][0..2][channel] = sums of g, g * (x - mean), gy * df/dalpha(z).
template <class T, bool kImages = false>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_bwd_sums_kernel(ChannelGrid g, const T* gy, const T* x, const float* mean, const float* invstd,
                                                                                  const float* weight, const float* bias, const float* alpha, Act act,
                                                                                  float alpha_value, float* partials) {
  GANFAST_SHARED(float, shared, 3 * kVec * kChannelThreads);
  Walk walk(g, kImages);
  const Affine affine = load_affine(g, walk.channel, mean, invstd, weight, bias);
  float a[kVec], sums[3][kVec] = {};
  load_channels(g, walk.channel, alpha, alpha_value, a);
  with_act(act, [&](auto tag) {
    for_items<T, 2>(walk, {gy, x}, [&](int64_t, const float (&v)[2][kVec]) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float centred = v[1][i] - affine.mean[i], z = centred * affine.scale[i] + affine.shift[i];
        const float gz = tag.bwd(v[0][i], z, a[i], false);
        sums[0][i] += gz;
        sums[1][i] += gz * centred;
        if (alpha) sums[2][i] += tag.alpha_bwd(v[0][i], z, a[i]);
      }
    });
  });
  write_channel_sums(g, walk, sums, shared, partials);
}

template <class T, bool kImages = false>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_bwd_kernel(ChannelGrid g, const T* gy, const T* x, const float* mean, const float* invstd,
                                                                             const float* weight, const float* bias, const float* alpha, Act act, float alpha_value,
                                                                             const float* gweight, const float* gbias, float inverse_count, T* gx) {
  Walk walk(g, kImages);
  const Affine affine = load_affine(g, walk.channel, mean, invstd, weight, bias);
  float a[kVec], offset[kVec], slope[kVec], inverse[kVec];
  load_channels(g, walk.channel, alpha, alpha_value, a);
  // In eval mode nothing flows through the statistics, and an infinite sum times 0 would be NaN.
  load_channels(g, walk.channel, inverse_count ? gbias : nullptr, 0, offset);
  load_channels(g, walk.channel, inverse_count ? gweight : nullptr, 0, slope);
  load_channels(g, walk.channel, invstd, 0, inverse);
#pragma unroll
  for (int i = 0; i < kVec; ++i) offset[i] *= inverse_count, slope[i] *= inverse[i] * inverse_count;
  with_act(act, [&](auto tag) {
    for_items<T, 2>(walk, {gy, x}, [&](int64_t at, float (&v)[2][kVec]) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float centred = v[1][i] - affine.mean[i], z = centred * affine.scale[i] + affine.shift[i];
        v[1][i] = affine.scale[i] * (tag.bwd(v[0][i], z, a[i], false) - (offset[i] + centred * slope[i]));
      }
      store_item(gx + at, g.width, v[1]);
    });
  });
}

ChannelGrid grid_of(const BatchNormShape& s, bool vectors) { return channel_grid(s.n, s.c, s.l, s.channels_last, vectors, s.per_image); }

// partials [chunks, 3, channels]; gives chunks.
int64_t partial_statistics(const BatchNormShape& s, Dtype dtype, const void* x, float* partials, cudaStream_t stream) {
  int64_t chunks = 0;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_x = static_cast<const T*>(x);
    const ChannelGrid g = grid_of(s, aligned(typed_x, kVec));
    auto kernel = g.images() ? &batch_norm_act_stats_kernel<T, true> : &batch_norm_act_stats_kernel<T>;
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_x, partials);
    chunks = g.chunks;
  });
  return chunks;
}

}  // namespace

int64_t batch_norm_act_scratch(const BatchNormShape& s) { return 3 * s.channels() * max_chunks(s.n, s.c, s.l, s.channels_last, s.per_image); }

void batch_norm_act_stats_cuda(const BatchNormShape& s, Dtype dtype, const void* x, float* mean, float* var, float* scratch, cudaStream_t stream) {
  const int64_t chunks = partial_statistics(s, dtype, x, scratch, stream), c = s.channels();
  GANFAST_LAUNCH(batch_norm_act_stats_finish_kernel, finish_blocks(c), kFinishThreads, stream, scratch, chunks, c, mean, var);
}

int64_t channel_moments_cuda(int64_t n, int64_t c, int64_t l, bool channels_last, Dtype dtype, const void* x, float* partials, cudaStream_t stream) {
  return partial_statistics({n, c, l, channels_last, true}, dtype, x, partials, stream);
}

int64_t channel_moments_floats(int64_t n, int64_t c, int64_t l, bool channels_last) { return batch_norm_act_scratch({n, c, l, channels_last, true}); }

void batch_norm_act_fwd_cuda(const BatchNormShape& s, Dtype dtype, const void* x, const float* mean, const float* invstd, const float* weight,
                             const float* bias, const float* alpha, Act act, float alpha_value, void* y, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_x = static_cast<const T*>(x);
    T* typed_y = static_cast<T*>(y);
    const ChannelGrid g = grid_of(s, aligned(typed_x, kVec) && aligned(typed_y, kVec));
    auto kernel = g.images() ? &batch_norm_act_fwd_kernel<T, true> : &batch_norm_act_fwd_kernel<T>;
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_x, mean, invstd, weight, bias, alpha, act, alpha_value, typed_y);
  });
}

void batch_norm_act_bwd_cuda(const BatchNormShape& s, Dtype dtype, const void* gy, const void* x, const float* mean, const float* invstd,
                             const float* weight, const float* bias, const float* alpha, Act act, float alpha_value, bool training, void* gx,
                             float* gweight, float* gbias, float* galpha, float* scratch, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_gy = static_cast<const T*>(gy), *typed_x = static_cast<const T*>(x);
    T* typed_gx = static_cast<T*>(gx);
    const ChannelGrid g = grid_of(s, aligned(typed_gy, kVec) && aligned(typed_x, kVec) && aligned(typed_gx, kVec));
    const float inverse_count = training ? 1.0f / (g.n * g.l) : 0.0f;
    auto sums = g.images() ? &batch_norm_act_bwd_sums_kernel<T, true> : &batch_norm_act_bwd_sums_kernel<T>;
    auto kernel = g.images() ? &batch_norm_act_bwd_kernel<T, true> : &batch_norm_act_bwd_kernel<T>;
    GANFAST_LAUNCH(sums, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_x, mean, invstd, weight, bias, alpha, act, alpha_value,
                   scratch);
    GANFAST_LAUNCH(channel_sums_kernel<3>, finish_blocks(g.c), kFinishThreads, stream, scratch, g.chunks, g.c, ChannelSums{{gbias, gweight, galpha}, invstd});
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_x, mean, invstd, weight, bias, alpha, act, alpha_value,
                   gweight, gbias, inverse_count, typed_gx);
  });
}

}  // namespace ganfast
