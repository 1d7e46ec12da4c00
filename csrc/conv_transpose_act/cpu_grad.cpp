// CPU backward: the activation's derivative with its channel sums in one pass, and the two linear gradients as GEMMs
// over patches of gz (an im2col at the forward's stride).
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cstring>

#include "../common/cpu_rows.h"
#include "cpu_geometry.h"

namespace ganfast {
namespace {

constexpr int64_t kPatchBytes = 64 << 20;  // patches of that many images at a time

template <class T, bool kLast> void bwd_block(const Rows& rows, int64_t block, const T* gy, const T* saved, const Acc<T>* alphas, Acc<T> alpha_value,
                                              Act act, bool from_y, T* gz, Acc<T>* sums) {
  using A = Acc<T>;
  A *bias_sum = sums, *alpha_sum = sums + rows.c;
  with_act(act, [&](auto tag) {
    visit_block<kLast>(rows, block, [&](int64_t at, int64_t length, int64_t channel) {
      A total = 0, alpha_total = 0;
      const A plane_alpha = alphas ? alphas[channel] : alpha_value;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < length; ++i) {
        const A alpha = kLast && alphas ? alphas[i] : plane_alpha;
        const A g = static_cast<A>(gy[at + i]) * act_grad<A>(tag, static_cast<A>(saved[at + i]), alpha, from_y);
        gz[at + i] = narrow<T>(g);
        if constexpr (kLast) bias_sum[i] += g;
        else total += g;
      }
      if (alphas)
        for (int64_t i = 0; i < length; ++i) {
          const A term = static_cast<A>(gy[at + i]) * act_alpha_grad<A>(tag, static_cast<A>(saved[at + i]), alphas[kLast ? i : channel]);
          if constexpr (kLast) alpha_sum[i] += term;
          else alpha_total += term;
        }
      if constexpr (!kLast) bias_sum[channel] += total, alpha_sum[channel] += alpha_total;
    });
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> conv_transpose_act_bwd_cpu(
    const at::Tensor& gy, const at::Tensor& saved, const std::optional<at::Tensor>& alpha, c10::string_view act, double alpha_value, bool from_y, bool channels_last) {
  auto gz = at::empty_like(gy);
  const Rows rows(gy, channels_last);
  at::Tensor gbias, galpha;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gy.scalar_type(), "conv_transpose_act_bwd_cpu", [&] {
    using A = Acc<scalar_t>;
    const A* alphas = optional_ptr<A>(alpha);
    const auto options = gy.options().dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt);
    const Act kind = parse_act(act);
    const auto sums = reduce_blocks<A>(rows, 2, [&](int64_t block, A* into) {
      auto run = channels_last ? bwd_block<scalar_t, true> : bwd_block<scalar_t, false>;
      run(rows, block, gy.const_data_ptr<scalar_t>(), saved.const_data_ptr<scalar_t>(), alphas, alpha_value, kind, from_y, gz.data_ptr<scalar_t>(), into);
    });
    gbias = at::empty({rows.c}, options);
    std::memcpy(gbias.data_ptr<A>(), sums.data(), rows.c * sizeof(A));
    galpha = at::empty({alphas ? rows.c : 0}, options);
    if (alphas) std::memcpy(galpha.data_ptr<A>(), sums.data() + rows.c, rows.c * sizeof(A));
  });
  return {gz, gbias, galpha};
}

// Patches [images * P_in, K * Cg] of gz [N, P_out, Cout] for `images` from `first` on, one group of channels.
template <class T> void patches(const Geometry& g, const T* gz, int64_t first, int64_t images, int64_t group, T* out) {
  const int64_t cg = g.c_out_group(), wide = g.taps() * cg;
  at::parallel_for(0, images * g.in[0] * g.in[1], std::max<int64_t>(1, 16384 / (g.in[2] * wide)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t n = r / (g.in[0] * g.in[1]), i0 = r / g.in[1] % g.in[0], i1 = r % g.in[1];
      const T* image = gz + (first + n) * g.pixels_out() * g.c_out + group * cg;
      T* into = out + r * g.in[2] * wide;
      for (int64_t i2 = 0; i2 < g.in[2]; ++i2)
        for (int64_t k0 = 0; k0 < g.k[0]; ++k0)
          for (int64_t k1 = 0; k1 < g.k[1]; ++k1) {
            const int64_t o0 = i0 * g.stride[0] - g.pad[0] + g.dil[0] * k0, o1 = i1 * g.stride[1] - g.pad[1] + g.dil[1] * k1;
            const bool inside = o0 >= 0 && o0 < g.out[0] && o1 >= 0 && o1 < g.out[1];
            const int64_t o2 = i2 * g.stride[2] - g.pad[2];
            const T* from = image + (o0 * g.out[1] + o1) * g.out[2] * g.c_out;
            if (inside && g.groups == 1 && g.dil[2] == 1 && o2 >= 0 && o2 + g.k[2] <= g.out[2]) {
              std::memcpy(into, from + o2 * g.c_out, g.k[2] * cg * sizeof(T));
              into += g.k[2] * cg;
              continue;
            }
            for (int64_t k2 = 0; k2 < g.k[2]; ++k2, into += cg) {
              const int64_t o = o2 + g.dil[2] * k2;
              if (inside && o >= 0 && o < g.out[2]) std::memcpy(into, from + o * g.c_out, cg * sizeof(T));
              else std::memset(into, 0, cg * sizeof(T));
            }
          }
    }
  });
}

// One pixel in: gz is its own patches, and both gradients are one GEMM in the weight's layout, [.., Cout * K] or [.., K * Cout].
at::Tensor as_weight(const at::Tensor& t, const at::Tensor& weight) {
  const auto last = t.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  const auto dense = t.contiguous(weight.is_contiguous() ? at::MemoryFormat::Contiguous : last);
  const int64_t rows = t.size(0), wide = t.numel() / rows;
  return dense.as_strided({rows, wide}, {wide, 1});
}

at::Tensor pixels_last(const at::Tensor& t) { return t.flatten(2).transpose(1, 2).contiguous(); }  // [N, P, C]; free if channels_last

// Runs gemm(patches [images * P_in, K * Cg], first image, images, group) over the batch.
template <class Gemm> void over_patches(const Geometry& g, const at::Tensor& gz_last, Gemm gemm) {
  const int64_t wide = g.taps() * g.c_out_group();
  const int64_t per = std::min(g.n, std::max<int64_t>(1, kPatchBytes / (g.pixels_in() * wide * gz_last.element_size())));
  const auto buffer = at::empty({per * g.pixels_in(), wide}, gz_last.options());
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t first = 0; first < g.n; first += per) {
      const int64_t images = std::min(per, g.n - first);
      AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gz_last.scalar_type(), "conv_transpose_act_patches", [&] {
        patches<scalar_t>(g, gz_last.const_data_ptr<scalar_t>(), first, images, group, buffer.data_ptr<scalar_t>());
      });
      gemm(buffer.narrow(0, 0, images * g.pixels_in()), first, images, group);
    }
}

