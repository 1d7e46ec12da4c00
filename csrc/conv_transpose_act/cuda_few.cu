// Transposed convolution + bias + activation for up to kFewChannels output channels of a group (images: RGB). A GEMM tile is
// mostly padding there; this kernel reads every input pixel once, multiplies it by the weights of all taps at once, and adds up
// in shared memory what belongs to one output (cuda_few.h). The half types use tensor cores, float32 exact FMAs: at 16 taps and
// 3 channels each element takes part in 48 multiply-adds, more than FP32 units do in the time it takes to arrive.
#include "../common/mma.h"
#include "cuda_few.h"

namespace ganfast {
namespace {

constexpr int kWeightPitch = 64 + 32;  // halves a column: four lanes' 16-byte reads of 2 columns meet in no bank
constexpr int kMaxThreads = 32 * kFewWarps;

// acc[j][i][2 * (pixel % 2) + e]: pixel 2j + pixel % 2 of the lane's chunk, column 8i + 2 * (lane % 4) + e.
template <class T> using Products = float[4][sizeof(T) == 2 ? 3 : 6][4];

// kSlow runs of kFast neighbours in memory: pixels by channels, or channels by pixels.
template <class T, bool kLast> struct Patch {
  static constexpr int kChannels = 16 / sizeof(T), kSlow = kLast ? 8 : kChannels, kFast = kLast ? kChannels : 8;
  Vec<T, kFast> run[kSlow];

  __device__ __forceinline__ void load(const T* x, int64_t offset, int64_t pixel_step, int64_t channel_step, int pixels, int channels, bool vectors) {
    const int64_t slow_step = kLast ? pixel_step : channel_step, fast_step = kLast ? channel_step : pixel_step;
    const int slow = kLast ? pixels : channels, fast = kLast ? channels : pixels;
#pragma unroll
    for (int i = 0; i < kSlow; ++i) {
      load_run(x + offset, fast_step, i < slow ? fast : 0, vectors, run[i].v);
      offset += slow_step;
      forget(offset);  // or eight addresses would stay in registers all through the loop
    }
  }
};

// The column that a lane's tile i, element e holds stands here in a channel's weights, so that a lane reads 12 neighbours.
__device__ __forceinline__ int float_column(int column) { return column / 2 % 4 * 12 + column / 8 * 2 + column % 2; }

// acc += patch * weights[channel..]; only the first `tiles` tiles of columns are wanted.
template <bool kLast> __device__ __forceinline__ void multiply(const Patch<float, kLast>& patch, const float* weights, int channel, int tiles, Products<float>& acc) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const float* w = weights + (channel + c) * kFewColumns + threadIdx.x % 4 * 12;
#pragma unroll
    for (int i = 0; i < 6; i += 2) {
      if (i >= tiles) continue;
      const auto both = *reinterpret_cast<const Vec<float, 4>*>(w + 2 * i);
#pragma unroll
      for (int k = 0; k < 32; ++k) {
        const int pixel = k / 4, tile = i + k / 2 % 2, e = k % 2;
        acc[pixel / 2][tile][pixel % 2 * 2 + e] += (kLast ? patch.run[pixel].v[c] : patch.run[c].v[pixel]) * both.v[k % 4];
      }
    }
  }
}

// Pixels that came as channels by pixels, as the left operands of products: words [product][pixels 2j, 2j + 1][register].
// Which of a slab's channels is which k is free as long as both operands agree: lane t % 4 has channels channel + 8t ... + 7, of
// which the first product takes the first four.
template <class T> __device__ __forceinline__ void arrange(Patch<T, false>& patch) {
  uint32_t words[8][4], a[32];
  std::memcpy(words, &patch, sizeof words);
#pragma unroll
  for (int k = 0; k < 32; ++k) {
    const int j = k / 4 % 4, pair = 2 * (k / 16) + k / 2 % 2;
    a[k] = byte_perm(words[2 * pair][j], words[2 * pair + 1][j], k % 2 ? 0x7632 : 0x5410);  // registers 1 and 3 are the odd pixels
  }
  std::memcpy(&patch, a, sizeof words);
}

