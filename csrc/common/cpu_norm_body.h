// One block of each pass, and the passes; included where they are compiled.
#pragma once
#include "cpu_norm.h"

namespace ganfast {

template <class T, bool kLast, Reads kReads, class Tag>
void fwd_block(const Rows& rows, int64_t block, const T* x, const Vectors<Acc<T>>& v, const Beside<T>& beside, Tag act, T* y) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *scale = v.scale.data() + top + channel, *shift = v.shift.data() + top + channel, *alpha = v.alpha.data() + top + channel;
    const A mean0 = *mean, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
    if constexpr (kReads == Reads::tensors) {
      const T *by = beside.scale_at(at), *more = beside.shift_at(at), *first = beside.before_at(at), *after = beside.after_at(at);
      const A factor = beside.factor;
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const A z = (static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0)) * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0);
        const A value = act_fwd<A>(act, z * static_cast<A>(by[i]) + static_cast<A>(more[i]) + static_cast<A>(first[i]), kLast ? alpha[i] : alpha0);
        y[at + i] = narrow<T>((value + static_cast<A>(after[i])) * factor);
      }
    } else if constexpr (kReads == Reads::added) {
      const T* residual = (beside.before ? beside.before : beside.after) + at;
      const A factor = beside.factor;
      const auto run = [&](auto first) {
#pragma omp simd
        for (int64_t i = 0; i < length; ++i) {
          const A z = (static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0)) * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0);
          const A before = first ? static_cast<A>(residual[i]) : A(0), after = first ? A(0) : static_cast<A>(residual[i]);
          y[at + i] = narrow<T>((act_fwd<A>(act, z + before, kLast ? alpha[i] : alpha0) + after) * factor);
        }
      };
      beside.before ? run(std::true_type{}) : run(std::false_type{});
    } else if constexpr (kReads == Reads::slope) {
      const auto z_of = [&](int64_t i) { return (static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0)) * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0); };
      activate_run<T>(length, act, z_of, [&](int64_t i) { return kLast ? alpha[i] : alpha0; }, y + at, beside.slope + at);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const A value = static_cast<A>(x[at + i]);
        if constexpr (kLast) y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean[i]) * scale[i] + shift[i], alpha[i]));
        else y[at + i] = narrow<T>(act_fwd<A>(act, (value - mean0) * scale0 + shift0, alpha0));
      }
    }
  });
}

// sums [3, c] of the block's columns: h, h * xhat with h = gy * factor * f'(z') * scale, and with_alpha gy * factor * df/dalpha.
template <class T, bool kLast, Reads kReads, class Tag>
void reduce_block(const Rows& rows, int64_t block, const T* gy, const T* x, const Vectors<Acc<T>>& v, const Beside<T>& beside, Tag act, bool with_alpha, Acc<T>* sums) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *invstd = v.invstd.data() + top + channel, *scale = v.scale.data() + top + channel;
    const A *shift = v.shift.data() + top + channel, *alpha = v.alpha.data() + top + channel;
    constexpr bool kAdded = kReads == Reads::added;
    const T *by = kReads == Reads::tensors ? beside.scale_at(at) : nullptr, *more = kReads == Reads::tensors ? beside.shift_at(at) : nullptr;
    const T* first = kReads == Reads::tensors || kAdded ? beside.before_at(at) : nullptr;
    const T* slopes = beside.slope + at;
    T* kept = beside.kept + at;
    const A factor = beside.factor;
    A *bias_sum = sums + channel, *weight_sum = bias_sum + rows.c, *alpha_sum = weight_sum + rows.c;
    const A mean0 = *mean, invstd0 = *invstd, scale0 = *scale, shift0 = *shift, alpha0 = *alpha;
    A b = 0, w = 0, a = 0;
#pragma omp simd reduction(+ : b, w)
    for (int64_t i = 0; i < length; ++i) {
      const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
      A z = centred * (kLast ? scale[i] : scale0) + (kLast ? shift[i] : shift0), g = static_cast<A>(gy[at + i]);
      if constexpr (kReads == Reads::tensors) z = z * static_cast<A>(by[i]) + static_cast<A>(more[i]) + static_cast<A>(first[i]), g *= factor;
      if constexpr (kAdded) z += static_cast<A>(first[i]), g *= factor;
      if constexpr (kReads == Reads::slope) g *= static_cast<A>(slopes[i]);
      else g = act_bwd<A>(act, g, z, kLast ? alpha[i] : alpha0, false);
      if constexpr (kReads == Reads::kept || kAdded) kept[i] = narrow<T>(g);
      if constexpr (kReads == Reads::tensors) g *= static_cast<A>(by[i]);
      if constexpr (kLast) bias_sum[i] += g, weight_sum[i] += g * centred * invstd[i];
      else b += g, w += g * centred * invstd0;
    }
    if (with_alpha)
      for (int64_t i = 0; i < length; ++i) {
        const int64_t c = kLast ? i : 0;
        A z = (static_cast<A>(x[at + i]) - mean[c]) * scale[c] + shift[c], g = static_cast<A>(gy[at + i]);
        if constexpr (kReads == Reads::tensors) z = z * static_cast<A>(by[i]) + static_cast<A>(more[i]) + static_cast<A>(first[i]), g *= factor;
        if constexpr (kAdded) z += static_cast<A>(first[i]), g *= factor;
        const A term = act_alpha_bwd<A>(act, g, z, alpha[c]);
        if constexpr (kLast) alpha_sum[i] += term;
        else a += term;
      }
    if constexpr (!kLast) *bias_sum += b, *weight_sum += w, *alpha_sum += a;
  });
}

