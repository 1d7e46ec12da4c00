// The CPU's passes over a modulated convolution's weight: from one reading what the convolution takes and the sums of its squares over the
// taps; from one reading of both gradients the weight's.
#include "../common/wide_vectors.h"

#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "cpu_vectors.h"

namespace ganfast {
namespace {

// weight [o, i, k taps] in contiguous memory; another one, if transposed, is [i, o, k], if turned has its taps from the end.
struct Form {
  static constexpr int64_t kTogether = 8;  // rows: of a transposed one so many lie side by side
  int64_t o, i, k;
  bool transposed, turn;

  Form(const at::Tensor& weight, bool transposed_, bool turn_)
      : o(weight.size(0)), i(weight.size(1)), k(weight.size(2) * weight.size(3)), transposed(transposed_), turn(turn_) {}
  int64_t other(int64_t out, int64_t in) const { return (transposed ? in * o + out : out * i + in) * k; }
  int64_t row() const { return i * k; }
  // whether a row is one run of memory in the other form too
  bool same_rows() const { return !transposed && (!turn || k == 1); }

  // body(first, count) for every few output channels
  template <class Body> void for_each(Body body) const {
    at::parallel_for(0, (o + kTogether - 1) / kTogether, std::max<int64_t>(1, 32768 / (kTogether * row())), [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) body(at * kTogether, std::min(kTogether, o - at * kTogether));
    });
  }
};

// rows [count, i, k] of the output channels from `first` on, and the same in the other form: from one into the other.
template <int64_t kTaps, bool kStores, class T> void move_rows(const Form& form, int64_t first, int64_t count, T* rows, T* others) {
  const int64_t taps = kTaps ? kTaps : form.k;
  const auto move = [taps](T* row, T* other, bool turned) {
    T *from = kStores ? row : other, *to = kStores ? other : row;
    if (turned) std::reverse_copy(from, from + taps, to);
    else std::memcpy(to, from, taps * sizeof(T));  // its length known where the taps are
  };
  for (int64_t in = 0; in < form.i; ++in)
    for (int64_t row = 0; row < count; ++row) move(rows + (row * form.i + in) * taps, others + form.other(first + row, in), form.turn);
}

// body(taps) with the number of taps at compile time where it is a common one, else 0
template <class Body> void with_taps(int64_t taps, Body body) {
  if (taps == 1) body(std::integral_constant<int64_t, 1>{});
  else if (taps == 9) body(std::integral_constant<int64_t, 9>{});
  else body(std::integral_constant<int64_t, 0>{});
}

// sums [i] of the squares of row [i, k] times by; into: the products, or null.
template <int64_t kTaps, class W, class A, class T> void prepare_row(const Form& form, const W* row, A by, A* buffer, A* sums, T* into) {
  const int64_t taps = kTaps ? kTaps : form.k, length = form.row();
#pragma omp simd
  for (int64_t at = 0; at < length; ++at) buffer[at] = static_cast<A>(row[at]) * by;
#pragma omp simd
  for (int64_t in = 0; in < form.i; ++in) {
    A total = 0;
    for (int64_t tap = 0; tap < taps; ++tap) total += buffer[in * taps + tap] * buffer[in * taps + tap];
    sums[in] = total;
  }
  if (!into) return;
#pragma omp simd
  for (int64_t at = 0; at < length; ++at) into[at] = narrow<T>(buffer[at]);
}

// to [i, k] = by g + 2 by^2 sums w; g may be null.
template <int64_t kTaps, class W, class A, class T> void gradient_row(const Form& form, const W* row, const T* g, const A* sums, A by, A* buffer, W* to) {
  const int64_t taps = kTaps ? kTaps : form.k, length = form.row();
  for (int64_t in = 0; in < form.i; ++in)
    for (int64_t tap = 0; tap < taps; ++tap) buffer[in * taps + tap] = 2 * sums[in] * by * by;
  if (g) {
#pragma omp simd
    for (int64_t at = 0; at < length; ++at) to[at] = narrow<W>(by * static_cast<A>(g[at]) + buffer[at] * static_cast<A>(row[at]));
  } else {
#pragma omp simd
    for (int64_t at = 0; at < length; ++at) to[at] = narrow<W>(buffer[at] * static_cast<A>(row[at]));
  }
}

// Whether the weight is channels_last, in which only the weight that the convolution takes as it is may lie.
bool is_last(const at::Tensor& weight, bool itself) {
  TORCH_CHECK(itself || weight.is_contiguous(), "modulated_conv: a weight of another form has strides ", weight.strides(), ", wants contiguous memory");
  return !weight.is_contiguous();
}

// of the weight's own type
bool keeps_form(const MaybeTensor& scale, bool transposed, bool turn) { return !(scale && scale->defined()) && !transposed && !turn; }

// calls fn with the weight's own type and the images' for both at once
template <class Fn> void with_types(const at::Tensor& weight, at::ScalarType images, Fn fn) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, images, "modulated_conv_prepare_cpu", [&] {
    using T = scalar_t;
    if (weight.scalar_type() == images) fn(T{}, T{});
    else if constexpr (sizeof(T) == 2) fn(float{}, T{});
    else TORCH_CHECK(false, "a weight of ", weight.scalar_type(), " for images of ", images);
  });
}