template <class T, bool kLast> __device__ __forceinline__ void multiply(const Patch<T, kLast>& patch, const T* weights, int channel, int tiles, Products<T>& acc) {
  uint32_t words[32];
  std::memcpy(words, &patch, sizeof words);
  const T* w = weights + threadIdx.x % 32 / 4 * kWeightPitch + channel + threadIdx.x % 4 * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if (i >= tiles) continue;
      const auto b = *reinterpret_cast<const Vec<uint32_t, 2>*>(w + i * 8 * kWeightPitch + half * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t a[4];
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = words[kLast ? (2 * j + r % 2) * 4 + 2 * half + r / 2 : half * 16 + j * 4 + r];
        mma(T{}, acc[j][i], a, b.v[0], b.v[1]);
      }
    }
  }
}

template <class T, bool kLast, bool kVectors>
__global__ void __launch_bounds__(kMaxThreads, kVectors ? 2 : 1) conv_transpose_act_fwd_few_kernel(FewPlan plan, const T* x, const T* weight, const float* bias, const float* alpha, Act act,
                                                                             float alpha_value, ConvTransposeAdded added, T* y, T* z, float* partials) {
  constexpr bool kHalf = sizeof(T) == 2;
  // Channels a patch brings to a warp (lanes of the half types have 8 different ones), and how many are staged and summed at once.
  // Of the half types a slab's patches stay in registers for all columns; single loads need registers for their addresses.
  constexpr int kStep = kHalf ? 32 : 4, kSlab = kHalf && !kVectors ? 32 : 64, kPatches = kHalf ? kSlab / kStep : 1;
  constexpr int kTiles = kHalf ? 3 : 6;  // of 8 columns, summed at once
  GANFAST_DYNAMIC_SHARED(float, columns);  // [columns of all taps and channels][pitch], then the weights of a slab
  GANFAST_SHARED(FewWork, shared_work, 1);
  GANFAST_SHARED(Phase, phases_h, kFewStride);
  GANFAST_SHARED(Phase, phases_w, kFewStride);
  GANFAST_SHARED(int64_t, w_offset, kFewColumns);
  GANFAST_SHARED(float, moments_of, 3 * kFewWarps * kFewChannels);

  const ConvTransposeShape& s = plan.fwd.s;
  const int t = threadIdx.x, threads = blockDim.x, warp = t / 32, lane = t % 32, c_in = plan.fwd.c_in;
  const int kernel_w = s.kernel[2], taps = s.kernel[1] * kernel_w;
  if (t == 0) few_work(plan, blockIdx.x, *shared_work);
  if (t < s.stride[1]) phases_h[t] = phase_of(plan.fwd, 1, t);
  if (t >= 32 - s.stride[2] && t < 32) phases_w[31 - t] = phase_of(plan.fwd, 2, 31 - t);
  __syncthreads();
  const FewWork& work = *shared_work;
  const int all = taps * work.channels, chunks = work.chunks;
  T* weights = reinterpret_cast<T*>(columns + all * plan.pitch);
  weight += static_cast<int64_t>(work.group) * c_in * s.w_stride[0] + work.first_channel * s.w_stride[1];
  // Weights of channels slab ... slab + kSlab for kFewColumns columns from `first`; zero where there are none.
  auto stage = [&](int first, int slab) {
    const int count = all - first < kFewColumns ? all - first : kFewColumns;
    for (int column = t; column < count; column += threads) {
      const int tap = (first + column) % taps;
      w_offset[column] = (first + column) / taps * s.w_stride[1] + tap / kernel_w * s.w_stride[3] + tap % kernel_w * s.w_stride[4];
    }
    __syncthreads();
#pragma unroll 4
    for (int e = t; e < kSlab * kFewColumns; e += threads) {
      const int column = e % kFewColumns, c = e / kFewColumns;
      const T value = column < count && slab + c < c_in ? weight[(slab + c) * s.w_stride[0] + w_offset[column]] : T{};
      weights[kHalf ? column * kWeightPitch + c : c * kFewColumns + float_column(column)] = value;
    }
    __syncthreads();
  };

  const bool staged_once = all <= kFewColumns && c_in <= kSlab;
  for (int round = 0; round * threads / 4 < chunks; ++round) {
    const int chunk = (round * (threads / 32) + warp) * 8 + lane / 4, row = chunk / work.across, cell = work.left + chunk % work.across * 8;
    const bool busy = chunk - lane / 4 < chunks;  // all of a warp, or none
    const int pixels = chunk < chunks ? s.in[2] - cell : 0;
    const int64_t from = work.image * s.x_stride[0] + static_cast<int64_t>(work.group) * c_in * s.x_stride[1] + (work.rows.first + row) * s.x_stride[3] + cell * s.x_stride[4];
    for (int slab = 0; slab < c_in; slab += kSlab) {
      Patch<T, kLast> patch[kPatches];
      const auto load = [&](int i, int c) {
        const int channel = slab + c + (kHalf ? lane % 4 * 8 : 0);
        patch[i].load(x, from + channel * s.x_stride[1], s.x_stride[4], s.x_stride[1], pixels, c_in - channel, kVectors);
      };
      if (kHalf && busy)  // in flight while the weights are staged
#pragma unroll
        for (int i = 0; i < kPatches; ++i) load(i, i * kStep);
      for (int first = 0; first < all; first += kFewColumns) {
        if (!staged_once || round == 0) stage(first, slab);
        if (!busy) continue;
        if constexpr (kHalf && !kLast)
          if (first == 0)
#pragma unroll
            for (int i = 0; i < kPatches; ++i) arrange(patch[i]);
#pragma unroll 1
        for (int column = first; column < all && column < first + kFewColumns; column += 8 * kTiles) {
          Products<T> acc = {};
          const int tiles = (all - column + 7) / 8;
          if constexpr (kHalf) {
#pragma unroll
            for (int i = 0; i < kPatches; ++i) multiply(patch[i], weights + (column - first) * kWeightPitch, i * kStep, tiles, acc);
          } else {
            const int end = c_in - slab < kSlab ? c_in - slab : kSlab;
#pragma unroll 1
            for (int c = 0; c < end; c += kStep) load(0, c), multiply(patch[0], weights, c, tiles, acc);
          }
          if (chunk >= chunks) continue;
#pragma unroll
          for (int k = 0; k < 4 * kTiles; ++k) {
            const int i = k / 4, e = k / 2 % 2, half = k % 2, at = column + 8 * i + lane % 4 * 2 + e;
            if (at >= all) continue;
            // Halves of odd chunks change places: then the eight lanes of a store meet in no bank.
            auto* to = reinterpret_cast<Vec<float, 4>*>(columns + at * plan.pitch + chunk * 8 + (half ^ (chunk & 1)) * 4);
            Vec<float, 4> sum = {{acc[2 * half][i][e], acc[2 * half][i][2 + e], acc[2 * half + 1][i][e], acc[2 * half + 1][i][2 + e]}};
            if (slab > 0)
#pragma unroll
              for (int v = 0; v < 4; ++v) sum.v[v] += to->v[v];
            store_shared(to, sum);
          }
        }
      }
    }
  }
  __syncthreads();

  // Outputs: a warp a row, lanes along memory: pixels where those are neighbours, else channels first, then pixels.
  const FewWork here = work;  // in registers now: they are free again
  const int inner = kLast ? here.channels : 1, lanes = 32 / inner, lane_pixel = lane / inner, reciprocal = 65536 / s.stride[2] + 1;
  for (int outer = 0; outer < (kLast ? 1 : here.channels); ++outer) {
    const int own = kLast ? lane % inner : outer;  // this lane's channel
    const int64_t channel = static_cast<int64_t>(here.group) * plan.fwd.c_out + here.first_channel + own;
    const float shift = bias ? bias[channel] : 0, a = alpha ? alpha[channel] : alpha_value;
    Moments moments{0, 0, 0};
    for (int oh = warp; oh < here.out_h; oh += threads / 32) {
      const Phase high = phases_h[(here.from_h + oh) % s.stride[1]];
      const int ih = (here.from_h + oh) / s.stride[1] + high.i0 - here.rows.first;
      for (int ow = lane_pixel < lanes ? lane_pixel : here.out_w; ow < here.out_w; ow += lanes) {
        const int q = ow * reciprocal >> 16;  // ow / stride: tiles are narrow, and start at multiples of it
        const Phase wide = phases_w[ow - q * s.stride[2]];
        const int iw = here.from_w / s.stride[2] + q + wide.i0;
        float value = shift;
        for (int jh = 0; jh < high.taps; ++jh) {
          const int r = ih - jh * high.i_step;
          if (r < 0 || r >= here.rows.end - here.rows.first) continue;
          const float* of_row = columns + (own * taps + (high.k0 + jh * high.k_step) * kernel_w) * plan.pitch;
          for (int jw = 0; jw < wide.taps; ++jw) {
            const int at = iw - jw * wide.i_step;
            if (at < 0 || at >= s.in[2]) continue;
            const int cell = r * here.across * 8 + at - here.left;
            value += of_row[(wide.k0 + jw * wide.k_step) * plan.pitch + (cell ^ (cell >> 1 & 4))];
          }
        }
        const int64_t to = here.image * s.y_stride[0] + channel * s.y_stride[1] + (here.from_h + oh) * s.y_stride[3] + (here.from_w + ow) * s.y_stride[4];
        const T rounded = finish_output(value, to, act, a, added, y, z);
        if (!partials) continue;
        const float v = to_float(rounded), delta = v - moments.mean;
        moments.n += 1, moments.mean += delta / moments.n, moments.m2 += delta * (v - moments.mean);
      }
    }
    if (!partials) continue;
    for (int by = 16; by; by >>= 1) {
      const Moments other{__shfl_down_sync(0xffffffffu, moments.n, by * inner), __shfl_down_sync(0xffffffffu, moments.mean, by * inner),
                          __shfl_down_sync(0xffffffffu, moments.m2, by * inner)};
      if (lane_pixel + by < lanes) moments = merge(moments, other);
    }
    if (lane_pixel == 0) {
      float* to = moments_of + 3 * (warp * kFewChannels + own);
      to[0] = moments.n, to[1] = moments.mean, to[2] = moments.m2;
    }
  }
  if (!partials) return;
  __syncthreads();
  if (t >= here.channels) return;
  Moments sum{0, 0, 0};
  for (int other = 0; other < threads / 32; ++other) {
    const float* from = moments_of + 3 * (other * kFewChannels + t);
    sum = merge(sum, {from[0], from[1], from[2]});
  }
  partials += here.tile * 3 * s.c_out + static_cast<int64_t>(here.group) * plan.fwd.c_out + here.first_channel + t;
  partials[0] = sum.n, partials[s.c_out] = sum.mean, partials[2 * s.c_out] = sum.m2;
}

}  // namespace

