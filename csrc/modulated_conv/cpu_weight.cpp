// The CPU's passes over a modulated convolution's weight: from one reading what the convolution takes and the sums of its squares over the
// taps; from one reading of both gradients the weight's.
#include "../common/wide_vectors.h"

#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cpu_vectors.h"

namespace ganfast {
namespace {

// weight [o, i, k taps] in contiguous memory; another one, if transposed, is [i, o, k], if turned has its taps from the end.
struct Form {
  int64_t o, i, k;
  bool transposed, turn;

  Form(const at::Tensor& weight, bool transposed_, bool turn_)
      : o(weight.size(0)), i(weight.size(1)), k(weight.size(2) * weight.size(3)), transposed(transposed_), turn(turn_) {}
  int64_t other(int64_t out, int64_t in) const { return (transposed ? in * o + out : out * i + in) * k; }
  // body(out) for every output channel
  template <class Body> void for_each(Body body) const {
    at::parallel_for(0, o, std::max<int64_t>(1, 32768 / (i * k)), [&](int64_t begin, int64_t end) {
      for (int64_t out = begin; out < end; ++out) body(out);
    });
  }
};

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
    form.for_each([&](int64_t out) {
      const W* row = from + out * form.i * form.k;
      A* sum = sums + out * form.i;
      const A by = s ? s[out] : A(1);
      if (last) {
        for (int64_t tap = 0; tap < form.k; ++tap, row += form.i)
#pragma omp simd
          for (int64_t in = 0; in < form.i; ++in) sum[in] += static_cast<A>(row[in]) * static_cast<A>(row[in]);
        return;
      }
      for (int64_t in = 0; in < form.i; ++in, row += form.k) {
        T* into = to ? to + form.other(out, in) : nullptr;
        A total = 0;
        for (int64_t tap = 0; tap < form.k; ++tap) {
          const A value = static_cast<A>(row[tap]) * by;
          total += value * value;
          if (into) into[turn ? form.k - 1 - tap : tap] = narrow<T>(value);
        }
        sum[in] = total;
      }
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
    form.for_each([&](int64_t out) {
      const int64_t first = out * form.i * form.k;
      const A* sum = of_squares ? of_squares + out * form.i : zeros.data();
      const A by = s ? s[out] : A(1);
      if (last) {
        for (int64_t at = first; at < first + form.i * form.k; at += form.i)
#pragma omp simd
          for (int64_t in = 0; in < form.i; ++in)
            to[at + in] = narrow<W>((g ? static_cast<A>(g[at + in]) : A(0)) + 2 * sum[in] * static_cast<A>(from[at + in]));
        return;
      }
      for (int64_t in = 0; in < form.i; ++in) {
        const int64_t at = first + in * form.k;
        const T* other = g ? g + form.other(out, in) : nullptr;
        const A twice = 2 * sum[in] * by * by;
        for (int64_t tap = 0; tap < form.k; ++tap)
          to[at + tap] = narrow<W>((other ? by * static_cast<A>(other[turn ? form.k - 1 - tap : tap]) : A(0)) + twice * static_cast<A>(from[at + tap]));
      }
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
