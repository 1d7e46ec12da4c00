#include "host_test.h"

#include "../../csrc/conv_transpose_act/cuda.cu"
#include "../../csrc/conv_transpose_act/cuda_few.cu"

using namespace host_test;

struct Case {
  const char* name;
  int n, c_in, c_out, groups, in[3], kernel[3], stride[3], padding[3], output_padding[3], dilation[3];
  bool channels_last, weight_last, save_z, partials, alpha;
  Act act;
  int shift;
  int processors;  // 0: the general kernel; else the few-channel one, its tile chosen for that many: one takes the largest
  int residual;    // 1: added after the activation, 2: before it, 3: as 1, with signs in place of z
};

// Strides of a dense [a, b, d, h, w]; with `last`, b is fastest.
static void dense(int64_t b, const int* size, bool last, int64_t* stride) {
  stride[4] = last ? b : 1, stride[3] = stride[4] * size[2], stride[2] = stride[3] * size[1];
  stride[1] = last ? 1 : stride[2] * size[0];
  stride[0] = b * size[0] * size[1] * size[2];
}

template <class T> void forward(const Case& c) {
  if (!wanted(c.name)) return;
  const int64_t group_in = c.c_in / c.groups, group_out = c.c_out / c.groups;
  ConvTransposeShape s{c.n, c.c_in, c.c_out, c.groups, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  int64_t in = 1, out = 1, taps = 1;
  for (int i = 0; i < 3; ++i) {
    s.in[i] = c.in[i], s.kernel[i] = c.kernel[i], s.stride[i] = c.stride[i], s.padding[i] = c.padding[i], s.dilation[i] = c.dilation[i];
    s.out[i] = (c.in[i] - 1) * c.stride[i] - 2 * c.padding[i] + c.dilation[i] * (c.kernel[i] - 1) + c.output_padding[i] + 1;
    in *= s.in[i], out *= s.out[i], taps *= s.kernel[i];
  }
  dense(c.c_in, s.in, c.channels_last, s.x_stride);
  dense(group_out, s.kernel, c.weight_last, s.w_stride);
  dense(c.c_out, s.out, c.channels_last, s.y_stride);
  Buffer<T> x(c.n * c.c_in * in, c.shift), weight(c.c_in * group_out * taps), y(c.n * c.c_out * out), z(c.n * c.c_out * out);
  Buffer<float> bias(c.c_out), alpha(c.c_out);
  Buffer<T> residual(y.count);
  std::vector<uint8_t> signs(c.residual == 3 ? y.count : 0, 77);
  x.randomize(), weight.randomize(0.3), bias.randomize(), alpha.randomize(), residual.randomize();

  std::vector<double> pre(y.count), scale(y.count), post(y.count);  // scatter: no phases here
  for (int64_t image = 0; image < c.n; ++image)
    for (int64_t co = 0; co < c.c_out; ++co)
      for (int64_t p = 0; p < out; ++p) {
        const int64_t at[3] = {p / (s.out[1] * s.out[2]), p / s.out[2] % s.out[1], p % s.out[2]};
        pre[image * s.y_stride[0] + co * s.y_stride[1] + at[0] * s.y_stride[2] + at[1] * s.y_stride[3] + at[2] * s.y_stride[4]] = bias[co];
      }
  for (int64_t image = 0; image < c.n; ++image)
    for (int64_t i = 0; i < in; ++i)
      for (int64_t k = 0; k < taps; ++k) {
        const int64_t from[3] = {i / (s.in[1] * s.in[2]), i / s.in[2] % s.in[1], i % s.in[2]};
        const int64_t tap[3] = {k / (s.kernel[1] * s.kernel[2]), k / s.kernel[2] % s.kernel[1], k % s.kernel[2]};
        int64_t x_at = image * s.x_stride[0], w_at = 0, y_at = image * s.y_stride[0];
        bool inside = true;
        for (int d = 0; d < 3; ++d) {
          const int64_t to = from[d] * s.stride[d] - s.padding[d] + s.dilation[d] * tap[d];
          inside = inside && to >= 0 && to < s.out[d];
          x_at += from[d] * s.x_stride[2 + d], w_at += tap[d] * s.w_stride[2 + d], y_at += to * s.y_stride[2 + d];
        }
        for (int64_t ci = 0; inside && ci < c.c_in; ++ci)
          for (int64_t co = 0; co < group_out; ++co) {
            const int64_t to = y_at + (ci / group_in * group_out + co) * s.y_stride[1];
            const double product = x[x_at + ci * s.x_stride[1]] * weight[w_at + ci * s.w_stride[0] + co * s.w_stride[1]];
            pre[to] += product, scale[to] += std::fabs(product);
          }
      }
  const float factor = c.residual ? 0.7f : 1;
  for (int64_t i = 0; i < y.count; ++i) {
    pre[i] += c.residual == 2 ? residual[i] : 0;
    post[i] = (act_fwd<double>(c.act, pre[i], c.alpha ? alpha[i / s.y_stride[1] % c.c_out] : 0.2) + (c.residual % 2 ? residual[i] : 0)) * factor;
  }
  const ConvTransposeAdded added{c.residual ? residual.data() : nullptr, c.residual == 2, c.residual == 3, factor};

  FewPlan plan;
  if (c.processors && !few_plan(s, &plan, c.processors)) std::printf("%s: no few-channel kernel\n", c.name), ++failures;
  const int64_t rows = (c.processors ? few_tiles(plan) : general_tiles(s)).partials;
  Buffer<float> partials(c.partials ? rows * 3 * c.c_out : 0);
  s.n += overrun, plan.fwd.s.n += overrun;
  const auto launch = [&](auto call, auto how) {
    call(how, dtype_of<T>(), x.data(), weight.data(), bias.data(), c.alpha ? alpha.data() : nullptr, c.act, 0.2f, added, y.data(),
         c.residual == 3 ? reinterpret_cast<void*>(signs.data()) : c.save_z ? z.data() : nullptr,
         c.partials ? partials.data() : nullptr, nullptr);
  };
  c.processors ? launch(conv_transpose_act_fwd_few_cuda, plan) : launch(conv_transpose_act_fwd_general_cuda, s);
  check("y", y, post, scale);
  if (c.save_z) check("z", z, pre, scale);
  Buffer<float> found(signs.size());
  std::vector<double> want(signs.size());
  for (size_t i = 0; i < signs.size(); ++i) {  // which side of 0 it falls on is rounding's
    found.set(i, std::fabs(pre[i]) < 1e-3 * (1 + scale[i]) ? pre[i] > 0 : signs[i]), want[i] = pre[i] > 0;
  }
  if (c.residual == 3) check("signs", found, want, {1});
  if (!c.partials) return;
  Buffer<float> merged(3 * c.c_out);
  std::vector<double> moments(3 * c.c_out);
  for (int64_t co = 0; co < c.c_out; ++co) {
    double count = 0, sum = 0, squares = 0, n = 0, mean = 0, m2 = 0;
    for (int64_t i = 0; i < y.count; ++i)
      if (i / s.y_stride[1] % c.c_out == co) ++count, sum += y[i];
    for (int64_t i = 0; i < y.count; ++i)
      if (i / s.y_stride[1] % c.c_out == co) squares += (y[i] - sum / count) * (y[i] - sum / count);
    for (int64_t row = 0; row < rows; ++row) {
      const double bn = partials[row * 3 * c.c_out + co], bmean = partials[(row * 3 + 1) * c.c_out + co], bm2 = partials[(row * 3 + 2) * c.c_out + co];
      if (bn == 0) continue;
      m2 += bm2 + (bmean - mean) * (bmean - mean) * n * bn / (n + bn), mean += (bmean - mean) * bn / (n + bn), n += bn;
    }
    merged.set(co * 3, n), merged.set(co * 3 + 1, mean), merged.set(co * 3 + 2, m2);
    moments[co * 3] = count, moments[co * 3 + 1] = sum / count, moments[co * 3 + 2] = squares;
  }
  std::vector<double> size(moments);
  for (double& one : size) one = std::fabs(one);
  check("partials", merged, moments, size);
  check("partials, unmerged", partials, {}, {});
}

int main(int argc, char** argv) {
  options(argc, argv);
  //             n  in out g  input      kernel     stride     padding    out pad    dilation   cl wl z  p  alpha
  forward<float>({"fwd large, nchw", 2, 11, 37, 1, {1, 7, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 0, 1, 0, Act::relu, 0});
  forward<float>({"fwd large, vectors", 3, 16, 40, 1, {1, 5, 5}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 1, 1, 1, 1, Act::snake, 0});
  forward<BFloat16>({"fwd large, bfloat16 vectors", 3, 16, 72, 1, {1, 5, 5}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}, 1, 1, 0, 1, 0, Act::tanh, 0});
  forward<Half>({"fwd large, half, groups", 2, 24, 80, 2, {1, 6, 7}, {1, 3, 2}, {1, 1, 2}, {0, 1, 0}, {0, 0, 1}, {1, 1, 1}, 1, 1, 1, 0, 1, Act::prelu, 0});
  forward<float>({"fwd large, one pixel", 66, 12, 36, 1, {1, 1, 1}, {1, 4, 4}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, {1, 1, 1}, 0, 1, 0, 1, 0, Act::linear, 0});
  forward<float>({"fwd small, rgb", 1, 9, 3, 1, {1, 5, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 1, 0, 0, Act::tanh, 0});
  forward<float>({"fwd small, unaligned", 2, 8, 8, 1, {1, 3, 4}, {1, 5, 5}, {1, 2, 2}, {0, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, 1, 0, 1, 0, Act::gelu, 1});
  forward<Half>({"fwd small, half", 2, 8, 20, 1, {1, 3, 4}, {1, 5, 5}, {1, 2, 2}, {0, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, 1, 0, 1, 0, Act::sigmoid, 0});
  forward<float>({"fwd stride past kernel", 1, 5, 6, 1, {1, 3, 3}, {1, 2, 1}, {1, 3, 4}, {0, 0, 0}, {0, 2, 3}, {1, 1, 1}, 0, 0, 1, 1, 0, Act::elu, 0});
  forward<float>({"fwd dilation, coprime", 2, 6, 4, 2, {1, 4, 5}, {1, 3, 3}, {1, 3, 2}, {0, 2, 1}, {0, 1, 1}, {1, 2, 3}, 0, 0, 0, 1, 0, Act::selu, 0});
  forward<float>({"fwd dilation, shared factor", 1, 4, 5, 1, {1, 4, 3}, {1, 3, 4}, {1, 2, 4}, {0, 1, 3}, {0, 1, 3}, {1, 2, 6}, 1, 0, 0, 1, 0, Act::silu, 0});
  forward<float>({"fwd 3d", 1, 3, 5, 1, {2, 3, 4}, {3, 2, 4}, {2, 1, 3}, {1, 0, 2}, {1, 0, 2}, {1, 2, 1}, 0, 0, 0, 1, 0, Act::softplus, 0});
  forward<BFloat16>({"fwd 3d, heap", 1, 8, 17, 1, {2, 3, 4}, {5, 5, 4}, {3, 3, 3}, {4, 0, 3}, {2, 0, 0}, {1, 1, 1}, 0, 0, 0, 0, 0, Act::leaky_relu, 0});
  forward<float>({"fwd 1d, depthwise", 2, 6, 6, 6, {1, 1, 9}, {1, 1, 4}, {1, 1, 2}, {0, 0, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 1, 0, 1, Act::softplus, 0});

  // few output channels: both layouts, whole vectors and single elements, one tile and many, slabs of input channels, slices of columns
  forward<float>({"few rgb", 1, 9, 3, 1, {1, 5, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 1, 1, 0, Act::tanh, 0, 132});
  forward<BFloat16>({"few slabs", 1, 72, 3, 1, {1, 5, 9}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 1, 1, 1, 1, Act::prelu, 0, 1});
  forward<Half>({"few nchw, half", 2, 40, 3, 1, {1, 4, 16}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 0, 1, 0, Act::sigmoid, 0, 1});
  forward<BFloat16>({"few nchw, odd", 1, 11, 2, 1, {1, 6, 11}, {1, 3, 3}, {1, 2, 2}, {0, 1, 1}, {0, 1, 1}, {1, 1, 1}, 0, 0, 1, 1, 0, Act::gelu, 1, 132});
  forward<float>({"few nchw, vectors", 1, 13, 1, 1, {1, 7, 12}, {1, 5, 5}, {1, 1, 1}, {0, 2, 2}, {0, 0, 0}, {1, 1, 1}, 0, 0, 0, 1, 0, Act::relu, 0, 1});
  forward<float>({"few nhwc, vectors", 2, 68, 4, 1, {1, 3, 10}, {1, 4, 3}, {1, 3, 2}, {0, 0, 1}, {0, 1, 0}, {1, 1, 1}, 1, 1, 0, 1, 1, Act::snake, 0, 1});
  forward<float>({"few eight", 1, 8, 8, 1, {1, 3, 9}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 0, 1, 0, Act::silu, 0, 1});
  forward<Half>({"few seven, groups", 1, 16, 14, 2, {1, 4, 5}, {1, 3, 3}, {1, 1, 1}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 0, 1, 0, Act::elu, 0, 132});
  forward<BFloat16>({"few kernel 7", 1, 8, 3, 1, {1, 5, 9}, {1, 7, 7}, {1, 1, 1}, {0, 3, 3}, {0, 0, 0}, {1, 1, 1}, 1, 1, 0, 0, 0, Act::tanh, 0, 1});
  forward<float>({"few stride past kernel", 1, 5, 6, 1, {1, 3, 3}, {1, 2, 1}, {1, 3, 4}, {0, 0, 0}, {0, 2, 3}, {1, 1, 1}, 0, 0, 1, 1, 0, Act::softplus, 0, 1});
  forward<float>({"few dilation", 1, 6, 5, 1, {1, 4, 18}, {1, 3, 4}, {1, 3, 2}, {0, 2, 3}, {0, 1, 1}, {1, 2, 6}, 1, 0, 0, 1, 0, Act::selu, 0, 132});
  forward<Half>({"few 1d", 2, 5, 2, 1, {1, 1, 75}, {1, 1, 4}, {1, 1, 2}, {0, 0, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 0, 1, 0, Act::linear, 0, 132});

  forward<float>({"fwd large, added", 2, 11, 37, 1, {1, 7, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 1, 0, 0, Act::silu, 0, 0, 1});
  forward<Half>({"fwd small, added first", 2, 8, 20, 1, {1, 3, 4}, {1, 5, 5}, {1, 2, 2}, {0, 2, 2}, {0, 1, 1}, {1, 1, 1}, 1, 1, 1, 0, 0, Act::tanh, 0, 0, 2});
  forward<BFloat16>({"fwd small, signs", 1, 9, 5, 1, {1, 5, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 0, 0, 0, Act::relu, 0, 0, 3});
  forward<float>({"few added first", 1, 9, 3, 1, {1, 5, 6}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 1, 0, 1, 0, 0, Act::tanh, 0, 132, 2});
  forward<Half>({"few signs", 2, 40, 3, 1, {1, 4, 16}, {1, 4, 4}, {1, 2, 2}, {0, 1, 1}, {0, 0, 0}, {1, 1, 1}, 0, 0, 0, 0, 0, Act::leaky_relu, 0, 1, 3});
  return finish();
}