// gx = scale * h - offset - (x - mean) * slope, offset and slope one behind the other [2, columns]: what flows through the statistics,
// zeros in eval mode. With kFull also gscale = gy' * z and gshift = gy', gy' = gy * factor * f'(z').
template <class T, bool kLast, Reads kReads, class Tag>
void write_block(const Rows& rows, int64_t block, const T* gy, const T* x, const Vectors<Acc<T>>& v, const Beside<T>& beside, const Acc<T>* through, Tag act, T* gx) {
  using A = Acc<T>;
  const int64_t top = rows.first_column(block);
  visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
    const A *mean = v.mean.data() + top + channel, *scale = v.scale.data() + top + channel, *shift = v.shift.data() + top + channel;
    const A *alpha = v.alpha.data() + top + channel, *offset = through + top + channel, *slope = offset + rows.columns();
    const A mean0 = *mean, scale0 = *scale, shift0 = *shift, alpha0 = *alpha, offset0 = *offset, slope0 = *slope;
    if constexpr (kReads == Reads::tensors) {
      const T *by = beside.scale_at(at), *more = beside.shift_at(at), *first = beside.before_at(at);
      T *to_scale = beside.gscale ? beside.gscale + at : nullptr, *to_shift = beside.gshift ? beside.gshift + at : nullptr;
      const A factor = beside.factor;
      const auto run = [&](auto with_scale, auto with_shift) {
#pragma omp simd
        for (int64_t i = 0; i < length; ++i) {
          const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0), s = kLast ? scale[i] : scale0;
          const A z = centred * s + (kLast ? shift[i] : shift0), factored = static_cast<A>(gy[at + i]) * factor;
          const A g = act_bwd<A>(act, factored, z * static_cast<A>(by[i]) + static_cast<A>(more[i]) + static_cast<A>(first[i]), kLast ? alpha[i] : alpha0, false);
          if constexpr (with_scale) to_scale[i] = narrow<T>(g * z);
          if constexpr (with_shift) to_shift[i] = narrow<T>(g);
          gx[at + i] = narrow<T>(s * (g * static_cast<A>(by[i])) - (kLast ? offset[i] : offset0) - centred * (kLast ? slope[i] : slope0));
        }
      };
      using Yes = std::true_type;
      using No = std::false_type;
      if (to_scale) to_shift ? run(Yes{}, Yes{}) : run(Yes{}, No{});
      else to_shift ? run(No{}, Yes{}) : run(No{}, No{});
    } else {
      const T *slopes = beside.slope + at, *kept = beside.kept + at;
#pragma omp simd
      for (int64_t i = 0; i < length; ++i) {
        const A s = kLast ? scale[i] : scale0;
        const A centred = static_cast<A>(x[at + i]) - (kLast ? mean[i] : mean0);
        constexpr bool kKept = kReads == Reads::kept || kReads == Reads::added;
        A g = static_cast<A>(kKept ? kept[i] : gy[at + i]);
        if constexpr (kKept) {
        } else if constexpr (kReads == Reads::slope) g *= static_cast<A>(slopes[i]);
        else g = act_bwd<A>(act, g, centred * s + (kLast ? shift[i] : shift0), kLast ? alpha[i] : alpha0, false);
        gx[at + i] = narrow<T>(s * g - (kLast ? offset[i] : offset0) - centred * (kLast ? slope[i] : slope0));
      }
    }
  });
}

template <class T, Reads kReads> void normalise(const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, Act act, T* y) {
  with_act(act, [&](auto tag) {
    each_block(rows, [&](int64_t b) {
      rows.channels_last ? fwd_block<T, true, kReads>(rows, b, x, v, beside, tag, y) : fwd_block<T, false, kReads>(rows, b, x, v, beside, tag, y);
    });
  });
}

template <class T, Reads kReads>
std::vector<Acc<T>> backward_sums(const T* gy, const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, Act act, bool with_alpha) {
  std::vector<Acc<T>> sums;
  with_act(act, [&](auto tag) {
    sums = reduce_blocks<Acc<T>>(rows, 3, [&](int64_t b, Acc<T>* into) {
      rows.channels_last ? reduce_block<T, true, kReads>(rows, b, gy, x, v, beside, tag, with_alpha, into)
                         : reduce_block<T, false, kReads>(rows, b, gy, x, v, beside, tag, with_alpha, into);
    });
  });
  return sums;
}

template <class T, Reads kReads>
void write_gradient(const T* gy, const T* x, const Rows& rows, const Vectors<Acc<T>>& v, const Beside<T>& beside, const std::vector<Acc<T>>& through, Act act, T* gx) {
  with_act(act, [&](auto tag) {
    each_block(rows, [&](int64_t b) {
      rows.channels_last ? write_block<T, true, kReads>(rows, b, gy, x, v, beside, through.data(), tag, gx)
                         : write_block<T, false, kReads>(rows, b, gy, x, v, beside, through.data(), tag, gx);
    });
  });
}

// The passes of one element type.
#define GANFAST_NORM_PASSES(T, kReads)                                                                                              \
  template void normalise<T, kReads>(const T*, const Rows&, const Vectors<Acc<T>>&, const Beside<T>&, Act, T*);                       \
  template std::vector<Acc<T>> backward_sums<T, kReads>(const T*, const T*, const Rows&, const Vectors<Acc<T>>&, const Beside<T>&, Act, bool); \
  template void write_gradient<T, kReads>(const T*, const T*, const Rows&, const Vectors<Acc<T>>&, const Beside<T>&, const std::vector<Acc<T>>&, Act, T*);

}  // namespace ganfast
