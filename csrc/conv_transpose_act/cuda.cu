// Transposed convolution + bias + activation: one implicit GEMM per phase of the output, exact float32 accumulation.
//
// Outputs o = stride * q + r share phase r in every dimension, and with it the taps that reach them: k = k0 + j * stride / g,
// from input i0 + q - j * dilation / g, g = gcd(stride, dilation). So a phase is a dense convolution, and a block computes
// kM pixels of one phase by kN output channels of one group; its inner dimension runs over (tap, input channel).
#include "../common/channel_grid.h"
#include "conv_transpose_act.h"

namespace ganfast {
namespace {

constexpr int kThreads = 128;
constexpr int kK = 8;  // input channels a step

struct FwdPlan {
  ConvTransposeShape s;
  int gcd[3], phases[3];
  int64_t pixel_tiles, channel_tiles;  // of the largest phase; of all groups
  bool x_vectors, w_vectors;
};

// One dimension of one phase.
struct Phase {
  int taps, k0, k_step, i0, i_step, pixels;
};

__device__ Phase phase_of(const FwdPlan& p, int dim, int r) {
  const ConvTransposeShape& s = p.s;
  const int stride = s.stride[dim], shifted = r + s.padding[dim];
  Phase f{0, 0, stride / p.gcd[dim], 0, s.dilation[dim] / p.gcd[dim], (s.out[dim] - r + stride - 1) / stride};
  while (f.k0 < s.kernel[dim] && (shifted - s.dilation[dim] * f.k0) % stride != 0) ++f.k0;
  if (f.k0 < s.kernel[dim]) {
    f.taps = (s.kernel[dim] - f.k0 + f.k_step - 1) / f.k_step;
    f.i0 = (shifted - s.dilation[dim] * f.k0) / stride;
  }
  return f;
}

// kCount elements `step` apart, the first `valid` of them inside the tensor.
template <class T, int kCount> __device__ __forceinline__ void load_run(const T* from, int64_t step, int valid, bool vectors, T (&to)[kCount]) {
  constexpr int kRun = kCount * sizeof(T) > 16 ? 16 / sizeof(T) : kCount;
  if (vectors) {
#pragma unroll
    for (int i = 0; i < kCount; i += kRun) {
      Vec<T, kRun> run{};
      if (i < valid) run = *reinterpret_cast<const Vec<T, kRun>*>(from + i);
#pragma unroll
      for (int e = 0; e < kRun; ++e) to[i + e] = run.v[e];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = i < valid ? from[i * step] : T{};
  }
}

template <class T, int kM, int kN, int kTM, int kTN>
__global__ void __launch_bounds__(kThreads, 3) conv_transpose_act_fwd_kernel(FwdPlan p, const T* x, const T* weight, const float* bias, const float* alpha, Act act,
                                                                          float alpha_value, T* y, T* z, float* partials) {
  constexpr int kXRun = kM * kK / kThreads, kWRun = kK * kN / kThreads;  // elements a thread stages a step
  constexpr int kAcross = kN / kTN;                                      // threads side by side along the channels
  constexpr int kRunM = 4, kRunN = kTN < 4 ? kTN : 4;                    // neighbours read by one shared load
  constexpr int kStripes = kTM / kRunM, kRows = kM / kStripes;           // a thread's rows lie in kStripes stripes of kRows
  constexpr int kBuffer = kK * (kM + kN), kPitch = kN + 1, kParts = kThreads / kN;
  constexpr int kStage = kRows * kPitch > 3 * kThreads ? kRows * kPitch : 3 * kThreads;
  static_assert(kThreads == (kM / kTM) * kAcross && kK % kXRun == 0 && kN % kWRun == 0);
  GANFAST_SHARED(float, tile, (2 * kBuffer > kStage ? 2 * kBuffer : kStage));
  GANFAST_SHARED(int64_t, row_offset, kM);

  const ConvTransposeShape& s = p.s;
  const int t = threadIdx.x;
  const int c_in = s.c_in / s.groups, c_out = s.c_out / s.groups;
  int64_t rest = blockIdx.x;
  const int64_t channel_tile = rest % p.channel_tiles;
  rest /= p.channel_tiles;
  const int64_t partial_row = rest;
  const int rw = rest % p.phases[2], rh = rest / p.phases[2] % p.phases[1], rd = rest / (p.phases[2] * p.phases[1]) % p.phases[0];
  const int64_t first_pixel = rest / (p.phases[2] * p.phases[1] * p.phases[0]) * kM;
  const int64_t tiles_a_group = p.channel_tiles / s.groups, group = channel_tile / tiles_a_group;
  const int first_channel = channel_tile % tiles_a_group * kN;  // within the group
  const Phase d = phase_of(p, 0, rd), h = phase_of(p, 1, rh), w = phase_of(p, 2, rw);
  const int64_t pixels = s.n * d.pixels * h.pixels * w.pixels;

  // This thread stages kXRun channels of one pixel, and kWRun output channels of one input channel.
  const int x_row = t % kM, x_channel = t / kM * kXRun, w_row = t / (kN / kWRun), w_channel = t % (kN / kWRun) * kWRun;
  const int64_t pixel = first_pixel + x_row;
  const bool inside = pixel < pixels;
  const int qw = pixel % w.pixels, qh = pixel / w.pixels % h.pixels, qd = pixel / (static_cast<int64_t>(w.pixels) * h.pixels) % d.pixels;
  const int64_t image = pixel / (static_cast<int64_t>(w.pixels) * h.pixels * d.pixels);
  if (t < kM) {
    const int64_t od = static_cast<int64_t>(s.stride[0]) * qd + rd, oh = static_cast<int64_t>(s.stride[1]) * qh + rh, ow = static_cast<int64_t>(s.stride[2]) * qw + rw;
    row_offset[t] = inside ? image * s.y_stride[0] + od * s.y_stride[2] + oh * s.y_stride[3] + ow * s.y_stride[4] : -1;
  }
  x += image * s.x_stride[0] + (group * c_in + x_channel) * s.x_stride[1];
  weight += (group * c_in + w_row) * s.w_stride[0] + (first_channel + w_channel) * s.w_stride[1];

  T x_regs[kXRun], w_regs[kWRun];
  int jd = 0, jh = 0, jw = 0, c = 0;
  const T *x_at = x, *w_at = weight;
  bool reached = false;
  auto enter_tap = [&] {
    const int id = qd + d.i0 - jd * d.i_step, ih = qh + h.i0 - jh * h.i_step, iw = qw + w.i0 - jw * w.i_step;
    reached = inside && id >= 0 && id < s.in[0] && ih >= 0 && ih < s.in[1] && iw >= 0 && iw < s.in[2];
    x_at = x + id * s.x_stride[2] + ih * s.x_stride[3] + iw * s.x_stride[4];
    w_at = weight + (d.k0 + jd * d.k_step) * s.w_stride[2] + (h.k0 + jh * h.k_step) * s.w_stride[3] + (w.k0 + jw * w.k_step) * s.w_stride[4];
  };
  auto fetch = [&] {
    if (c == 0) enter_tap();
    load_run(x_at, s.x_stride[1], reached ? c_in - c - x_channel : 0, p.x_vectors, x_regs);
    load_run(w_at, s.w_stride[1], c + w_row < c_in ? c_out - first_channel - w_channel : 0, p.w_vectors, w_regs);
    x_at += kK * s.x_stride[1], w_at += kK * s.w_stride[0];
    c += kK;
    if (c >= c_in) {
      c = 0;
      if (++jw == w.taps) {
        jw = 0;
        if (++jh == h.taps) jh = 0, ++jd;
      }
    }
  };
  auto stage = [&](float* buffer) {
#pragma unroll
    for (int e = 0; e < kXRun; ++e) buffer[(x_channel + e) * kM + x_row] = to_float(x_regs[e]);
    Vec<float, kWRun> run;
#pragma unroll
    for (int e = 0; e < kWRun; ++e) run.v[e] = to_float(w_regs[e]);
    *reinterpret_cast<Vec<float, kWRun>*>(buffer + kK * kM + w_row * kN + w_channel) = run;
  };

  float acc[kTM][kTN] = {};
  const int row0 = t / kAcross * kRunM, column0 = t % kAcross * kRunN;
  const int steps = d.taps * h.taps * w.taps * ((c_in + kK - 1) / kK);
  if (steps > 0 && first_pixel < pixels) {
    fetch();
    stage(tile);
    __syncthreads();
    for (int step = 0; step < steps; ++step) {
      const bool more = step + 1 < steps;
      if (more) fetch();  // in flight while this step computes
      const float *a_tile = tile + (step & 1) * kBuffer, *b_tile = a_tile + kK * kM;
#pragma unroll
      for (int k = 0; k < kK; ++k) {
        Vec<float, kRunM> a[kStripes];
        Vec<float, kRunN> b[kTN / kRunN];
#pragma unroll
        for (int i = 0; i < kStripes; ++i) a[i] = *reinterpret_cast<const Vec<float, kRunM>*>(a_tile + k * kM + i * kRows + row0);
#pragma unroll
        for (int j = 0; j < kTN / kRunN; ++j) b[j] = *reinterpret_cast<const Vec<float, kRunN>*>(b_tile + k * kN + j * kAcross * kRunN + column0);
#pragma unroll
        for (int i = 0; i < kTM; ++i)
#pragma unroll
          for (int j = 0; j < kTN; ++j) acc[i][j] += a[i / kRunM].v[i % kRunM] * b[j / kRunN].v[j % kRunN];
      }
      if (more) stage(tile + (~step & 1) * kBuffer);
      __syncthreads();
    }
  }

  // Through shared memory, so that stores coalesce in either layout and the activation's code exists once a stripe.
  const bool channel_fastest = s.y_stride[1] == 1;
  const int part = t / kN, part_rows = kRows / kParts;
  Moments moments{0, 0, 0};
#pragma unroll 1
  for (int stripe = 0; stripe < kStripes; ++stripe) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTM; ++i)
#pragma unroll
      for (int j = 0; j < kTN; ++j)
        if (i / kRunM == stripe) tile[(row0 + i % kRunM) * kPitch + j / kRunN * kAcross * kRunN + column0 + j % kRunN] = acc[i][j];
    __syncthreads();
#pragma unroll 1
    for (int e = t; e < kRows * kN; e += kThreads) {
      const int row = channel_fastest ? e / kN : e % kRows, column = channel_fastest ? e % kN : e / kRows;
      const int64_t offset = row_offset[stripe * kRows + row];
      if (offset < 0 || first_channel + column >= c_out) continue;
      const int64_t channel = group * c_out + first_channel + column, at = offset + channel * s.y_stride[1];
      const float value = tile[row * kPitch + column] + (bias ? bias[channel] : 0);
      if (z) z[at] = from_float<T>(value);
      T rounded{};
      with_act(act, [&](auto tag) { rounded = from_float<T>(tag.fwd(value, alpha ? alpha[channel] : alpha_value)); });
      y[at] = rounded;
      tile[row * kPitch + column] = to_float(rounded);
    }
    if (!partials) continue;
    __syncthreads();
    const int first_row = stripe * kRows + part * part_rows;
    const int64_t left = pixels - first_pixel - first_row;
    const int count = left < 0 ? 0 : left < part_rows ? static_cast<int>(left) : part_rows;
    const float* column = tile + part * part_rows * kPitch + t % kN;
    float sum = 0, m2 = 0;
    for (int i = 0; i < count; ++i) sum += column[i * kPitch];
    const float mean = count ? sum / count : 0;
    for (int i = 0; i < count; ++i) m2 += (column[i * kPitch] - mean) * (column[i * kPitch] - mean);
    moments = merge(moments, {static_cast<float>(count), mean, m2});
  }
  if (!partials) return;
  __syncthreads();
  tile[t] = moments.n, tile[kThreads + t] = moments.mean, tile[2 * kThreads + t] = moments.m2;
  __syncthreads();
  if (t >= kN || first_channel + t >= c_out) return;
  for (int other = t + kN; other < kThreads; other += kN) moments = merge(moments, {tile[other], tile[kThreads + other], tile[2 * kThreads + other]});
  partials += partial_row * 3 * s.c_out + group * c_out + first_channel + t;
  partials[0] = moments.n, partials[s.c_out] = moments.mean, partials[2 * s.c_out] = moments.m2;
}

template <class T>
__global__ void __launch_bounds__(kChannelThreads) conv_transpose_act_bwd_kernel(ChannelGrid g, const T* gy, const T* saved, const float* alpha, Act act,
                                                                                 float alpha_value, bool from_y, T* gz, float* partials) {
  GANFAST_SHARED(float, shared, 2 * kVec * kChannelThreads);
  Walk walk(g);
  float a[kVec], sums[2][kVec] = {};
  load_channels(g, walk.channel, alpha, alpha_value, a);
  for (; walk.more(); walk.next()) {
    float upstream[kVec], at[kVec], result[kVec];
    load_item(gy + walk.offset(), g.width, upstream);
    load_item(saved + walk.offset(), g.width, at);
    with_act(act, [&](auto tag) {
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        result[i] = upstream[i] * tag.grad(at[i], a[i], from_y);
        sums[0][i] += result[i];
        if (alpha) sums[1][i] += upstream[i] * tag.alpha_grad(at[i], a[i]);
      }
    });
    store_item(gz + walk.offset(), g.width, result);
  }
  write_channel_sums(g, walk, sums, shared, partials);
}

