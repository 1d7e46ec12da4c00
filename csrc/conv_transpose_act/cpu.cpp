// CPU forward: columns = x * weight by ATen's GEMM, a cache-sized band of pixels at a time, then a gather that adds the
// taps of each output pixel, bias and activation while the columns are still in L2. Columns are float32 for the half types too:
// ATen's GEMM would round theirs before the taps are added. Backward passes: cpu_grad.cpp.
#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "../common/cpu_gemm.h"
#include "../common/cpu_moments.h"
#include "cpu_geometry.h"

namespace ganfast {
namespace {

constexpr int64_t kColumnBytes = 768 << 10;  // most of a 1 MiB L2
constexpr int64_t kFewChannels = 8;          // below it a row of channels is shorter than a vector: run along the image instead

struct Band { int64_t image, images, o0, o1, i0, i1; };  // output [o0, o1) and input [i0, i1) along the band axis

template <class T> struct Forward {
  using A = Acc<T>;
  const Geometry& g;
  const A *x, *weight;  // x [N, P, Cin] if x_last else [N, Cin, P]; weight [Cin, K, Cg] if weight_last else [Cin, Cg, K]
  bool x_last, weight_last, planar, save_z;
  const A *bias, *alphas;
  Act act;
  A alpha;
  T *y, *z;
  at::TensorOptions options;
  std::vector<std::vector<Tap>> taps[3];

  std::vector<Band> bands() const {
    const int axis = g.band_axis();
    const int64_t column = g.taps() * g.c_out_group() * sizeof(A), pixels = g.pixels_in(), row = pixels / g.in[axis];
    std::vector<Band> all;
    const int64_t fit = std::max<int64_t>(1, kColumnBytes / column);  // pixels
    if (pixels <= 2 * fit) {
      const int64_t per = planar ? 1 : std::max<int64_t>(1, fit / pixels);
      for (int64_t n = 0; n < g.n; n += per) all.push_back({n, std::min(per, g.n - n), 0, g.out[axis], 0, g.in[axis]});
      return all;
    }
    // Bands of output whose taps need about `fit` pixels of input; neighbours recompute the rows they share.
    const int64_t step = std::max<int64_t>(1, fit / row) * g.stride[axis];
    for (int64_t n = 0; n < g.n; ++n)
      for (int64_t o = 0; o < g.out[axis]; o += step) {
        Band band{n, 1, o, std::min(g.out[axis], o + step), g.in[axis], 0};
        for (int64_t r = band.o0; r < band.o1; ++r)
          for (const Tap& t : taps[axis][r]) band.i0 = std::min(band.i0, t.i), band.i1 = std::max(band.i1, t.i + 1);
        if (band.i1 <= band.i0) band.i0 = 0, band.i1 = 0;
        all.push_back(band);
      }
    return all;
  }

  at::Tensor view(const A* data, at::IntArrayRef sizes, at::IntArrayRef strides) const {
    return at::from_blob(const_cast<A*>(data), sizes, strides, options);
  }

  void run() const {
    const auto work = bands();
    const int axis = g.band_axis();
    const int64_t row = g.pixels_in() / g.in[axis], cg = g.c_out_group(), cig = g.c_in_group(), wide = g.taps() * cg;
    int64_t most = 0;
    for (const Band& b : work) most = std::max(most, b.images * (b.i1 - b.i0) * row);
    at::parallel_for(0, work.size() * g.groups, 1, [&](int64_t begin, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView no_autograd;  // thread-local, so set again
      auto columns = at::empty({most * wide}, options);
      for (int64_t task = begin; task < end; ++task) {
        const Band& b = work[task / g.groups];
        const int64_t group = task % g.groups, m = b.images * (b.i1 - b.i0) * row, first = b.image * g.pixels_in() + b.i0 * row;
        if (m > 0) {
          const auto w = view(weight + group * cig * wide, {cig, wide}, {wide, 1});
          const auto input = x_last ? view(x + first * g.c_in + group * cig, {m, cig}, {g.c_in, 1})
                                    : view(x + (b.image * g.c_in + group * cig) * g.pixels_in() + b.i0 * row, {m, cig}, {1, g.pixels_in()});
          if (planar) {
            auto out = columns.narrow(0, 0, m * wide).view({wide, m});
            at::mm_out(out, w.t(), input.t());
          } else {
            auto out = columns.narrow(0, 0, m * wide).view({m, wide});
            at::mm_out(out, input, w);
          }
        }
        planar ? gather_planar(b, group, columns.template const_data_ptr<A>()) : gather_pixels(b, group, columns.template const_data_ptr<A>());
      }
    });
  }

  // Output [o0, o1) of `axis` is the band's; the other axes are whole.
  int64_t from(const Band& b, int a) const { return a == g.band_axis() ? b.o0 : 0; }
  int64_t to(const Band& b, int a) const { return a == g.band_axis() ? b.o1 : g.out[a]; }
  int64_t column_pixel(const Band& b, int64_t i0, int64_t i1, int64_t i2) const {
    const int axis = g.band_axis();
    (axis == 0 ? i0 : axis == 1 ? i1 : i2) -= b.i0;
    return ((axis == 0 ? i0 : 0) * g.in[1] + (axis <= 1 ? i1 : 0)) * g.in[2] + i2;
  }

  // columns [images, pixels, taps, Cg]; the channels of one output pixel are one run.
  void gather_pixels(const Band& b, int64_t group, const A* columns) const {
    const int64_t cg = g.c_out_group(), taps_all = g.taps(), c0 = group * cg;
    const int64_t pixels = (b.i1 - b.i0) * (g.pixels_in() / g.in[g.band_axis()]);
    std::vector<A> row(cg);
    for (int64_t n = 0; n < b.images; ++n)
      for (int64_t o0 = from(b, 0); o0 < to(b, 0); ++o0)
        for (int64_t o1 = from(b, 1); o1 < to(b, 1); ++o1)
          for (int64_t o2 = from(b, 2); o2 < to(b, 2); ++o2) {
            for (int64_t c = 0; c < cg; ++c) row[c] = bias ? bias[c0 + c] : A(0);
            for (const Tap& t0 : taps[0][o0])
              for (const Tap& t1 : taps[1][o1])
                for (const Tap& t2 : taps[2][o2]) {
                  const int64_t k = (t0.k * g.k[1] + t1.k) * g.k[2] + t2.k;
                  const A* from = columns + ((n * pixels + column_pixel(b, t0.i, t1.i, t2.i)) * taps_all + k) * cg;
                  A* into = row.data();
#pragma omp simd
                  for (int64_t c = 0; c < cg; ++c) into[c] += from[c];
                }
            const int64_t pixel = (o0 * g.out[1] + o1) * g.out[2] + o2;
            finish(row.data(), cg, (b.image + n) * g.pixels_out() * g.c_out, pixel * g.c_out + c0, c0 * g.pixels_out() + pixel, 1, g.pixels_out(), c0, true);
          }
  }

  // columns [taps and Cg, pixels]; one output row of one channel is one run, its stride phases interleaved as they are added.
  void gather_planar(const Band& b, int64_t group, const A* columns) const {
    const int64_t cg = g.c_out_group(), m = (b.i1 - b.i0) * (g.pixels_in() / g.in[g.band_axis()]), step = g.stride[2];
    const int64_t phase_length = (g.out[2] + step - 1) / step + 1;
    std::vector<A> row(g.out[2]), phases(step * phase_length);
    for (int64_t c = 0; c < cg; ++c)
      for (int64_t o0 = from(b, 0); o0 < to(b, 0); ++o0)
        for (int64_t o1 = from(b, 1); o1 < to(b, 1); ++o1) {
          std::fill(phases.begin(), phases.end(), bias ? bias[group * cg + c] : A(0));
          for (const Tap& t0 : taps[0][o0])
            for (const Tap& t1 : taps[1][o1])
              for (int64_t k2 = 0; k2 < g.k[2]; ++k2) {
                const int64_t k = (t0.k * g.k[1] + t1.k) * g.k[2] + k2;
                const A* from_row = columns + (weight_last ? k * cg + c : c * g.taps() + k) * m;
                add_tap(b, t0.i, t1.i, k2, from_row, phases.data(), phase_length);
              }
          const int64_t o2_first = from(b, 2), o2_last = to(b, 2);
          for (int64_t o2 = o2_first; o2 < o2_last; ++o2) row[o2 - o2_first] = phases[o2 % step * phase_length + o2 / step];
          const int64_t pixel = (o0 * g.out[1] + o1) * g.out[2] + o2_first, channel = group * cg + c;
          finish(row.data(), o2_last - o2_first, b.image * g.pixels_out() * g.c_out, pixel * g.c_out + channel, channel * g.pixels_out() + pixel, g.c_out, 1, channel, false);
        }
  }

  // Tap k of the last axis takes input i to output o = i*stride - pad + dil*k: phase o % stride, place o / stride.
  void add_tap(const Band& b, int64_t i0, int64_t i1, int64_t k, const A* from_row, A* phases, int64_t phase_length) const {
    const int64_t shift = g.dil[2] * k - g.pad[2], step = g.stride[2];
    const int64_t phase = ((shift % step) + step) % step, offset = (shift - phase) / step;  // place = i + offset
    const bool banded = g.band_axis() == 2;
    int64_t first = std::max<int64_t>(banded ? b.i0 : 0, -offset), last = banded ? b.i1 : g.in[2];
    last = std::min(last, (g.out[2] - 1 - phase + step) / step - offset);
    const A* source = from_row + column_pixel(b, i0, i1, 0);
    A* target = phases + phase * phase_length + offset;
#pragma omp simd
    for (int64_t i = first; i < last; ++i) target[i] += source[i];
  }

  // Activates a run of pre-activations and stores it; `last_at`, `plane_at` and their steps place it in either layout.
  void finish(A* run, int64_t count, int64_t image_at, int64_t last_at, int64_t plane_at, int64_t last_step, int64_t plane_step, int64_t channel, bool channels) const {
    const int64_t at = image_at + (y_last ? last_at : plane_at), step = y_last ? last_step : plane_step;
    if (save_z)
      for (int64_t i = 0; i < count; ++i) z[at + i * step] = narrow<T>(run[i]);
    if (channels)
      act_run<A>(act, run, count, alphas ? alphas + channel : nullptr, alpha);
    else
      act_run<A>(act, run, count, nullptr, alphas ? alphas[channel] : alpha);
    if (step == 1) {
      for (int64_t i = 0; i < count; ++i) y[at + i] = narrow<T>(run[i]);
    } else {
      for (int64_t i = 0; i < count; ++i) y[at + i * step] = narrow<T>(run[i]);
    }
  }
  bool y_last;
};

// y = x * weight is one GEMM when one pixel goes in; then bias and activation in place. Replaces y's memory.
template <class T> void one_gemm(const at::Tensor& x, at::Tensor weight, Forward<T>& f, at::Tensor& y) {
  using A = Acc<T>;
  const auto fmt = y.dim() == 4 ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::ChannelsLast3d;
  weight = weight.contiguous(f.y_last ? fmt : at::MemoryFormat::Contiguous);
  const int64_t wide = f.g.c_out * f.g.taps(), cells = f.g.taps(), c = f.g.c_out;
  y = gemm_nt(x.reshape({f.g.n, f.g.c_in}), weight.as_strided({wide, f.g.c_in}, {1, wide})).as_strided(y.sizes(), y.strides());
  f.y = y.data_ptr<T>();
  if (!f.bias && f.act == Act::linear) return;
  const int64_t length = f.y_last ? c : cells, runs = f.g.n * wide / length;
  at::parallel_for(0, runs, std::max<int64_t>(1, 32768 / length), [&](int64_t begin, int64_t end) {
    std::vector<A> run(length);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t channel = f.y_last ? 0 : r % c;
      T* row = f.y + r * length;
      for (int64_t i = 0; i < length; ++i) run[i] = static_cast<A>(row[i]) + (f.bias ? f.bias[f.y_last ? i : channel] : A(0));
      f.finish(run.data(), length, r * length, 0, 0, 1, 1, channel, f.y_last);
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_transpose_act_fwd_cpu(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& alpha,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding, at::IntArrayRef dilation, int64_t groups,
    c10::string_view act, double alpha_value, bool channels_last, bool save_z, bool partials, const std::optional<at::Tensor>& residual,
    bool residual_first, double factor, bool keep_signs) {
  TORCH_CHECK(!residual && !residual_first && factor == 1 && !keep_signs, "a residual is bias_act's on a CPU");
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  std::vector<int64_t> size{x.size(0), weight.size(1) * groups};
  for (int64_t d = 0; d < x.dim() - 2; ++d)
    size.push_back((x.size(2 + d) - 1) * stride[d] - 2 * padding[d] + dilation[d] * (weight.size(2 + d) - 1) + output_padding[d] + 1);
  const auto last_format = x.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  const auto format = channels_last ? last_format : at::MemoryFormat::Contiguous;
  auto y = at::empty(size, x.options().memory_format(format));
  auto z = save_z ? at::empty_like(y) : at::empty({0}, x.options());
  auto stats = at::empty({0}, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  const Geometry g(x.size(0), x.sizes().slice(2), y.sizes().slice(2), weight, stride, padding, dilation, groups);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "conv_transpose_act_fwd_cpu", [&] {
    using T = scalar_t;
    constexpr auto acc = c10::CppTypeToScalarType<Acc<T>>::value;
    Forward<T> f{g};
    f.planar = !channels_last || g.c_out_group() <= kFewChannels;
    f.planar = f.planar && g.pixels_in() >= 16;
    f.x_last = channels_last || g.pixels_in() == 1, f.y_last = channels_last, f.save_z = save_z;
    f.bias = optional_ptr<Acc<T>>(bias), f.alphas = optional_ptr<Acc<T>>(alpha);
    f.act = parse_act(act), f.alpha = alpha_value, f.y = y.data_ptr<T>(), f.z = save_z ? z.data_ptr<T>() : nullptr;
    if (g.one_gemm()) {
      one_gemm<T>(x, weight, f, y);
    } else {
      at::Tensor xc = x.to(acc);
      if (!f.planar && !f.x_last) xc = xc.flatten(2).transpose(1, 2).contiguous(), f.x_last = true;
      f.weight_last = !f.planar || !weight.is_contiguous();
      const auto w = f.weight_last ? weight.to(acc).flatten(2).transpose(1, 2).contiguous() : weight.to(acc);
      f.options = w.options().memory_format(std::nullopt);
      f.x = xc.const_data_ptr<Acc<T>>(), f.weight = w.const_data_ptr<Acc<T>>();
      for (int a = 0; a < 3; ++a) f.taps[a] = g.taps_of(a);
      f.run();
    }
    if (partials) {
      const auto sum = moments<T>(f.y, Rows::spread_out(y, channels_last));
      stats = as_tensor<Acc<T>>(sum.data(), sum.size(), x.options()).view({1, 3, g.c_out});
    }
  });
  return {y, z, stats};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("conv_transpose_act_fwd_native", conv_transpose_act_fwd_cpu); }

}  // namespace
}  // namespace ganfast
