// bias_act: one pass forward; one backward with its channel sums, finished per channel by one warp in an order that only shape and
// alignment decide.
#include "../common/channel_grid.h"
#include "bias_act.h"

namespace ganfast {
namespace {

template <class T>
__global__ void __launch_bounds__(kChannelThreads) bias_act_fwd_kernel(ChannelGrid g, const T* x, const float* bias, const float* alpha, Act act,
                                                                       float alpha_value, float gain, float clamp, T* y) {
  Walk walk(g);
  float a[kVec], b[kVec];
  load_channels(g, walk.channel, alpha, alpha_value, a);
  load_channels(g, walk.channel, bias, 0, b);
  with_act(act, [&](auto tag) {
    for_items<T, 1>(walk, {x}, [&](int64_t at, float (&v)[1][kVec]) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float value = gain * tag.fwd(v[0][i] + b[i], a[i]);
        v[0][i] = value > clamp ? clamp : (value < -clamp ? -clamp : value);  // NaN stays, and as a clamp clamps nothing
      }
      store_item(y + at, g.width, v[0]);
    });
  });
}

// partials[chunk][0..1][channel] = sums of gx and of g * df/dalpha. kPlain: no gain, no clamp, no bias to add, as convolutions and most
// layers have it; float32 then fits three blocks a multiprocessor without spills, else two.
template <class T, bool kPlain>
__global__ void __launch_bounds__(kChannelThreads, kPlain && sizeof(T) == 4 ? 3 : 2) bias_act_bwd_kernel(ChannelGrid g, const T* gy, const T* saved, const float* bias, const float* alpha, Act act,
                                                                       float alpha_value, float gain, float limit, bool from_y, T* gx, float* partials) {
  GANFAST_SHARED(float, shared, 2 * kVec * kChannelThreads);
  Walk walk(g);
  const float scale = from_y ? 1 / gain : 1;
  const bool clamps = limit == limit;
  float a[kVec], b[kVec], sums[2][kVec] = {};
  load_channels(g, walk.channel, alpha, alpha_value, a);
  load_channels(g, walk.channel, from_y ? nullptr : bias, 0, b);
  with_act(act, [&](auto tag) {
    for_items<T, 2>(walk, {gy, saved}, [&](int64_t at, const float (&v)[2][kVec]) {
      float result[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        float z = v[1][i], slope = v[0][i];
        if constexpr (!kPlain) {
          z = z * scale + b[i], slope *= gain;
          if (clamps) {
            const float y = from_y ? v[1][i] : gain * tag.fwd(z, a[i]);
            if (y >= limit || y <= -limit) slope = 0;
          }
        }
        result[i] = tag.bwd(slope, z, a[i], from_y);
        sums[0][i] += result[i];
        if (alpha) sums[1][i] += tag.alpha_bwd(slope, z, a[i]);
      }
      store_item(gx + at, g.width, result);
    });
  });
  write_channel_sums(g, walk, sums, shared, partials);
}

}  // namespace

void bias_act_fwd_cuda(const BiasActShape& s, Dtype dtype, const void* x, const float* bias, const float* alpha, Act act, float alpha_value, float gain,
                       float clamp, void* y, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_x = static_cast<const T*>(x);
    T* typed_y = static_cast<T*>(y);
    const ChannelGrid g = channel_grid(s.n, s.c, s.l, s.channels_last, aligned(typed_x, kVec) && aligned(typed_y, kVec));
    GANFAST_LAUNCH(bias_act_fwd_kernel<T>, g.blocks(), kChannelThreads, stream, g, typed_x, bias, alpha, act, alpha_value, gain, clamp, typed_y);
  });
}

int64_t bias_act_bwd_scratch(const BiasActShape& s) { return 2 * s.c * max_chunks(s.n, s.c, s.l, s.channels_last); }

void bias_act_bwd_cuda(const BiasActShape& s, Dtype dtype, const void* gy, const void* saved, const float* bias, const float* alpha, Act act,
                       float alpha_value, float gain, float limit, bool from_y, void* gx, float* gbias, float* galpha, float* scratch, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_gy = static_cast<const T*>(gy), *typed_saved = static_cast<const T*>(saved);
    T* typed_gx = static_cast<T*>(gx);
    const ChannelGrid g = channel_grid(s.n, s.c, s.l, s.channels_last, aligned(typed_gy, kVec) && aligned(typed_saved, kVec) && aligned(typed_gx, kVec));
    const bool plain = gain == 1 && limit != limit && (from_y || !bias);
    auto kernel = plain ? &bias_act_bwd_kernel<T, true> : &bias_act_bwd_kernel<T, false>;
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_saved, bias, alpha, act, alpha_value, gain, limit, from_y, typed_gx, scratch);
    GANFAST_LAUNCH(channel_sums_kernel<2>, finish_blocks(s.c), kFinishThreads, stream, scratch, g.chunks, s.c, ChannelSums{{gbias, galpha, nullptr}, nullptr});
  });
}

}  // namespace ganfast
