// The CPU's kernel of one pixel with few output channels, to RGB: every image's pixels times a matrix [o, c] of its own, which holds its
// styles. x, nearly all that such a layer reads, is read once forward, and once backward with the sums of the matrix's gradient.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include <algorithm>

#include "cpu_vectors.h"

namespace ganfast {
namespace {

// An image's pixels in parts, the unit of work and of partial sums, which the shape alone decides; a part's tiles stay in the first cache.
struct Few {
  static constexpr int64_t kTile = 1024;
  int64_t n, o, c, p, parts;

  Few(const at::Tensor& w, const at::Tensor& images)
      : n(w.size(0)), o(w.size(1)), c(w.size(2)), p(images.numel() / (n * images.size(1))),
        parts(std::clamp<int64_t>((63 + n) / n, 1, (p + 63) / 64)) {}
  int64_t edge(int64_t part) const { return p * part / parts; }

  // run(image, part of all, first pixel, count, a thread's buffers) for every tile, a part's in their order
  template <class Buffers, class Run> void for_each(Run run) const {
    at::parallel_for(0, n * parts, std::max<int64_t>(1, 32768 * parts / (c * p)), [&](int64_t begin, int64_t end) {
      Buffers own(*this);
      for (int64_t part = begin; part < end; ++part) {
        const int64_t last = edge(part % parts + 1);
        for (int64_t at = edge(part % parts); at < last; at += kTile) run(part / parts, part, at, std::min(kTile, last - at), own);
      }
    });
  }
};

template <class A> struct Buffers {
  std::vector<A> row, sums, few;  // [max(tile, c)]; [o, c]; [o, tile]
  explicit Buffers(const Few& f) : row(std::max(Few::kTile, f.c)), sums(f.o * f.c), few(f.o * Few::kTile) {}
};

template <class T> void widened(const T* from, int64_t count, Acc<T>* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<Acc<T>>(from[i]);
}

template <class T> void narrowed(const Acc<T>* from, int64_t count, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = narrow<T>(from[i]);
}

template <class A> void add_scaled(const A* from, A by, int64_t count, A* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += by * from[i];
}

template <class A> A dot(const A* a, const A* b, int64_t count) {
  A total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

// to[o] += sum over kC channels of w[o, ch] x[ch], for kO rows of a tile; x's channels p apart, w's rows c, to's Few::kTile.
template <int kO, int kC, class T> void spread(const Few& f, const T* x, const Acc<T>* w, int64_t count, Acc<T>* to) {
  using A = Acc<T>;
  A own[kO][kC];
  for (int o = 0; o < kO; ++o)
    for (int ch = 0; ch < kC; ++ch) own[o][ch] = w[o * f.c + ch];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    A values[kC];
    for (int ch = 0; ch < kC; ++ch) values[ch] = static_cast<A>(x[ch * f.p + i]);
    for (int o = 0; o < kO; ++o) {
      A total = to[o * Few::kTile + i];
      for (int ch = 0; ch < kC; ++ch) total += own[o][ch] * values[ch];
      to[o * Few::kTile + i] = total;
    }
  }
}

template <int kC, class T> void spread(const Few& f, const T* x, const Acc<T>* w, int64_t count, Acc<T>* to) {
  int64_t o = 0;
  for (; o + 3 <= f.o; o += 3) spread<3, kC>(f, x, w + o * f.c, count, to + o * Few::kTile);
  for (; o < f.o; ++o) spread<1, kC>(f, x, w + o * f.c, count, to + o * Few::kTile);
}

// x, t at the image; w its matrix
template <class T, bool kLast>
void fwd_tile(const Few& f, const T* x, const Acc<T>* w, int64_t first, int64_t count, Buffers<Acc<T>>& own, T* t) {
  if constexpr (kLast) {
    for (int64_t i = first; i < first + count; ++i) {
      widened(x + i * f.c, f.c, own.row.data());
      for (int64_t o = 0; o < f.o; ++o) t[i * f.o + o] = narrow<T>(dot(own.row.data(), w + o * f.c, f.c));
    }
  } else {
    std::fill(own.few.begin(), own.few.end(), Acc<T>(0));
    int64_t ch = 0;
    for (; ch + 4 <= f.c; ch += 4) spread<4>(f, x + ch * f.p + first, w + ch, count, own.few.data());
    for (; ch < f.c; ++ch) spread<1>(f, x + ch * f.p + first, w + ch, count, own.few.data());
    for (int64_t o = 0; o < f.o; ++o) narrowed(own.few.data() + o * f.kTile, count, t + o * f.p + first);
  }
}

// gx; own.sums: the tile's of the matrix's gradient, where there is an x.
template <class T, bool kLast>
void bwd_tile(const Few& f, const T* g, const T* x, const Acc<T>* w, int64_t first, int64_t count, Buffers<Acc<T>>& own, T* gx) {
  using A = Acc<T>;
  std::fill(own.sums.begin(), own.sums.end(), A(0));
  A *row = own.row.data(), *few = own.few.data(), *sums = own.sums.data();
  if constexpr (kLast) {
    for (int64_t i = first; i < first + count; ++i) {
      widened(g + i * f.o, f.o, few);
      if (x) {
        widened(x + i * f.c, f.c, row);
        for (int64_t o = 0; o < f.o; ++o) add_scaled(row, few[o], f.c, sums + o * f.c);
      }
      std::fill_n(row, f.c, A(0));
      for (int64_t o = 0; o < f.o; ++o) add_scaled(w + o * f.c, few[o], f.c, row);
      narrowed(row, f.c, gx + i * f.c);
    }
  } else {
    for (int64_t o = 0; o < f.o; ++o) widened(g + o * f.p + first, count, few + o * f.kTile);
    for (int64_t ch = 0; ch < f.c; ++ch) {
      if (x) {
        widened(x + ch * f.p + first, count, row);
        for (int64_t o = 0; o < f.o; ++o) sums[o * f.c + ch] = dot(few + o * f.kTile, row, count);
      }
      std::fill_n(row, count, A(0));
      for (int64_t o = 0; o < f.o; ++o) add_scaled(few + o * f.kTile, w[o * f.c + ch], count, row);
      narrowed(row, count, gx + ch * f.p + first);
    }
  }
}

void check_layout(const at::Tensor& x, bool channels_last) {
  const auto format = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  TORCH_CHECK(x.is_contiguous(format), "modulated_conv: images have strides ", x.strides(), ", want those of ", format);
}

at::Tensor images_like(const at::Tensor& x, int64_t channels, bool channels_last) {
  return at::empty({x.size(0), channels, x.size(2), x.size(3)},
                   x.options().memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
}

// x [n, c, h, w], w [n, o, c] of the accumulation dtype -> [n, o, h, w]
at::Tensor few_fwd_cpu(const at::Tensor& x, const at::Tensor& w, bool channels_last) {
  check_layout(x, channels_last);
  const Few f(w, x);
  at::Tensor t = images_like(x, f.o, channels_last);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "modulated_conv_few_fwd_cpu", [&] {
    using T = scalar_t;
    const T* in = x.const_data_ptr<T>();
    const auto* matrices = contiguous_ptr<Acc<T>>(w, "w");
    T* out = t.data_ptr<T>();
    f.for_each<Buffers<Acc<T>>>([&](int64_t image, int64_t, int64_t first, int64_t count, auto& own) {
      (channels_last ? &fwd_tile<T, true> : &fwd_tile<T, false>)(f, in + image * f.c * f.p, matrices + image * f.o * f.c, first, count, own,
                                                                 out + image * f.o * f.p);
    });
  });
  return t;
}

// (gx, gw, or an empty tensor without x)
std::tuple<at::Tensor, at::Tensor> few_bwd_cpu(const at::Tensor& g, const MaybeTensor& x, const at::Tensor& w, bool channels_last) {
  check_layout(g, channels_last);
  if (x && x->defined()) check_layout(*x, channels_last);
  const Few f(w, g);
  at::Tensor gx = images_like(g, f.c, channels_last), gw;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, g.scalar_type(), "modulated_conv_few_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const T *from = g.const_data_ptr<T>(), *in = x && x->defined() ? x->const_data_ptr<T>() : nullptr;
    const A* matrices = contiguous_ptr<A>(w, "w");
    T* out = gx.data_ptr<T>();
    const int64_t size = f.o * f.c;
    std::vector<double> partial(in ? f.n * f.parts * size : 0, 0), total(in ? f.n * size : 0, 0);
    f.for_each<Buffers<A>>([&](int64_t image, int64_t part, int64_t first, int64_t count, auto& own) {
      const int64_t at = image * f.c * f.p;
      (channels_last ? &bwd_tile<T, true> : &bwd_tile<T, false>)(f, from + image * f.o * f.p, in ? in + at : nullptr, matrices + image * size, first,
                                                                 count, own, out + at);
      for (int64_t i = 0; in && i < size; ++i) partial[part * size + i] += own.sums[i];
    });
    for (int64_t part = 0; in && part < f.n * f.parts; ++part)
      for (int64_t i = 0; i < size; ++i) total[part / f.parts * size + i] += partial[part * size + i];
    gw = as_tensor<A>(total.data(), in ? f.n * size : 0, w.options());
    if (in) gw = gw.view(w.sizes());
  });
  return {gx, gw};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("modulated_conv_few_fwd_native", few_fwd_cpu);
  m.impl("modulated_conv_few_bwd_native", few_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
