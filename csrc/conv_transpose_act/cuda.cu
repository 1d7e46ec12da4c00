// Transposed convolution + bias + activation: one implicit GEMM per phase of the output (cuda_geometry.h), exact float32
// accumulation. A block computes kM pixels of one phase by kN output channels of one group; its inner dimension runs over
// (tap, input channel). Few output channels have a kernel of their own: cuda_few.cu.
#include "cuda_few.h"

namespace ganfast {
namespace {

constexpr int kThreads = 128;
constexpr int kK = 8;  // input channels a step

template <class T, int kM, int kN, int kTM, int kTN>
__global__ void __launch_bounds__(kThreads, 3) conv_transpose_act_fwd_kernel(FwdPlan p, const T* x, const T* weight, const float* bias, const float* alpha, Act act,
                                                                          float alpha_value, ConvTransposeAdded added, T* y, T* z, float* partials) {
  constexpr int kXRun = kM * kK / kThreads, kWRun = kK * kN / kThreads;  // elements a thread stages a step
  constexpr int kAcross = kN / kTN;                                      // threads side by side along the channels
  constexpr int kRunM = 4, kRunN = kTN < 4 ? kTN : 4;                    // neighbours read by one shared load
  constexpr int kStripes = kTM / kRunM, kRows = kM / kStripes;           // a thread's rows lie in kStripes stripes of kRows
  constexpr int kBuffer = kK * (kM + kN), kPitch = kN + 1, kParts = kThreads / kN;
  constexpr int kStage = kRows * kPitch > 3 * kThreads ? kRows * kPitch : 3 * kThreads;
  static_assert(kThreads == (kM / kTM) * kAcross && kK % kXRun == 0 && kN % kWRun == 0);
  GANFAST_SHARED(float, tile, (2 * kBuffer > kStage ? 2 * kBuffer : kStage));
  GANFAST_SHARED(int64_t, row_offset, kM);
  GANFAST_SHARED(Work, shared_work, 1);

  const ConvTransposeShape& s = p.s;
  const Work& work = *shared_work;
  const int t = threadIdx.x;
  if (t == 0) *shared_work = work_of(p, blockIdx.x, kM, kN);
  __syncthreads();

  // This thread stages kXRun channels of one pixel, and kWRun output channels of one input channel.
  const int x_row = t % kM, x_channel = t / kM * kXRun, w_row = t / (kN / kWRun), w_channel = t % (kN / kWRun) * kWRun;
  const bool inside = work.first_pixel + x_row < work.pixels;
  int64_t image = work.first_pixel + x_row;
  int iw = image % work.w.pixels;
  image /= work.w.pixels;
  int ih = image % work.h.pixels;
  image /= work.h.pixels;
  int id = image % work.d.pixels;
  image /= work.d.pixels;
  if (t < kM)
    row_offset[t] = inside ? image * s.y_stride[0] + (static_cast<int64_t>(s.stride[0]) * id + work.d.r) * s.y_stride[2] +
                                 (static_cast<int64_t>(s.stride[1]) * ih + work.h.r) * s.y_stride[3] + (static_cast<int64_t>(s.stride[2]) * iw + work.w.r) * s.y_stride[4]
                           : -1;
  id += work.d.i0, ih += work.h.i0, iw += work.w.i0;  // the input under tap 0
  x += image * s.x_stride[0] + (static_cast<int64_t>(work.group) * p.c_in + x_channel) * s.x_stride[1];
  weight += (static_cast<int64_t>(work.group) * p.c_in + w_row) * s.w_stride[0] + (work.first_channel + w_channel) * s.w_stride[1];

  T x_regs[kXRun], w_regs[kWRun];
  int tap = 0, c = 0;  // what fetch reads next
  const T *x_at = x, *w_at = weight;
  bool reached = false;
  auto enter_tap = [&] {
    const int jw = tap % work.w.taps, jh = tap / work.w.taps % work.h.taps, jd = tap / (work.w.taps * work.h.taps);
    const int from_d = id - jd * work.d.i_step, from_h = ih - jh * work.h.i_step, from_w = iw - jw * work.w.i_step;
    reached = inside && from_d >= 0 && from_d < s.in[0] && from_h >= 0 && from_h < s.in[1] && from_w >= 0 && from_w < s.in[2];
    x_at = x + from_d * s.x_stride[2] + from_h * s.x_stride[3] + from_w * s.x_stride[4];
    w_at = weight + (work.d.k0 + jd * work.d.k_step) * s.w_stride[2] + (work.h.k0 + jh * work.h.k_step) * s.w_stride[3] + (work.w.k0 + jw * work.w.k_step) * s.w_stride[4];
  };
  auto fetch = [&] {
    if (c == 0) enter_tap();
    load_run(x_at, s.x_stride[1], reached ? p.c_in - c - x_channel : 0, p.x_vectors, x_regs);
    load_run(w_at, s.w_stride[1], c + w_row < p.c_in ? p.c_out - work.first_channel - w_channel : 0, p.w_vectors, w_regs);
    x_at += kK * s.x_stride[1], w_at += kK * s.w_stride[0];
    c += kK;
    if (c >= p.c_in) c = 0, ++tap;
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
  const int steps = work.first_pixel < work.pixels ? work.d.taps * work.h.taps * work.w.taps * ((p.c_in + kK - 1) / kK) : 0;
  if (steps > 0) {
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

  // Through shared memory, so that stores coalesce in either layout and the activation's code exists once.
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
      if (offset < 0 || work.first_channel + column >= p.c_out) continue;
      const int64_t channel = static_cast<int64_t>(work.group) * p.c_out + work.first_channel + column, at = offset + channel * s.y_stride[1];
      const float value = tile[row * kPitch + column] + (bias ? bias[channel] : 0);
      tile[row * kPitch + column] = to_float(finish_output(value, at, act, alpha ? alpha[channel] : alpha_value, added, y, z));
    }
    if (!partials) continue;
    __syncthreads();
    const int first_row = stripe * kRows + part * part_rows;
    const int64_t left = work.pixels - work.first_pixel - first_row;
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
  if (t >= kN || work.first_channel + t >= p.c_out) return;
  for (int other = t + kN; other < kThreads; other += kN) moments = merge(moments, {tile[other], tile[kThreads + other], tile[2 * kThreads + other]});
  partials += work.partial_row * 3 * s.c_out + static_cast<int64_t>(work.group) * p.c_out + work.first_channel + t;
  partials[0] = moments.n, partials[s.c_out] = moments.mean, partials[2 * s.c_out] = moments.m2;
}

ConvTransposeTiles general_tiles(const ConvTransposeShape& shape) {
  bool large;
  const FwdPlan p = fwd_plan(shape, &large);
  const int64_t partials = p.pixel_tiles * p.phases[0] * p.phases[1] * p.phases[2];
  return {partials * p.channel_tiles, partials};
}

void conv_transpose_act_fwd_general_cuda(const ConvTransposeShape& shape, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha,
                                         Act act, float alpha_value, const ConvTransposeAdded& added, void* y, void* z, float* partials, cudaStream_t stream) {
  bool large;
  FwdPlan p = fwd_plan(shape, &large);
  const int64_t blocks = general_tiles(shape).blocks;
  const int64_t x_size[5] = {shape.n, shape.c_in, shape.in[0], shape.in[1], shape.in[2]};
  const int64_t w_size[5] = {shape.c_in, p.c_out, shape.kernel[0], shape.kernel[1], shape.kernel[2]};
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    constexpr int kBytes16 = 16 / sizeof(T);
    const T *typed_x = static_cast<const T*>(x), *typed_weight = static_cast<const T*>(weight);
    T *typed_y = static_cast<T*>(y), *typed_z = static_cast<T*>(z);
    p.x_vectors = aligned(typed_x, kBytes16) && runs(shape.x_stride, x_size, 1, p.c_in, kBytes16);
    p.w_vectors = aligned(typed_weight, 4) && runs(shape.w_stride, w_size, 1, p.c_out, 4);
    auto kernel = large ? &conv_transpose_act_fwd_kernel<T, kLargeM, kLargeN, 8, 8> : &conv_transpose_act_fwd_kernel<T, kSmallM, kSmallN, 4, 2>;
    GANFAST_LAUNCH(kernel, blocks, kThreads, stream, p, typed_x, typed_weight, bias, alpha, act, alpha_value, added, typed_y, typed_z, partials);
  });
}

}  // namespace

bool conv_transpose_act_few_channels(const ConvTransposeShape& shape) {
  FewPlan few;
  return few_plan(shape, &few);
}

ConvTransposeTiles conv_transpose_act_fwd_tiles(const ConvTransposeShape& shape) {
  FewPlan few;
  return few_plan(shape, &few) ? few_tiles(few) : general_tiles(shape);
}

void conv_transpose_act_fwd_cuda(const ConvTransposeShape& shape, Dtype dtype, const void* x, const void* weight, const float* bias, const float* alpha,
                                 Act act, float alpha_value, const ConvTransposeAdded& added, void* y, void* z, float* partials, cudaStream_t stream) {
  FewPlan few;
  if (few_plan(shape, &few)) return conv_transpose_act_fwd_few_cuda(few, dtype, x, weight, bias, alpha, act, alpha_value, added, y, z, partials, stream);
  conv_transpose_act_fwd_general_cuda(shape, dtype, x, weight, bias, alpha, act, alpha_value, added, y, z, partials, stream);
}

}  // namespace ganfast
