// Norms with an affine from outside and a residual: batch norm's passes over the columns of every image, with one gain and one shift a
// column; kFull reads scale, shift and residual of x's shape beside x.
#include "../common/channel_grid.h"
#include "modulated_norm_act.h"

namespace ganfast {
namespace {

// inner = (x - mean) * scale + shift for the slots of one thread: z, but for what is read element by element.
struct Columns {
  float mean[kVec], scale[kVec], shift[kVec], alpha[kVec];

  __device__ __forceinline__ Columns(const ChannelGrid& g, int64_t column, const Modulation& m) {
    float gain[kVec], more[kVec];
    const int64_t channel = column % g.image;  // no item has slots in two images
    load_channels(g, m.statistics == g.image ? channel : column, m.mean, 0, mean);
    load_channels(g, m.statistics == g.image ? channel : column, m.invstd, 0, scale);
    load_channels(g, channel, m.weight, 1, gain);
    load_channels(g, channel, m.bias, 0, shift);
    load_channels(g, channel, m.alpha, m.alpha_value, alpha);
#pragma unroll
    for (int i = 0; i < kVec; ++i) scale[i] *= gain[i];
    if (!m.scale) return;
    load_channels(g, column, m.scale, 1, gain);
    load_channels(g, column, m.shift, 0, more);
#pragma unroll
    for (int i = 0; i < kVec; ++i) scale[i] *= gain[i], shift[i] = shift[i] * gain[i] + more[i];
  }
};

// The bound on blocks a multiprocessor: without it ptxas saves registers for one block more, and spills.
template <class T, bool kFull>
__global__ void __launch_bounds__(kChannelThreads, kFull ? 2 : 3) batch_norm_act_modulated_fwd_kernel(ChannelGrid g, const T* x, Modulation m, T* y) {
  Walk walk(g, g.images());
  const Columns columns(g, walk.channel, m);
  const T *scale = static_cast<const T*>(m.full_scale), *shift = static_cast<const T*>(m.full_shift), *residual = static_cast<const T*>(m.residual);
  with_act(m.act, [&](auto tag) {
    if constexpr (kFull) {
      for_items<T, 4, true>(walk, {x, scale, shift, residual}, [&](int64_t at, float (&v)[4][kVec]) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          const float inner = (v[0][i] - columns.mean[i]) * columns.scale[i] + columns.shift[i], z = scale ? inner * v[1][i] + v[2][i] : inner;
          const float value = tag.fwd(m.residual_first ? z + v[3][i] : z, columns.alpha[i]);
          v[0][i] = (m.residual_first ? value : value + v[3][i]) * m.factor;
        }
        store_item(y + at, g.width, v[0]);
      });
    } else {
      for_items<T, 1>(walk, {x}, [&](int64_t at, float (&v)[1][kVec]) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) v[0][i] = tag.fwd((v[0][i] - columns.mean[i]) * columns.scale[i] + columns.shift[i], columns.alpha[i]);
        store_item(y + at, g.width, v[0]);
      });
    }
  });
}

// body(offset, [gy, x, scale, shift, residual][slot]) for every item of the thread, with kFull; else ([gy, x]).
template <class T, bool kFull, class F> __device__ __forceinline__ void for_gradient_items(Walk& walk, const T* gy, const T* x, const Modulation& m, F body) {
  if constexpr (kFull) {
    for_items<T, 5, true>(walk, {gy, x, static_cast<const T*>(m.full_scale), static_cast<const T*>(m.full_shift), static_cast<const T*>(m.residual)}, body);
  } else {
    for_items<T, 2>(walk, {gy, x}, body);
  }
}

// What one element's gradient is made of: gy * factor, g = gy * factor * f'(z), xhat * weight + bias, the scale read beside x.
struct Element {
  float gy, g, centred, inner, z, by;

  template <bool kFull, class Tag, int kInputs>
  static __device__ __forceinline__ Element of(Tag tag, const float (&v)[kInputs][kVec], int i, const Columns& columns, const Modulation& m) {
    Element e{v[0][i], 0, v[1][i] - columns.mean[i], 0, 0, 1};
    e.inner = e.centred * columns.scale[i] + columns.shift[i], e.z = e.inner;
    if constexpr (kFull) {
      if (m.full_scale) e.by = v[2][i], e.z = e.inner * v[2][i] + v[3][i];
      e.z += v[4][i], e.gy *= m.factor;
    }
    e.g = tag.bwd(e.gy, e.z, columns.alpha[i], false);
    return e;
  }
};

