// The CPU's normalising passes: normalise and activate, reduce for the backward, write gx. Each recomputes the normalised values from
// x, which is cheaper than reading them back.
#pragma once
#include "cpu_moments.h"

namespace ganfast {

using MaybeTensor = std::optional<at::Tensor>;

inline bool given(const MaybeTensor& t) { return t && t->defined(); }

// The vectors of one call as columns of `rows`: plain arrays for a channels_last run; no weight means 1, no bias 0. Vectors shorter
// than the columns ([C] where each image has columns of its own) start again for every image. With outer_gain and outer_shift:
// z = (xhat * weight + bias) * outer_gain + outer_shift, which is one gain and one shift again.
template <class A> struct Affine {
  std::vector<A> gain, shift, alpha;  // z = xhat * gain + shift

  Affine(const Rows& rows, const MaybeTensor& weight, const MaybeTensor& bias, const MaybeTensor& alphas, double alpha_value,
         const MaybeTensor& outer_gain = {}, const MaybeTensor& outer_shift = {})
      : gain(as_columns<A>(rows, weight, 1)), shift(as_columns<A>(rows, bias, 0)), alpha(as_columns<A>(rows, alphas, alpha_value)) {
    if (!given(outer_gain)) return;
    const auto by = as_columns<A>(rows, outer_gain, 1), more = as_columns<A>(rows, outer_shift, 0);
    for (int64_t i = 0; i < rows.columns(); ++i) gain[i] *= by[i], shift[i] = shift[i] * by[i] + more[i];
  }
};

template <class A> struct Vectors : Affine<A> {
  std::vector<A> mean, invstd, scale;  // z = (x - mean) * scale + shift

  Vectors(const Rows& rows, const at::Tensor& mean_of, const at::Tensor& invstd_of, const Affine<A>& affine)
      : Affine<A>(affine), mean(as_columns<A>(rows, mean_of, 0)), invstd(as_columns<A>(rows, invstd_of, 0)), scale(this->gain) {
    for (int64_t i = 0; i < rows.columns(); ++i) scale[i] *= invstd[i];
  }
};

// What the passes read beside x: vectors alone; tensors of x's shape; a residual alone of these; the activation's slope f'(z), which the
// forward wrote, where an exponential takes longer than reading it back; or, in the backward, g = gy * f'(z), which the reducing pass
// leaves where gx will be. With a residual before the activation g is the residual's gradient, and the writing pass reads that.
enum class Reads { vectors, tensors, added, slope, kept };

// Tensors of x's shape and layout: z' = z * scale + shift + before, y = (f(z') + after) * factor. Where one is not given, a run of ones
// or zeros is read in its place.
template <class T> struct Beside {
  const T *scale = nullptr, *shift = nullptr, *before = nullptr, *after = nullptr;
  Acc<T> factor = 1;
  T *gscale = nullptr, *gshift = nullptr;  // where the backward writes gradients; before's is shift's
  T *slope = nullptr, *kept = nullptr;
  std::vector<T> ones, zeros;

  const T* scale_at(int64_t at) const { return scale ? scale + at : ones.data(); }
  const T* shift_at(int64_t at) const { return shift ? shift + at : zeros.data(); }
  const T* before_at(int64_t at) const { return before ? before + at : zeros.data(); }
  const T* after_at(int64_t at) const { return after ? after + at : zeros.data(); }
};

// y = f(z_of(i)) over a run and, of a half type and where `slope` is given, f'(z). Half types go strip by strip: their widening and
// rounding are loops of their own, as GCC runs out of registers where they share one with an exponential.
template <class T, class Tag, class Z, class Alpha> void activate_run(int64_t length, Tag act, Z z_of, Alpha alpha_of, T* y, T* slope) {
  using A = Acc<T>;
  if constexpr (sizeof(T) > 2) {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) y[i] = act_fwd<A>(act, z_of(i), alpha_of(i));
    return;
  }
  constexpr int64_t kStrip = 256;
  A z[kStrip], d[kStrip];
  for (int64_t first = 0; first < length; first += kStrip) {
    const int64_t count = std::min(kStrip, length - first);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) z[i] = z_of(first + i);
    if (slope) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        if constexpr (std::is_same_v<Tag, std::integral_constant<Act, Act::silu>>) {
          const A s = act_math::sigmoid<A>(z[i]), value = z[i] * s;
          z[i] = value, d[i] = s + value * (1 - s);
        } else {
          d[i] = act_grad<A>(act, z[i], alpha_of(first + i), false);
          z[i] = act_fwd<A>(act, z[i], alpha_of(first + i));
        }
      }
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) slope[first + i] = narrow<T>(d[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = act_fwd<A>(act, z[i], alpha_of(first + i));
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) y[first + i] = narrow<T>(z[i]);
  }
}

