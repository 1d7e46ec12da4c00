// The CPU's passes of a norm with an affine from outside and a residual: every image has columns of its own; scale and shift are
// [N, C], or tensors of x's shape.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include "../common/cpu_norm.h"

namespace ganfast {
namespace {

// What one call is about: its columns, and which tensors are read element by element.
template <class T> struct Call {
  Rows rows;
  Vectors<Acc<T>> v;
  Beside<T> beside;
  bool elementwise, added;  // added: a residual and no other tensor of x's shape

  static bool is_full(const at::Tensor& x, const MaybeTensor& t) { return given(t) && t->dim() == x.dim(); }
  // Every image has columns of its own where it has statistics or an affine of its own.
  static bool per_image(const at::Tensor& x, const at::Tensor& mean, const MaybeTensor& scale) {
    return mean.numel() != x.size(1) || (given(scale) && !is_full(x, scale));
  }
  static MaybeTensor column(const at::Tensor& x, const MaybeTensor& t) { return is_full(x, t) ? MaybeTensor() : t; }

  Call(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& scale,
       const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha, double alpha_value, bool residual_first, double factor, bool channels_last)
      : rows(Rows::spread_out(x, channels_last, per_image(x, mean, scale))),
        v(rows, mean, invstd, {rows, weight, bias, alpha, alpha_value, column(x, scale), column(x, shift)}),
        elementwise(is_full(x, scale) || given(residual) || factor != 1),
        added(given(residual) && !is_full(x, scale)) {
    if (is_full(x, scale)) beside.scale = scale->const_data_ptr<T>(), beside.shift = shift->const_data_ptr<T>();
    if (given(residual)) (residual_first ? beside.before : beside.after) = residual->const_data_ptr<T>();
    beside.factor = static_cast<Acc<T>>(factor);
    const int64_t run = elementwise ? std::max(rows.c, rows.p) : 0;
    beside.ones.assign(run, T(1)), beside.zeros.assign(run, T(0));
  }
};

at::Tensor batch_norm_act_modulated_fwd_cpu(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
                                      const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha,
                                      c10::string_view act, double alpha_value, bool residual_first, double factor, bool channels_last) {
  at::Tensor y = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_modulated_fwd_cpu", [&] {
    using T = scalar_t;
    const Call<T> call(x, mean, invstd, weight, bias, scale, shift, residual, alpha, alpha_value, residual_first, factor, channels_last);
    const auto run = call.added ? &normalise<T, Reads::added> : call.elementwise ? &normalise<T, Reads::tensors> : &normalise<T>;
    run(x.const_data_ptr<T>(), call.rows, call.v, call.beside, parse_act(act), y.data_ptr<T>());
  });
  return y;
}

// groups: an image's sets of channels that are normalised together; 0 where a channel is, over all images. residual: where it comes
// before the activation. Gives (gx, gweight, gbias, galpha, gscale, gshift, gresidual), empty where there is no such tensor,
// and gresidual where shift is of x's shape, as gshift is the same.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> batch_norm_act_modulated_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& x, const at::Tensor& mean, const at::Tensor& invstd, const MaybeTensor& weight, const MaybeTensor& bias,
    const MaybeTensor& scale, const MaybeTensor& shift, const MaybeTensor& residual, const MaybeTensor& alpha, c10::string_view act, double alpha_value,
    double factor, int64_t groups, bool training, bool channels_last) {
  const int64_t n = x.size(0), c = x.size(1);
  const auto none = [&] { return at::empty({0}, x.options().memory_format(std::nullopt)); };
  at::Tensor gx = at::empty_like(x), gscale = none(), gshift = none(), gresidual = none();
  at::Tensor gweight, gbias, galpha;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "batch_norm_act_modulated_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    Call<T> call(x, mean, invstd, weight, bias, scale, shift, residual, alpha, alpha_value, true, factor, channels_last);
    const bool with_alpha = given(alpha), full_scale = Call<T>::is_full(x, scale);
    if (full_scale) {
      gscale = at::empty_like(x), gshift = at::empty_like(x);
      call.beside.gscale = gscale.data_ptr<T>(), call.beside.gshift = gshift.data_ptr<T>();
    } else if (given(residual)) {
      gresidual = at::empty_like(x), call.beside.gshift = gresidual.data_ptr<T>();
    }
    const T *g = gy.const_data_ptr<T>(), *in = x.const_data_ptr<T>();
    const Act which = parse_act(act);
    // The residual's gradient stands for g in the writing pass where it is g to the last bit.
    const bool from_gradient = call.added && (sizeof(T) > 2 || (factor == 1 && (which == Act::relu || which == Act::linear)));
    if (from_gradient) call.beside.kept = gresidual.data_ptr<T>();
    const auto sums_of = from_gradient ? &backward_sums<T, Reads::added> : call.elementwise ? &backward_sums<T, Reads::tensors> : &backward_sums<T>;
    const auto write = from_gradient ? &write_gradient<T, Reads::added> : call.elementwise ? &write_gradient<T, Reads::tensors> : &write_gradient<T>;
    const auto sums = sums_of(g, in, call.rows, call.v, call.beside, which, with_alpha);
    std::vector<A> through(2 * call.rows.columns(), A(0));
    if (training) {
      const int64_t sets = groups ? n * groups : c, width = groups ? c / groups : 1;
      const double values = static_cast<double>(x.numel()) / sets;
      through = through_statistics<A>(call.rows, call.v, sums, sets, values, [=](int64_t k) { return groups ? k / width : k % c; });
    }
    write(g, in, call.rows, call.v, call.beside, through, which, gx.data_ptr<T>());

    const ColumnGradients<A> found(sums, c, weight, bias, full_scale ? MaybeTensor() : scale);
    gbias = as_tensor<A>(found.bias.data(), c, x.options()), gweight = as_tensor<A>(found.weight.data(), c, x.options());
    galpha = as_tensor<A>(found.alpha.data(), with_alpha ? c : 0, x.options());
    if (!found.scale.empty()) gscale = as_tensor<A>(found.scale.data(), n * c, x.options()), gshift = as_tensor<A>(sums.data(), n * c, x.options());
  });
  return {gx, gweight, gbias, galpha, gscale, gshift, gresidual};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("batch_norm_act_modulated_fwd_native", batch_norm_act_modulated_fwd_cpu);
  m.impl("batch_norm_act_modulated_bwd_native", batch_norm_act_modulated_bwd_cpu);
}

}  // namespace
}  // namespace ganfast