// partials[chunk][0..2][column] = sums of h, h * (x - mean), gy * factor * df/dalpha(z), h = g, times the scale of x's shape.
template <class T, bool kFull>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_modulated_bwd_sums_kernel(ChannelGrid g, const T* gy, const T* x, Modulation m, float* partials) {
  GANFAST_SHARED(float, shared, 3 * kVec * kChannelThreads);
  Walk walk(g, g.images());
  const Columns columns(g, walk.channel, m);
  float sums[3][kVec] = {};
  with_act(m.act, [&](auto tag) {
    for_gradient_items<T, kFull>(walk, gy, x, m, [&](int64_t, const auto& v) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const Element e = Element::of<kFull>(tag, v, i, columns, m);
        const float h = kFull ? e.g * e.by : e.g;
        sums[0][i] += h;
        sums[1][i] += h * e.centred;
        if (m.alpha) sums[2][i] += tag.alpha_bwd(e.gy, e.z, columns.alpha[i]);
      }
    });
  });
  write_channel_sums(g, walk, sums, shared, partials);
}

// gx = scale * h - through[0] * invstd - (x - mean) * through[1] * invstd^2, and the gradients of x's shape.
template <class T, bool kFull>
__global__ void __launch_bounds__(kChannelThreads) batch_norm_act_modulated_bwd_kernel(ChannelGrid g, const T* gy, const T* x, Modulation m, const float* through, T* gx,
                                                                                 T* gscale, T* gshift) {
  Walk walk(g, g.images());
  const Columns columns(g, walk.channel, m);
  float offset[kVec], slope[kVec], inverse[kVec];
  load_channels(g, walk.channel, through, 0, offset);
  load_channels(g, walk.channel, through ? through + g.c : nullptr, 0, slope);
  load_channels(g, m.statistics == g.image ? walk.channel % g.image : walk.channel, m.invstd, 0, inverse);
#pragma unroll
  for (int i = 0; i < kVec; ++i) offset[i] *= inverse[i], slope[i] *= inverse[i] * inverse[i];
  with_act(m.act, [&](auto tag) {
    for_gradient_items<T, kFull>(walk, gy, x, m, [&](int64_t at, auto& v) {
      float out[3][kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        const Element e = Element::of<kFull>(tag, v, i, columns, m);
        out[0][i] = columns.scale[i] * (kFull ? e.g * e.by : e.g) - (offset[i] + e.centred * slope[i]);
        out[1][i] = e.g * e.inner, out[2][i] = e.g;
      }
      store_item(gx + at, g.width, out[0]);
      if constexpr (kFull) {
        if (gscale) store_item(gscale + at, g.width, out[1]);
        if (gshift) store_item(gshift + at, g.width, out[2]);
      }
    });
  });
}

// All that follows from sums [3, n * c] of h, h * (x - mean) and the slope in alpha; a warp each. The first warps look at a group of
// `width` columns each, the others at a channel, down the images: the vectors' gradients, and `through` [2, n * c], the means that gx
// lacks, where a channel of all images is normalised together.
__global__ void __launch_bounds__(kFinishThreads) modulated_norm_act_fold_kernel(const float* sums, int64_t n, int64_t c, int64_t width, int64_t group_warps, bool grouped,
                                                                                 float inverse_count, Modulation m, ModulationGradients to, float* through) {
  const int64_t warp = blockIdx.x * static_cast<int64_t>(kFinishThreads / 32) + threadIdx.x / 32, columns = n * c;
  const int lane = threadIdx.x % 32;
  if (warp < group_warps) {
    const int64_t first = warp * width, channel = first % c;
    float of_h = 0, of_product = 0;
    for (int64_t i = lane; i < width; i += 32) {
      const int64_t k = first + i;
      const float gain = (m.weight ? m.weight[channel + i] : 1) * (m.scale ? m.scale[k] : 1);
      of_h += gain * sums[k], of_product += gain * sums[columns + k] * m.invstd[m.statistics == c ? channel + i : k];
    }
    of_h = warp_sum(of_h) * inverse_count, of_product = warp_sum(of_product) * inverse_count;
    for (int64_t i = lane; i < width; i += 32) through[first + i] = of_h, through[columns + first + i] = of_product;
    return;
  }
  const int64_t channel = warp - group_warps;
  if (channel >= c) return;
  const float w = m.weight ? m.weight[channel] : 1, b = m.bias ? m.bias[channel] : 0;
  float of_h = 0, of_product = 0, of_alpha = 0;
  for (int64_t image = lane; image < n; image += 32) {
    const int64_t k = image * c + channel;
    const float by = m.scale ? m.scale[k] : 1, h = sums[k], product = sums[columns + k] * m.invstd[m.statistics == c ? channel : k];
    of_h += h * by, of_product += product * by;
    if (to.galpha) of_alpha += sums[2 * columns + k];
    if (to.gscale) to.gscale[k] = product * w + h * b, to.gshift[k] = h;
  }
  of_h = warp_sum(of_h), of_product = warp_sum(of_product), of_alpha = warp_sum(of_alpha);
  if (lane == 0) {
    to.gbias[channel] = of_h, to.gweight[channel] = of_product;
    if (to.galpha) to.galpha[channel] = of_alpha;
  }
  if (!through || grouped) return;
  for (int64_t image = lane; image < n; image += 32)
    through[image * c + channel] = of_h * w * inverse_count, through[columns + image * c + channel] = of_product * w * inverse_count;
}