int gcd(int a, int b) { return b ? gcd(b, a % b) : a; }

constexpr int kLargeM = 128, kLargeN = 64, kSmallM = 64, kSmallN = 16;

// The large tile does 16 multiply-adds per shared load, the small one 4, but wastes less on few channels or pixels.
bool large_tiles(int64_t pixels, int64_t channels) { return pixels > kSmallM && channels > 2 * kSmallN; }

FwdPlan fwd_plan(const ConvTransposeShape& shape, bool* large) {
  FwdPlan p{shape, {}, {}, shape.n, shape.groups, false, false};
  int64_t pixels = shape.n;
  for (int i = 0; i < 3; ++i) {
    // With one input each tap has an output of its own, whatever the stride: a stride past every tap makes that a phase each
    // (a generator's first layer then is a plain matrix product, with no multiplications by padding).
    if (shape.in[i] == 1) p.s.stride[i] = shape.dilation[i] * (shape.kernel[i] + shape.padding[i] + shape.out[i]);
    p.gcd[i] = gcd(p.s.stride[i], p.s.dilation[i]);
    p.phases[i] = p.s.stride[i] < shape.out[i] ? p.s.stride[i] : shape.out[i];
    pixels *= (shape.out[i] + p.s.stride[i] - 1) / p.s.stride[i];
  }
  const int64_t channels = shape.c_out / shape.groups;
  *large = large_tiles(pixels, channels);
  const int tile_m = *large ? kLargeM : kSmallM, tile_n = *large ? kLargeN : kSmallN;
  p.pixel_tiles = (pixels + tile_m - 1) / tile_m;
  p.channel_tiles = shape.groups * ((channels + tile_n - 1) / tile_n);
  return p;
}

