// The CPU's passes around a modulated convolution: x times the styles, and all that follows the convolution, each in one pass forward and one
// backward with its sums; the weight's are in cpu_weight.cpp.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include <limits>

#include "cpu_vectors.h"

namespace ganfast {
namespace {

using MaybeDouble = std::optional<double>;

// Pixels of one image, with all their channels: the unit of work and of partial sums. So a pixel's sum over the channels is one task's
// own; the tiles depend on the shape alone, so sums over pixels do not depend on the threads.
struct Tiles {
  static constexpr int64_t kMost = 2048;  // pixels: the noise and its sums stay in the first cache
  int64_t n, c, p, size, each;            // images, channels, pixels of an image; of a tile; tiles of an image

  explicit Tiles(const at::Tensor& x) : n(x.size(0)), c(x.size(1)), p(x.numel() / (n * c)) {
    const int64_t wanted = (15 + n) / n;  // sixteen tiles or more in all
    size = std::min(std::max((p + wanted - 1) / wanted, std::min<int64_t>(p, 64)), kMost);
    each = (p + size - 1) / size;
  }
  int64_t count() const { return n * each; }
  int64_t grain() const { return std::max<int64_t>(1, 32768 / (size * c)); }

  // run(offset, length, image, channel, pixel of the tile) for every contiguous run: a pixel's channels, or a channel's pixels.
  template <bool kLast, class Run> void visit(int64_t tile, Run run) const {
    const int64_t image = tile / each, first = tile % each * size, count = std::min(p, first + size) - first;
    if constexpr (kLast)
      for (int64_t i = 0; i < count; ++i) run((image * p + first + i) * c, c, image, int64_t{0}, i);
    else
      for (int64_t ch = 0; ch < c; ++ch) run((image * c + ch) * p + first, count, image, ch, int64_t{0});
  }
  int64_t pixel(int64_t tile) const { return tile / each * p + tile % each * size; }  // the first, of all images'

  template <class Body> void for_each(Body body) const {
    at::parallel_for(0, count(), grain(), [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) body(tile);
    });
  }
};

template <class A> const A* given(const MaybeTensor& t, const char* name, const std::vector<A>& otherwise) {
  const A* data = contiguous_ptr<A>(t, name);
  return data ? data : otherwise.data();
}

template <class T, bool kLast> void scale_tile(const Tiles& tiles, int64_t tile, const T* x, const Acc<T>* style, T* y) {
  tiles.visit<kLast>(tile, [&](int64_t at, int64_t length, int64_t image, int64_t channel, int64_t) {
    const Acc<T>* s = style + image * tiles.c + channel;
    const Acc<T> s0 = *s;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) y[at + i] = narrow<T>(static_cast<Acc<T>>(x[at + i]) * (kLast ? s[i] : s0));
  });
}

at::Tensor scale_fwd_cpu(const at::Tensor& x, const at::Tensor& style, bool channels_last) {
  at::Tensor y = at::empty_like(x);
  const Tiles tiles(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "modulated_conv_scale_fwd_cpu", [&] {
    using T = scalar_t;
    const T* in = x.const_data_ptr<T>();
    const auto* s = contiguous_ptr<Acc<T>>(style, "style");
    T* out = y.data_ptr<T>();
    tiles.for_each([&](int64_t tile) { (channels_last ? &scale_tile<T, true> : &scale_tile<T, false>)(tiles, tile, in, s, out); });
  });
  return y;
}

// sums [c]
template <class T, bool kLast>
void scale_bwd_tile(const Tiles& tiles, int64_t tile, const T* g, const T* x, const Acc<T>* style, T* gx, Acc<T>* sums) {
  using A = Acc<T>;
  tiles.visit<kLast>(tile, [&](int64_t at, int64_t length, int64_t image, int64_t channel, int64_t) {
    const A* s = style + image * tiles.c + channel;
    const A s0 = *s;
    A total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < length; ++i) {
      const A value = static_cast<A>(g[at + i]), product = value * static_cast<A>(x[at + i]);
      gx[at + i] = narrow<T>(value * (kLast ? s[i] : s0));
      if constexpr (kLast) sums[i] += product;
      else total += product;
    }
    if constexpr (!kLast) sums[channel] += total;
  });
}

