#include "host_test.h"

#include "../../csrc/gather_images/cuda.cu"

using namespace host_test;

struct Options {
  bool flip = false, from_last = false, to_last = false, wide = true;
  int shift = 0, y_shift = 0;
};

template <class T> void run(const char* name, int64_t count, int64_t c, int64_t h, int64_t w, Options o) {
  if (!wanted(name)) return;
  const int64_t pixels = h * w, size = c * pixels;
  const std::vector<int64_t> asked{count - 1, 0, -1, count / 2, count, 0, INT32_MIN, count - 1};  // each of the inside ones as it is and mirrored
  const int64_t batch = asked.size();
  Buffer<uint8_t> images(count * size, o.shift), flip(batch);
  Buffer<int64_t> wide(batch);
  Buffer<int32_t> narrow(batch);
  Buffer<T> y(batch * size, o.y_shift);
  for (int64_t i = 0; i < images.count; ++i) images.data()[i] = i < 256 ? i : static_cast<int>(random_value() * 64 + 128);
  for (int64_t b = 0; b < batch; ++b) wide.data()[b] = narrow.data()[b] = asked[b], flip.data()[b] = b >= 3;
  for (int64_t i = 0; i < y.count; ++i) y.set(i, 7);  // an image that should be NaN has to be written too

  std::vector<double> want(y.count);
  for (int64_t i = 0; i < y.count; ++i) {
    const int64_t b = i / size, e = i % size, channel = o.to_last ? e % c : e / pixels, pixel = o.to_last ? e / c : e % pixels;
    const int64_t x = o.flip && b >= 3 ? w - 1 - pixel % w : pixel % w, from = pixel / w * w + x;
    const bool inside = asked[b] >= 0 && asked[b] < count;
    const float level = inside ? images.data()[asked[b] * size + (o.from_last ? from * c + channel : channel * pixels + from)] : 0;
    want[i] = inside ? y.rounded(level / 127.5f - 1) : NAN;
  }
  gather_images_fwd_cuda({batch + overrun, count, c, w, pixels, o.from_last, o.to_last}, dtype_of<T>(), images.data(),
                         o.wide ? static_cast<const void*>(wide.data()) : narrow.data(), o.wide, o.flip ? flip.data() : nullptr, y.data(), nullptr);
  check("y", y, want, {-1});  // to one unit of the last place
}

int main(int argc, char** argv) {
  options(argc, argv);
  //                               count c  h   w
  run<float>("nchw", 5, 3, 4, 8, {});
  run<float>("nchw, chunks", 2, 3, 40, 48, {.flip = true});
  run<float>("nchw, mirrored", 5, 3, 4, 8, {.flip = true, .wide = false});
  run<float>("nchw, odd rows", 4, 4, 2, 7, {.flip = true});
  run<float>("nchw, odd images", 4, 3, 5, 7, {.flip = true});
  run<float>("nchw, unaligned", 4, 3, 4, 8, {.flip = true, .shift = 1});
  run<float>("nchw, unaligned y", 4, 3, 4, 8, {.flip = true, .y_shift = 1});
  run<BFloat16>("nchw, bfloat16", 4, 2, 4, 16, {.flip = true});
  run<Half>("nchw, half", 4, 1, 28, 28, {.flip = true});
  run<float>("nhwc", 5, 3, 4, 8, {.from_last = true, .to_last = true});
  run<float>("nhwc, mirrored", 5, 3, 4, 8, {.flip = true, .from_last = true, .to_last = true});
  run<Half>("nhwc, half", 3, 5, 3, 8, {.flip = true, .from_last = true, .to_last = true, .wide = false});
  run<float>("to nhwc", 5, 3, 5, 8, {.flip = true, .to_last = true});
  run<BFloat16>("to nhwc, bfloat16", 3, 2, 4, 4, {.flip = true, .to_last = true});
  run<float>("to nchw", 5, 3, 5, 8, {.flip = true, .from_last = true});
  run<Half>("to nchw, half", 3, 8, 3, 3, {.from_last = true});
  return finish();
}