ChannelGrid grid_of(const BatchNormShape& s, bool vectors) { return channel_grid(s.n, s.c, s.l, s.channels_last, vectors, true); }

template <class T> bool all_aligned(const Modulation& m) {
  const auto one = [](const void* p) { return aligned(static_cast<const T*>(p), kVec); };
  return one(m.full_scale) && one(m.full_shift) && one(m.residual);
}

}  // namespace

int64_t modulated_norm_act_scratch(const BatchNormShape& s) { return s.n * s.c * (3 * max_chunks(s.n, s.c, s.l, s.channels_last, true) + 5); }

void batch_norm_act_modulated_fwd_cuda(const BatchNormShape& s, Dtype dtype, const void* x, const Modulation& m, void* y, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* typed_x = static_cast<const T*>(x);
    T* typed_y = static_cast<T*>(y);
    const ChannelGrid g = grid_of(s, aligned(typed_x, kVec) && aligned(typed_y, kVec) && all_aligned<T>(m));
    auto kernel = m.full() ? &batch_norm_act_modulated_fwd_kernel<T, true> : &batch_norm_act_modulated_fwd_kernel<T, false>;
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_x, m, typed_y);
  });
}

void batch_norm_act_modulated_bwd_cuda(const BatchNormShape& s, Dtype dtype, const void* gy, const void* x, const Modulation& m, int64_t groups, bool training, void* gx,
                                 const ModulationGradients& to, float* scratch, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_gy = static_cast<const T*>(gy), *typed_x = static_cast<const T*>(x);
    T *typed_gx = static_cast<T*>(gx), *gscale = static_cast<T*>(to.full_gscale), *gshift = static_cast<T*>(to.full_gshift);
    const bool vectors = aligned(typed_gy, kVec) && aligned(typed_x, kVec) && aligned(typed_gx, kVec) && all_aligned<T>(m);
    const ChannelGrid g = grid_of(s, vectors && aligned(gscale, kVec) && aligned(gshift, kVec));
    auto sums_kernel = m.full() ? &batch_norm_act_modulated_bwd_sums_kernel<T, true> : &batch_norm_act_modulated_bwd_sums_kernel<T, false>;
    auto kernel = m.full() ? &batch_norm_act_modulated_bwd_kernel<T, true> : &batch_norm_act_modulated_bwd_kernel<T, false>;
    float *partials = scratch, *sums = partials + 3 * g.c * g.chunks, *through = training ? sums + 3 * g.c : nullptr;
    GANFAST_LAUNCH(sums_kernel, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_x, m, partials);
    if (g.chunks == 1) sums = partials;
    else
      GANFAST_LAUNCH(channel_sums_kernel<3>, finish_blocks(g.c), kFinishThreads, stream, partials, g.chunks, g.c,
                     ChannelSums{{sums, sums + g.c, sums + 2 * g.c}, nullptr});
    const int64_t group_warps = training ? s.n * groups : 0, width = groups ? s.c / groups : 1;
    const float inverse_count = 1.0f / (groups ? width * s.l : s.n * s.l);
    GANFAST_LAUNCH(modulated_norm_act_fold_kernel, finish_blocks(group_warps + s.c), kFinishThreads, stream, sums, s.n, s.c, width, group_warps, groups > 0, inverse_count,
                   m, to, through);
    GANFAST_LAUNCH(kernel, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_x, m, through, typed_gx, gscale, gshift);
  });
}

}  // namespace ganfast