// Partial sums [tiles, terms, c] of every tile added up in their order: those of an image, as [n, c], or of all, as [c].
template <class A> at::Tensor added_up(const std::vector<A>& partial, const Tiles& tiles, int64_t terms, int64_t term, bool per_image, const at::Tensor& like) {
  const int64_t images = per_image ? tiles.n : 1, c = tiles.c;
  std::vector<double> total(images * c, 0);
  for (int64_t tile = 0; tile < tiles.count(); ++tile) {
    const A* from = partial.data() + (tile * terms + term) * c;
    double* to = total.data() + (per_image ? tile / tiles.each : 0) * c;
    for (int64_t ch = 0; ch < c; ++ch) to[ch] += from[ch];
  }
  return as_tensor<A>(total.data(), images * c, like.options());
}

std::tuple<at::Tensor, at::Tensor> scale_bwd_cpu(const at::Tensor& g, const at::Tensor& x, const at::Tensor& style, bool channels_last) {
  at::Tensor gx = at::empty_like(x), gstyle;
  const Tiles tiles(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "modulated_conv_scale_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const T *from = g.const_data_ptr<T>(), *in = x.const_data_ptr<T>();
    const A* s = contiguous_ptr<A>(style, "style");
    T* out = gx.data_ptr<T>();
    std::vector<A> partial(tiles.count() * tiles.c, A(0));
    tiles.for_each([&](int64_t tile) {
      (channels_last ? &scale_bwd_tile<T, true> : &scale_bwd_tile<T, false>)(tiles, tile, from, in, s, out, partial.data() + tile * tiles.c);
    });
    gstyle = added_up(partial, tiles, 1, 0, true, x).view({tiles.n, tiles.c});
  });
  return {gx, gstyle};
}

// What the epilogue reads beside t: d [n, c], noise [n, p], bias and alpha [c]; ones, zeros and the number where there is none.
template <class A> struct Numbers {
  std::vector<A> ones, zeros, numbers;
  const A *d, *noise, *bias, *alpha;
  int64_t d_row, noise_row;  // 0 where all images, or tiles, share one
  A gain, clamp;

  Numbers(const Tiles& tiles, const MaybeTensor& d_of, const MaybeTensor& noise_of, const MaybeTensor& bias_of, const MaybeTensor& alpha_of,
          double alpha_value, double gain_, MaybeDouble clamp_)
      : ones(tiles.c, A(1)), zeros(std::max(tiles.c, tiles.size), A(0)), numbers(tiles.c, static_cast<A>(alpha_value)), d(given(d_of, "d", ones)),
        noise(given(noise_of, "noise", zeros)), bias(given(bias_of, "bias", zeros)), alpha(given(alpha_of, "alpha", numbers)),
        d_row(d == ones.data() ? 0 : tiles.c), noise_row(noise == zeros.data() ? 0 : 1), gain(gain_),
        clamp(clamp_.value_or(std::numeric_limits<double>::infinity())) {}
};