at::Tensor conv_transpose_act_data_grad_cpu(const at::Tensor& gz, const at::Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding,
                                            at::IntArrayRef dilation, int64_t groups, at::IntArrayRef input_size, bool channels_last) {
  const Geometry g(gz.size(0), input_size, gz.sizes().slice(2), weight, stride, padding, dilation, groups);
  if (g.one_gemm()) {
    auto gx = at::mm(as_weight(gz, weight), as_weight(weight, weight).t());
    std::vector<int64_t> pixel(weight.dim(), 1);
    pixel[0] = g.n, pixel[1] = g.c_in;
    return gx.view(pixel);
  }
  const auto w = pixels_last(weight).view({g.c_in, g.taps() * g.c_out_group()});
  auto rows = at::empty({g.n * g.pixels_in(), g.c_in}, gz.options().memory_format(std::nullopt));
  over_patches(g, pixels_last(gz), [&](const at::Tensor& patch, int64_t first, int64_t images, int64_t group) {
    auto out = rows.narrow(0, first * g.pixels_in(), images * g.pixels_in()).narrow(1, group * g.c_in_group(), g.c_in_group());
    at::mm_out(out, patch, w.narrow(0, group * g.c_in_group(), g.c_in_group()).t());
  });
  std::vector<int64_t> size{g.n, g.c_in};
  size.insert(size.end(), input_size.begin(), input_size.end());
  const auto gx = rows.view({g.n, g.pixels_in(), g.c_in}).transpose(1, 2).view(size);
  if (!channels_last) return gx.contiguous();
  return gx.contiguous(gz.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast);
}

at::Tensor conv_transpose_act_weight_grad_cpu(const at::Tensor& gz, const at::Tensor& x, const at::Tensor& weight_like, at::IntArrayRef stride,
                                              at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool) {
  const Geometry g(gz.size(0), x.sizes().slice(2), gz.sizes().slice(2), weight_like, stride, padding, dilation, groups);
  if (g.one_gemm()) {
    auto gweight = at::empty_like(weight_like);
    auto flat = as_weight(gweight, weight_like);
    at::mm_out(flat, x.reshape({g.n, g.c_in}).t(), as_weight(gz, weight_like));
    return gweight;
  }
  const auto rows = pixels_last(x).view({g.n * g.pixels_in(), g.c_in});
  // Chunks are added in float32: bf16 sums over thousands of pixels would lose what the GEMM kept.
  const bool one_chunk = kPatchBytes / (g.pixels_in() * g.taps() * g.c_out_group() * gz.element_size()) >= g.n;
  const auto acc = gz.scalar_type() == at::kDouble || one_chunk ? gz.scalar_type() : at::kFloat;
  auto flat = at::empty({g.c_in, g.taps() * g.c_out_group()}, gz.options().memory_format(std::nullopt).dtype(acc));
  over_patches(g, pixels_last(gz), [&](const at::Tensor& patch, int64_t first, int64_t images, int64_t group) {
    auto out = flat.narrow(0, group * g.c_in_group(), g.c_in_group());
    const auto left = rows.narrow(0, first * g.pixels_in(), images * g.pixels_in()).narrow(1, group * g.c_in_group(), g.c_in_group()).t();
    if (first == 0 && acc == gz.scalar_type()) at::mm_out(out, left, patch);
    else if (first == 0) out.copy_(at::mm(left, patch));
    else out.add_(at::mm(left, patch));
  });
  auto gweight = at::empty_like(weight_like);
  std::vector<int64_t> size{g.c_in};
  for (int64_t d = 2; d < weight_like.dim(); ++d) size.push_back(weight_like.size(d));
  size.push_back(g.c_out_group());
  return gweight.copy_(flat.view(size).movedim(-1, 1));
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("conv_transpose_act_bwd_native", conv_transpose_act_bwd_cpu);
  m.impl("conv_transpose_act_data_grad_native", conv_transpose_act_data_grad_cpu);
  m.impl("conv_transpose_act_weight_grad_native", conv_transpose_act_weight_grad_cpu);
}

}  // namespace
}  // namespace ganfast