void conv_transpose_act_fwd_few_cuda(FewPlan plan, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha, Act act,
                                     float alpha_value, const ConvTransposeAdded& added, void* y, void* z, float* partials, cudaStream_t stream) {
  const ConvTransposeShape& s = plan.fwd.s;
  const int64_t x_size[5] = {s.n, s.c_in, s.in[0], s.in[1], s.in[2]};
  const bool last = s.x_stride[1] == 1 && s.x_stride[4] == s.c_in;
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kRun = 16 / sizeof(T);
    const T *typed_x = static_cast<const T*>(x), *typed_weight = static_cast<const T*>(weight);
    T *typed_y = static_cast<T*>(y), *typed_z = static_cast<T*>(z);
    const bool vectors = aligned(typed_x, kRun) && (last ? runs(s.x_stride, x_size, 1, plan.fwd.c_in, kRun) : runs(s.x_stride, x_size, 4, s.in[2], kRun));
    auto kernel = last ? (vectors ? &conv_transpose_act_fwd_few_kernel<T, true, true> : &conv_transpose_act_fwd_few_kernel<T, true, false>)
                       : (vectors ? &conv_transpose_act_fwd_few_kernel<T, false, true> : &conv_transpose_act_fwd_few_kernel<T, false, false>);
    GANFAST_LAUNCH_SHARED(kernel, few_tiles(plan).blocks, 32 * plan.warps, plan.shared_bytes, stream, plan, typed_x, typed_weight, bias, alpha, act, alpha_value, added, typed_y, typed_z, partials);
  });
}

}  // namespace ganfast