// t and y may be the same memory.
template <class T, bool kLast, class Tag> void finish_tile(const Tiles& tiles, int64_t tile, const T* t, const Numbers<Acc<T>>& v, Tag act, T* y) {
  using A = Acc<T>;
  const A* noise = v.noise + v.noise_row * tiles.pixel(tile);
  tiles.visit<kLast>(tile, [&](int64_t at, int64_t length, int64_t image, int64_t channel, int64_t pixel) {
    const A *d = v.d + image * v.d_row + channel, *bias = v.bias + channel, *alpha = v.alpha + channel, *e = noise + pixel;
    const A d0 = *d, bias0 = *bias, alpha0 = *alpha, e0 = *e, gain = v.gain, clamp = v.clamp;
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) {
      const A z = static_cast<A>(t[at + i]) * (kLast ? d[i] : d0) + (kLast ? bias[i] + e0 : e[i] + bias0);
      const A value = gain * act_fwd<A>(act, z, kLast ? alpha[i] : alpha0);
      y[at + i] = narrow<T>(value > clamp ? clamp : (value < -clamp ? -clamp : value));  // NaN stays
    }
  });
}

void finish(const at::Tensor& t, const MaybeTensor& d, const MaybeTensor& noise, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act,
            double alpha_value, double gain, MaybeDouble clamp, bool channels_last, const at::Tensor& y) {
  const Tiles tiles(t);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, t.scalar_type(), "modulated_conv_finish_fwd_cpu", [&] {
    using T = scalar_t;
    const Numbers<Acc<T>> v(tiles, d, noise, bias, alpha, alpha_value, gain, clamp);
    const T* in = t.const_data_ptr<T>();
    T* out = y.data_ptr<T>();
    with_act(parse_act(act), [&](auto tag) {
      const auto run = channels_last ? &finish_tile<T, true, decltype(tag)> : &finish_tile<T, false, decltype(tag)>;
      tiles.for_each([&](int64_t tile) { run(tiles, tile, in, v, tag, out); });
    });
  });
}

at::Tensor finish_fwd_cpu(const at::Tensor& t, const MaybeTensor& d, const MaybeTensor& noise, const MaybeTensor& bias, const MaybeTensor& alpha,
                          c10::string_view act, double alpha_value, double gain, MaybeDouble clamp, bool channels_last) {
  at::Tensor y = at::empty_like(t);
  finish(t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, y);
  return y;
}

void finish_fwd_cpu_(at::Tensor t, const MaybeTensor& d, const MaybeTensor& noise, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act,
                     double alpha_value, double gain, MaybeDouble clamp, bool channels_last) {
  finish(t, d, noise, bias, alpha, act, alpha_value, gain, clamp, channels_last, t);
}