// Whether runs of `elements` neighbours along dimension `dim` of a tensor can be read whole.
bool runs(const int64_t* stride, const int64_t* size, int dim, int64_t channels, int elements) {
  bool whole = stride[dim] == 1 && channels % elements == 0;
  for (int i = 0; i < 5; ++i) whole = whole && (i == dim || size[i] == 1 || stride[i] % elements == 0);
  return whole;
}

}  // namespace

ConvTransposeTiles conv_transpose_act_fwd_tiles(const ConvTransposeShape& shape) {
  bool large;
  const FwdPlan p = fwd_plan(shape, &large);
  const int64_t partials = p.pixel_tiles * p.phases[0] * p.phases[1] * p.phases[2];
  return {partials * p.channel_tiles, partials};
}

void conv_transpose_act_fwd_cuda(const ConvTransposeShape& shape, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha,
                                 Act act, float alpha_value, void* y, void* z, float* partials, cudaStream_t stream) {
  bool large;
  FwdPlan p = fwd_plan(shape, &large);
  const int64_t blocks = conv_transpose_act_fwd_tiles(shape).blocks, c_in = shape.c_in / shape.groups, c_out = shape.c_out / shape.groups;
  const int64_t x_size[5] = {shape.n, shape.c_in, shape.in[0], shape.in[1], shape.in[2]};
  const int64_t w_size[5] = {shape.c_in, c_out, shape.kernel[0], shape.kernel[1], shape.kernel[2]};
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kBytes16 = 16 / sizeof(T);
    const T *typed_x = static_cast<const T*>(x), *typed_weight = static_cast<const T*>(weight);
    T *typed_y = static_cast<T*>(y), *typed_z = static_cast<T*>(z);
    p.x_vectors = aligned(typed_x, kBytes16) && runs(shape.x_stride, x_size, 1, c_in, kBytes16);
    p.w_vectors = aligned(typed_weight, 4) && runs(shape.w_stride, w_size, 1, c_out, 4);
    auto kernel = large ? &conv_transpose_act_fwd_kernel<T, kLargeM, kLargeN, 8, 8> : &conv_transpose_act_fwd_kernel<T, kSmallM, kSmallN, 4, 2>;
    GANFAST_LAUNCH(kernel, blocks, kThreads, stream, p, typed_x, typed_weight, bias, alpha, act, alpha_value, typed_y, typed_z, partials);
  });
}