// The passes over all blocks, compiled in cpu_norm_vectors.cpp, cpu_norm_tensors.cpp, cpu_norm_added.cpp and cpu_norm_slope.cpp.

template <class T, Reads kReads = Reads::vectors> void normalise(const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, Act act, T* y);

// [3, channels]: h, h * xhat with h = gy * factor * f'(z') * scale, and with_alpha gy * factor * df/dalpha.
template <class T, Reads kReads = Reads::vectors>
std::vector<Acc<T>> backward_sums(const T* gy, const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, Act act, bool with_alpha);

// gx = scale * h - offset - (x - mean) * slope; `through`: offset and slope one behind the other [2, columns]: what flows through the
// statistics, zeros in eval mode. With tensors also gscale = gy' * z and gshift = gy', gy' = gy * factor * f'(z').
template <class T, Reads kReads = Reads::vectors>
void write_gradient(const T* gy, const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, const std::vector<Acc<T>>& through, Act act, T* gx);

// What flows through the statistics, [2, columns] for write_gradient: offset and slope of every column, from the sums [3, channels] of h
// and h * xhat. `set_of(channel)`: the set of channels that is normalised together, of `sets`; `values` of each.
template <class A, class SetOf>
std::vector<A> through_statistics(const Rows& rows, const Vectors<A>& v, const std::vector<A>& sums, int64_t sets, double values, SetOf set_of) {
  const int64_t channels = rows.channels(), spread = rows.spread;
  std::vector<double> of_h(sets, 0), of_product(sets, 0);
  for (int64_t k = 0; k < channels; ++k) {
    const double gain = v.gain[k * spread];
    of_h[set_of(k)] += gain * sums[k], of_product[set_of(k)] += gain * sums[channels + k];
  }
  std::vector<A> through(2 * rows.columns());
  for (int64_t i = 0; i < rows.columns(); ++i) {
    const int64_t set = set_of(i / spread);
    through[i] = static_cast<A>(v.invstd[i] * of_h[set] / values);
    through[rows.columns() + i] = static_cast<A>(v.invstd[i] * v.invstd[i] * of_product[set] / values);
  }
  return through;
}

// The vectors' gradients from the sums [3, images * c] of h, h * xhat and the slope in alpha, where z = (xhat * weight + bias) * scale +
// shift with scale [images * c], or none.
template <class A> struct ColumnGradients {
  std::vector<double> weight, bias, alpha;  // [c]
  std::vector<A> scale;                     // [images * c]; shift's is the sums of h

  ColumnGradients(const std::vector<A>& sums, int64_t c, const MaybeTensor& weight_of, const MaybeTensor& bias_of, const MaybeTensor& scale_of)
      : weight(c, 0), bias(c, 0), alpha(c, 0) {
    const int64_t columns = sums.size() / 3;
    const auto values = [&](const MaybeTensor& t, int64_t count, double value) {
      std::vector<A> all(count, static_cast<A>(value));
      if (given(t)) {
        const auto dense = t->to(c10::CppTypeToScalarType<A>::value).contiguous();
        std::copy_n(dense.template const_data_ptr<A>(), count, all.begin());
      }
      return all;
    };
    const auto by = values(scale_of, given(scale_of) ? columns : 0, 1), w = values(weight_of, c, 1), b = values(bias_of, c, 0);
    scale.resize(by.size());
    for (int64_t k = 0; k < columns; ++k) {
      const double of_h = sums[k], of_product = sums[columns + k], factor = by.empty() ? 1.0 : by[k];
      bias[k % c] += of_h * factor, weight[k % c] += of_product * factor, alpha[k % c] += sums[2 * columns + k];
      if (!by.empty()) scale[k] = static_cast<A>(of_product * w[k % c] + of_h * b[k % c]);
    }
  }
};

}  // namespace ganfast