// sums [3, c]: of gz * t, of gz, and with_alpha of g * df/dalpha, where gz is the gradient before the activation; gnoise: of gz over the
// channels, of the tile's pixels, in double, as one float sum over 512 channels would lose three digits.
template <class T, bool kLast, bool kClamps, class Tag>
void finish_bwd_tile(const Tiles& tiles, int64_t tile, const T* gy, const T* t, const Numbers<Acc<T>>& v, bool with_alpha, Tag act, T* gt, Acc<T>* sums,
                     double* gnoise) {
  using A = Acc<T>;
  const A* noise = v.noise + v.noise_row * tiles.pixel(tile);
  tiles.visit<kLast>(tile, [&](int64_t at, int64_t length, int64_t image, int64_t channel, int64_t pixel) {
    const A *d = v.d + image * v.d_row + channel, *bias = v.bias + channel, *alpha = v.alpha + channel, *e = noise + pixel;
    const A d0 = *d, bias0 = *bias, alpha0 = *alpha, e0 = *e, gain = v.gain, clamp = v.clamp;
    A *d_sum = sums + channel, *bias_sum = d_sum + tiles.c, *alpha_sum = bias_sum + tiles.c;
    double* e_sum = gnoise + pixel;
    const auto before = [&](int64_t i) __attribute__((always_inline)) {
      return static_cast<A>(t[at + i]) * (kLast ? d[i] : d0) + (kLast ? bias[i] + e0 : e[i] + bias0);
    };
    const auto slope = [&](int64_t i, A z, A a) __attribute__((always_inline)) {
      const A g = static_cast<A>(gy[at + i]) * gain;
      if constexpr (!kClamps) return g;
      const A y = gain * act_fwd<A>(act, z, a);
      return y > clamp || y < -clamp ? A(0) : g;
    };
    A total = 0, d_total = 0;
#pragma omp simd reduction(+ : total, d_total)
    for (int64_t i = 0; i < length; ++i) {
      const A z = before(i), a = kLast ? alpha[i] : alpha0, gz = act_bwd<A>(act, slope(i, z, a), z, a, false);
      gt[at + i] = narrow<T>(gz * (kLast ? d[i] : d0));
      total += gz;
      if constexpr (kLast) bias_sum[i] += gz, d_sum[i] += gz * static_cast<A>(t[at + i]);
      else e_sum[i] += gz, d_total += gz * static_cast<A>(t[at + i]);
    }
    if constexpr (kLast) *e_sum += total;
    else *bias_sum += total, *d_sum += d_total;
    for (int64_t i = 0; with_alpha && i < length; ++i) {
      const A z = before(i), a = kLast ? alpha[i] : alpha0;
      alpha_sum[kLast ? i : 0] += act_alpha_bwd<A>(act, slope(i, z, a), z, a);
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> finish_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& t, const MaybeTensor& d, const MaybeTensor& noise, const MaybeTensor& bias, const MaybeTensor& alpha,
    c10::string_view act, double alpha_value, double gain, MaybeDouble clamp, bool channels_last) {
  const bool with_d = d && d->defined(), with_noise = noise && noise->defined(), with_alpha = alpha && alpha->defined();
  at::Tensor gt = at::empty_like(gy), gd, gnoise, gbias, galpha;
  const Tiles tiles(gy);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gy.scalar_type(), "modulated_conv_finish_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const Numbers<A> v(tiles, d, noise, bias, alpha, alpha_value, gain, clamp);
    const T *g = gy.const_data_ptr<T>(), *in = t.const_data_ptr<T>();
    T* out = gt.data_ptr<T>();
    std::vector<A> partial(tiles.count() * 3 * tiles.c, A(0));
    std::vector<double> of_pixels(with_noise ? tiles.n * tiles.p : 0, 0);
    with_act(parse_act(act), [&](auto tag) {
      using Tag = decltype(tag);
      const auto run = channels_last ? (clamp ? &finish_bwd_tile<T, true, true, Tag> : &finish_bwd_tile<T, true, false, Tag>)
                                     : (clamp ? &finish_bwd_tile<T, false, true, Tag> : &finish_bwd_tile<T, false, false, Tag>);
      tiles.for_each([&](int64_t tile) {
        std::vector<double> unread(with_noise ? 0 : tiles.size, 0);
        double* gnoise_tile = with_noise ? of_pixels.data() + tiles.pixel(tile) : unread.data();
        run(tiles, tile, g, in, v, with_alpha, tag, out, partial.data() + tile * 3 * tiles.c, gnoise_tile);
      });
    });
    const auto none = as_tensor<A>(of_pixels.data(), 0, gy.options());
    gd = with_d ? added_up(partial, tiles, 3, 0, true, gy).view({tiles.n, tiles.c}) : none;
    gnoise = with_noise ? as_tensor<A>(of_pixels.data(), tiles.n * tiles.p, gy.options()).view(noise->sizes()) : none.clone();
    gbias = added_up(partial, tiles, 3, 1, false, gy);
    galpha = with_alpha ? added_up(partial, tiles, 3, 2, false, gy) : none.clone();
  });
  return {gt, gd, gnoise, gbias, galpha};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("modulated_conv_scale_fwd_native", scale_fwd_cpu);
  m.impl("modulated_conv_scale_bwd_native", scale_bwd_cpu);
  m.impl("modulated_conv_finish_fwd_native", finish_fwd_cpu);
  m.impl("modulated_conv_finish_fwd_native_", finish_fwd_cpu_);
  m.impl("modulated_conv_finish_bwd_native", finish_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