int64_t conv_transpose_act_bwd_scratch(int64_t n, int64_t c, int64_t l, bool channels_last) { return 2 * c * max_chunks(n, c, l, channels_last); }

void conv_transpose_act_bwd_cuda(int64_t n, int64_t c, int64_t l, bool channels_last, Dtype dtype, const void* gy, const void* saved, const float* alpha,
                                 Act act, float alpha_value, bool from_y, void* gz, float* gbias, float* galpha, float* scratch, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_gy = static_cast<const T*>(gy), *typed_saved = static_cast<const T*>(saved);
    T* typed_gz = static_cast<T*>(gz);
    const ChannelGrid g = channel_grid(n, c, l, channels_last, aligned(typed_gy, kVec) && aligned(typed_saved, kVec) && aligned(typed_gz, kVec));
    GANFAST_LAUNCH(conv_transpose_act_bwd_kernel<T>, g.blocks(), kChannelThreads, stream, g, typed_gy, typed_saved, alpha, act, alpha_value, from_y, typed_gz, scratch);
    GANFAST_LAUNCH(channel_sums_kernel<2>, finish_blocks(c), kFinishThreads, stream, scratch, g.chunks, c, ChannelSums{{gbias, galpha, nullptr}, nullptr});
  });
}

}  // namespace ganfast
