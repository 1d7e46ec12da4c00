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

// The same with a residual, or signs to be written; without a residual `residual` is x, and read for nothing.
template <class T>
__global__ void __launch_bounds__(kChannelThreads) bias_act_added_fwd_kernel(ChannelGrid g, const T* x, const T* residual, const float* bias, const float* alpha,
                                                                             Act act, float alpha_value, float gain, float clamp, BiasActAdded added, T* y) {
  Walk walk(g);
  float a[kVec], b[kVec];
  load_channels(g, walk.channel, alpha, alpha_value, a);
  load_channels(g, walk.channel, bias, 0, b);
  const bool first = added.residual && added.first, last = added.residual && !added.first;
  const float edge = to_float(from_float<T>(clamp));
  with_act(act, [&](auto tag) {
    for_items<T, 2>(walk, {x, residual}, [&](int64_t at, float (&v)[2][kVec]) {
      Vec<uint8_t, kVec> signs;
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const float z = v[0][i] + b[i];
        float value = gain * tag.fwd(first ? z + v[1][i] : z, a[i]);
        value = value > clamp ? clamp : (value < -clamp ? -clamp : value);
        const float seen = to_float(from_float<T>(value));
        const bool on = act == Act::relu ? !(seen == 0) : seen > 0;  // relu's slope is 1 at NaN
        signs.v[i] = seen >= edge || seen <= -edge ? kSignClamped : on;
        v[0][i] = (last ? value + v[1][i] : value) * added.factor;
      }
      if (added.signs && g.width == kVec) *reinterpret_cast<Vec<uint8_t, kVec>*>(added.signs + at) = signs;
      else if (added.signs) added.signs[at] = signs.v[0];
      store_item(y + at, g.width, v[0]);
    });
  });
}

// partials[chunk][0][channel] = sums of gx, gy times gain and the slope that the signs say; a slope of 0 gives 0 whatever arrives.
template <class T>
__global__ void __launch_bounds__(kChannelThreads) bias_act_bwd_signs_kernel(ChannelGrid g, const T* gy, const uint8_t* signs, float slope, float gain, T* gx,
                                                                             float* partials) {
  GANFAST_SHARED(float, shared, kVec * kChannelThreads);
  Walk walk(g);
  float sums[1][kVec] = {};
  for_items<T, 1>(walk, {gy}, [&](int64_t at, const float (&v)[1][kVec]) {
    Vec<uint8_t, kVec> sign{};
    if (g.width == kVec) sign = *reinterpret_cast<const Vec<uint8_t, kVec>*>(signs + at);
    else sign.v[0] = signs[at];
    float result[kVec];
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const float full = v[0][i] * gain;
      result[i] = sign.v[i] == 1 ? full : (sign.v[i] == 0 && slope != 0 ? full * slope : 0);
      sums[0][i] += result[i];
    }
    store_item(gx + at, g.width, result);
  });
  write_channel_sums(g, walk, sums, shared, partials);
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
                       float clamp, const BiasActAdded& added, void* y, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_x = static_cast<const T*>(x), *residual = added.residual ? static_cast<const T*>(added.residual) : typed_x;
    T* typed_y = static_cast<T*>(y);
    const bool vectors = aligned(typed_x, kVec) && aligned(typed_y, kVec) && aligned(residual, kVec) && aligned(added.signs, kVec);
    const ChannelGrid g = channel_grid(s.n, s.c, s.l, s.channels_last, vectors);
    if (added.residual || added.signs) {
      GANFAST_LAUNCH(bias_act_added_fwd_kernel<T>, g.blocks(), kChannelThreads, stream, g, typed_x, residual, bias, alpha, act, alpha_value, gain, clamp, added,
                     typed_y);
      return;
    }
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

void bias_act_bwd_signs_cuda(const BiasActShape& s, Dtype dtype, const void* gy, const uint8_t* signs, Act act, float alpha_value, float gain, void* gx,
                             float* gbias, float* scratch, cudaStream_t stream) {
  const float slope = act == Act::linear ? 1 : act == Act::relu ? 0 : alpha_value;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_gy = static_cast<const T*>(gy);
    T* typed_gx = static_cast<T*>(gx);
    const ChannelGrid g = channel_grid(s.n, s.c, s.l, s.channels_last, aligned(typed_gy, kVec) && aligned(signs, kVec) && aligned(typed_gx, kVec));
    GANFAST_LAUNCH(bias_act_bwd_signs_kernel<T>, g.blocks(), kChannelThreads, stream, g, typed_gy, signs, slope, gain, typed_gx, scratch);
    GANFAST_LAUNCH(channel_sums_kernel<1>, finish_blocks(s.c), kFinishThreads, stream, scratch, g.chunks, s.c, ChannelSums{{gbias, nullptr, nullptr}, nullptr});
  });
}

}  // namespace ganfast
