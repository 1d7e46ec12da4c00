// upfirdn: a thread makes one value of the result, from the taps that meet no zero between. Neighbours read the same values of x, from the
// first cache.
#include "upfirdn.h"

#include <algorithm>

namespace ganfast {
namespace {

inline constexpr int kThreads = 256;

// The first tap that meets a value of x, and the place of that value, which may lie outside.
struct Start {
  int tap, place;
};
__device__ __forceinline__ Start start(int o, int up, int down, int before) {
  const int at = o * down - before, beyond = at % up;  // with at's sign
  const int tap = beyond > 0 ? up - beyond : -beyond;
  return {tap, (at + tap) / up};
}

// I: an integer that counts all values.
template <class T, class I> __global__ void __launch_bounds__(kThreads) upfirdn_fwd_kernel(UpfirdnShape s, I total, const T* x, const float* filter, float gain, T* y) {
  const I e = static_cast<I>(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= total) return;
  const I c = s.c, out_w = s.out_w, out_h = s.out_h;
  const I channel = s.channels_last ? e % c : 0, pixel = s.channels_last ? e / c : e;
  const I plane = pixel / out_w / out_h;  // an image where channels_last
  const Start row = start(pixel / out_w % out_h, s.up_y, s.down_y, s.before_y), column = start(pixel % out_w, s.up_x, s.down_x, s.before_x);
  const I step = s.channels_last ? c : 1;
  float sum = 0;
  for (int ty = row.tap, iy = row.place; ty < s.taps_y; ty += s.up_y, ++iy) {
    if (iy < 0 || iy >= s.h) continue;
    const T* from = x + (plane * s.h + iy) * s.w * step + channel;
    const int at_y = s.flip ? ty : s.taps_y - 1 - ty;
    float along = 0;
    for (int tx = column.tap, ix = column.place; tx < s.taps_x; tx += s.up_x, ++ix) {
      if (ix < 0 || ix >= s.w) continue;
      const int at_x = s.flip ? tx : s.taps_x - 1 - tx;
      along += to_float(from[ix * step]) * filter[s.separable ? at_x : at_y * s.taps_x + at_x];
    }
    sum += s.separable ? along * filter[at_y] : along;
  }
  y[e] = from_float<T>(sum * gain);
}

int64_t values(const UpfirdnShape& s) { return s.n * s.c * s.out_h * s.out_w; }

}  // namespace

int64_t upfirdn_fwd_blocks(const UpfirdnShape& s) { return (values(s) + kThreads - 1) / kThreads; }

void upfirdn_fwd_cuda(const UpfirdnShape& s, Dtype dtype, const void* x, const float* filter, float gain, void* y, cudaStream_t stream) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t total = values(s), most = std::max(total, s.n * s.c * s.h * s.w);
    if (most < kMaxGrid) {
      const auto kernel = &upfirdn_fwd_kernel<T, uint32_t>;
      GANFAST_LAUNCH(kernel, upfirdn_fwd_blocks(s), kThreads, stream, s, static_cast<uint32_t>(total), static_cast<const T*>(x), filter, gain, static_cast<T*>(y));
    } else {
      const auto kernel = &upfirdn_fwd_kernel<T, int64_t>;
      GANFAST_LAUNCH(kernel, upfirdn_fwd_blocks(s), kThreads, stream, s, total, static_cast<const T*>(x), filter, gain, static_cast<T*>(y));
    }
  });
}

}  // namespace ganfast