std::tuple<at::Tensor, at::Tensor> prepare_fwd_cpu(const at::Tensor& weight, const MaybeTensor& scale, bool transposed, bool turn, at::ScalarType dtype) {
  const Form form(weight, transposed, turn);
  const bool itself = keeps_form(scale, transposed, turn) && weight.scalar_type() == dtype;
  const auto options = weight.options().dtype(dtype).memory_format(std::nullopt);
  at::Tensor w = !itself ? at::empty(transposed ? std::vector<int64_t>{form.i, form.o, weight.size(2), weight.size(3)} : weight.sizes().vec(), options)
                         : at::empty({0}, options);
  at::Tensor q;
  with_types(weight, dtype, [&](auto of_weight, auto of_images) {
    using W = decltype(of_weight);
    using T = decltype(of_images);
    using A = Acc<T>;
    q = at::zeros({form.o, form.i}, options.dtype(c10::CppTypeToScalarType<A>::value));
    const W* from = weight.const_data_ptr<W>();
    const A* s = contiguous_ptr<A>(scale, "scale");
    T* to = itself ? nullptr : w.data_ptr<T>();
    A* sums = q.data_ptr<A>();
    const bool last = is_last(weight, itself);
    if (last) {
      form.for_each([&](int64_t first, int64_t count) {
        const W* row = from + first * form.row();
        for (A* sum = sums + first * form.i; sum < sums + (first + count) * form.i; sum += form.i)
          for (int64_t tap = 0; tap < form.k; ++tap, row += form.i)
#pragma omp simd
            for (int64_t in = 0; in < form.i; ++in) sum[in] += static_cast<A>(row[in]) * static_cast<A>(row[in]);
      });
      return;
    }
    with_taps(form.k, [&](auto taps) {
      form.for_each([&](int64_t first, int64_t count) {
        std::vector<A> buffer(form.row());
        std::vector<T> rows(to && !form.same_rows() ? count * form.row() : 0);
        for (int64_t out = first; out < first + count; ++out) {
          T* into = !to ? nullptr : form.same_rows() ? to + out * form.row() : rows.data() + (out - first) * form.row();
          prepare_row<taps.value>(form, from + out * form.row(), s ? s[out] : A(1), buffer.data(), sums + out * form.i, into);
        }
        if (!rows.empty()) move_rows<taps.value, true>(form, first, count, rows.data(), to);
      });
    });
  });
  return {w, q};
}

at::Tensor prepare_bwd_cpu(const at::Tensor& weight, const MaybeTensor& gw, const MaybeTensor& gq, const MaybeTensor& scale, bool transposed, bool turn) {
  const Form form(weight, transposed, turn);
  at::Tensor found = at::empty_like(weight);
  with_types(weight, gw && gw->defined() ? gw->scalar_type() : weight.scalar_type(), [&](auto of_weight, auto of_images) {
    using W = decltype(of_weight);
    using T = decltype(of_images);
    using A = Acc<T>;
    const W* from = weight.const_data_ptr<W>();
    const T* g = optional_ptr<T>(gw);
    const A *of_squares = contiguous_ptr<A>(gq, "gq"), *s = contiguous_ptr<A>(scale, "scale");
    W* to = found.data_ptr<W>();
    const bool last = is_last(weight, keeps_form(scale, transposed, turn) && std::is_same_v<W, T>);
    const std::vector<A> zeros(form.i, A(0));
    const auto sum_of = [&](int64_t out) { return of_squares ? of_squares + out * form.i : zeros.data(); };
    if (last) {
      form.for_each([&](int64_t first, int64_t count) {
        for (int64_t at = first * form.row(); at < (first + count) * form.row(); at += form.i) {
          const A* sum = sum_of(at / form.row());
#pragma omp simd
          for (int64_t in = 0; in < form.i; ++in)
            to[at + in] = narrow<W>((g ? static_cast<A>(g[at + in]) : A(0)) + 2 * sum[in] * static_cast<A>(from[at + in]));
        }
      });
      return;
    }
    with_taps(form.k, [&](auto taps) {
      form.for_each([&](int64_t first, int64_t count) {
        std::vector<A> buffer(form.row());
        std::vector<T> rows(g && !form.same_rows() ? count * form.row() : 0);
        if (!rows.empty()) move_rows<taps.value, false>(form, first, count, rows.data(), const_cast<T*>(g));
        for (int64_t out = first; out < first + count; ++out) {
          const int64_t at = out * form.row();
          const T* g_row = !g ? nullptr : form.same_rows() ? g + at : rows.data() + at - first * form.row();
          gradient_row<taps.value>(form, from + at, g_row, sum_of(out), s ? s[out] : A(1), buffer.data(), to + at);
        }
      });
    });
  });
  return found;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("modulated_conv_prepare_fwd_native", prepare_fwd_cpu);
  m.impl("modulated_conv_prepare_bwd_native", prepare_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
