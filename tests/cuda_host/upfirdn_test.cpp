#include "host_test.h"

#include "../../csrc/upfirdn/cuda.cu"

using namespace host_test;

template <class T> void run(const char* name, UpfirdnShape s, int after_y, int after_x) {
  if (!wanted(name)) return;
  s.out_h = (s.h * s.up_y + s.before_y + after_y - s.taps_y) / s.down_y + 1;
  s.out_w = (s.w * s.up_x + s.before_x + after_x - s.taps_x) / s.down_x + 1;
  Buffer<T> x(s.n * s.c * s.h * s.w), y(s.n * s.c * s.out_h * s.out_w);
  Buffer<float> filter(s.separable ? s.taps_y : s.taps_y * s.taps_x);
  x.randomize(), filter.randomize();
  std::vector<double> want(y.count);
  for (int64_t e = 0; e < y.count; ++e) {
    const int64_t channel = s.channels_last ? e % s.c : e / (s.out_h * s.out_w) % s.c, pixel = s.channels_last ? e / s.c : e;
    const int64_t ox = pixel % s.out_w, oy = pixel / s.out_w % s.out_h, image = e / (s.c * s.out_h * s.out_w);
    for (int ty = 0; ty < s.taps_y; ++ty)
      for (int tx = 0; tx < s.taps_x; ++tx) {
        const int64_t ay = oy * s.down_y + ty - s.before_y, ax = ox * s.down_x + tx - s.before_x;
        if (ay < 0 || ax < 0 || ay % s.up_y || ax % s.up_x || ay / s.up_y >= s.h || ax / s.up_x >= s.w) continue;
        const int fy = s.flip ? ty : s.taps_y - 1 - ty, fx = s.flip ? tx : s.taps_x - 1 - tx;
        const double weight = s.separable ? filter[fy] * filter[fx] : filter[fy * s.taps_x + fx];
        const int64_t iy = ay / s.up_y, ix = ax / s.up_x;
        want[e] += 1.5 * weight * x[s.channels_last ? ((image * s.h + iy) * s.w + ix) * s.c + channel : ((image * s.c + channel) * s.h + iy) * s.w + ix];
      }
  }
  s.n += overrun;
  upfirdn_fwd_cuda(s, dtype_of<T>(), x.data(), filter.data(), 1.5f, y.data(), nullptr);
  check("y", y, want, {100});
}

int main(int argc, char** argv) {
  options(argc, argv);
  //                            n  c  h  w        taps  up    down  before  separable, flip, channels_last
  run<float>("nchw, blur", {2, 3, 6, 7, 0, 0, 4, 4, 1, 1, 1, 1, 2, 2, true, false, false}, 1, 1);
  run<float>("nchw, up", {1, 2, 4, 5, 0, 0, 4, 4, 2, 2, 1, 1, 2, 2, true, false, false}, 1, 1);
  run<float>("nchw, full", {1, 2, 7, 6, 0, 0, 3, 5, 3, 2, 2, 3, 4, 1, false, true, false}, 2, 5);
  run<float>("nchw, cut off", {2, 1, 9, 9, 0, 0, 3, 3, 1, 2, 2, 1, -2, -3, true, true, false}, -1, 1);
  run<float>("nhwc, down", {2, 5, 8, 8, 0, 0, 4, 4, 1, 1, 2, 2, 1, 1, true, false, true}, 1, 1);
  run<BFloat16>("nhwc, bfloat16", {1, 8, 5, 4, 0, 0, 2, 3, 2, 1, 1, 1, 9, 7, false, false, true}, 8, 6);
  run<Half>("nchw, half", {1, 3, 5, 6, 0, 0, 4, 4, 1, 1, 1, 1, 2, 2, true, false, false}, 1, 1);
  return finish();
}
