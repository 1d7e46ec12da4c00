// CPU backward: the two linear gradients as GEMMs over patches of gz (an im2col at the forward's stride).
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cstring>

#include "../common/cpu_gemm.h"
#include "cpu_geometry.h"

namespace ganfast {
namespace {

constexpr int64_t kPatchBytes = 16 << 20;  // patches made at a time; glibc maps larger buffers anew, a page fault every 4 KiB

// Patches [images * P_in, taps * Cg] of gz [N, P_out, Cout]: `images` from `first` on, kernel rows (k0, k1) of `rows`, one
// group of channels.
struct KernelRows { int64_t begin, end; };  // of k[0] * k[1]; each has k[2] taps
template <class T> void patches(const Geometry& g, const T* gz, int64_t first, int64_t images, KernelRows rows, int64_t group, T* out) {
  const int64_t cg = g.c_out_group(), wide = (rows.end - rows.begin) * g.k[2] * cg;
  at::parallel_for(0, images * g.in[0] * g.in[1], std::max<int64_t>(1, 16384 / (g.in[2] * wide)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t n = r / (g.in[0] * g.in[1]), i0 = r / g.in[1] % g.in[0], i1 = r % g.in[1];
      const T* image = gz + (first + n) * g.pixels_out() * g.c_out + group * cg;
      T* into = out + r * g.in[2] * wide;
      for (int64_t i2 = 0; i2 < g.in[2]; ++i2)
        for (int64_t row = rows.begin; row < rows.end; ++row) {
          const int64_t o0 = i0 * g.stride[0] - g.pad[0] + g.dil[0] * (row / g.k[1]), o1 = i1 * g.stride[1] - g.pad[1] + g.dil[1] * (row % g.k[1]);
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

// Runs gemm(patches, first image, images, kernel rows, group) over the batch; `split_rows` where the kernel's rows may be
// taken one after the other, which keeps the sum over all pixels in one GEMM.
template <class Gemm> void over_patches(const Geometry& g, const at::Tensor& gz_last, bool split_rows, Gemm gemm) {
  const int64_t all_rows = g.k[0] * g.k[1], row_bytes = g.pixels_in() * g.k[2] * g.c_out_group() * gz_last.element_size();  // an image's
  const int64_t images_a_time = std::min(g.n, std::max<int64_t>(1, kPatchBytes / (split_rows ? row_bytes : row_bytes * all_rows)));
  const int64_t rows_a_time = split_rows ? std::min(all_rows, std::max<int64_t>(1, kPatchBytes / (row_bytes * images_a_time))) : all_rows;
  const auto buffer = at::empty({images_a_time * row_bytes * rows_a_time / static_cast<int64_t>(gz_last.element_size())}, gz_last.options());
  for (int64_t group = 0; group < g.groups; ++group)
    for (int64_t first = 0; first < g.n; first += images_a_time)
      for (int64_t row = 0; row < all_rows; row += rows_a_time) {
        const int64_t images = std::min(images_a_time, g.n - first);
        const KernelRows rows{row, std::min(all_rows, row + rows_a_time)};
        const int64_t height = images * g.pixels_in(), wide = (rows.end - rows.begin) * g.k[2] * g.c_out_group();
        AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, gz_last.scalar_type(), "conv_transpose_act_patches", [&] {
          patches<scalar_t>(g, gz_last.const_data_ptr<scalar_t>(), first, images, rows, group, buffer.data_ptr<scalar_t>());
        });
        gemm(buffer.narrow(0, 0, height * wide).view({height, wide}), first, images, rows, group);
      }
}

at::Tensor conv_transpose_act_data_grad_cpu(const at::Tensor& gz, const at::Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding,
                                            at::IntArrayRef dilation, int64_t groups, at::IntArrayRef input_size, bool channels_last) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Geometry g(gz.size(0), input_size, gz.sizes().slice(2), weight, stride, padding, dilation, groups);
  if (g.one_gemm()) {
    std::vector<int64_t> pixel(weight.dim(), 1);
    pixel[0] = g.n, pixel[1] = g.c_in;
    return gemm_nt(as_weight(gz, weight), as_weight(weight, weight)).view(pixel);
  }
  const auto w = pixels_last(weight).view({g.c_in, g.taps() * g.c_out_group()});
  auto rows = at::empty({g.n * g.pixels_in(), g.c_in}, gz.options().memory_format(std::nullopt));
  over_patches(g, pixels_last(gz), false, [&](const at::Tensor& patch, int64_t first, int64_t images, KernelRows, int64_t group) {
    auto out = rows.narrow(0, first * g.pixels_in(), images * g.pixels_in()).narrow(1, group * g.c_in_group(), g.c_in_group());
    const auto product = gemm_nt(patch, w.narrow(0, group * g.c_in_group(), g.c_in_group()));
    product.sizes() == rows.sizes() ? void(rows = product) : void(out.copy_(product));
  });
  std::vector<int64_t> size{g.n};
  size.insert(size.end(), input_size.begin(), input_size.end());
  size.push_back(g.c_in);
  const auto gx = rows.view(size).movedim(-1, 1);  // with the strides of channels_last, of one image too: by them torch tells formats apart
  if (!channels_last) return gx.contiguous();
  return gx.contiguous(gz.dim() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast);
}

at::Tensor conv_transpose_act_weight_grad_cpu(const at::Tensor& gz, const at::Tensor& x, const at::Tensor& weight_like, at::IntArrayRef stride,
                                              at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, bool) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Geometry g(gz.size(0), x.sizes().slice(2), gz.sizes().slice(2), weight_like, stride, padding, dilation, groups);
  if (g.one_gemm()) {
    const auto flat = gemm_nt(x.reshape({g.n, g.c_in}).t().contiguous(), as_weight(gz, weight_like).t());
    return flat.as_strided(weight_like.sizes(), weight_like.strides());
  }
  const auto columns = x.transpose(0, 1).contiguous().view({g.c_in, g.n * g.pixels_in()});
  at::Tensor flat;
  over_patches(g, pixels_last(gz), true, [&](const at::Tensor& patch, int64_t first, int64_t images, KernelRows rows, int64_t group) {
    const auto left = columns.narrow(0, group * g.c_in_group(), g.c_in_group()).narrow(1, first * g.pixels_in(), images * g.pixels_in());
    const auto product = gemm_nt(left, patch.t());
    const int64_t wide = g.taps() * g.c_out_group(), from = rows.begin * g.k[2] * g.c_out_group();
    if (images == g.n && product.size(0) == g.c_in && product.size(1) == wide) return void(flat = product);
    // Images in turns are added in float32: bf16 sums over thousands of pixels would lose what the GEMM kept.
    const auto acc = gz.scalar_type() == at::kDouble || images == g.n ? gz.scalar_type() : at::kFloat;
    if (!flat.defined()) flat = at::empty({g.c_in, wide}, gz.options().memory_format(std::nullopt).dtype(acc));
    auto out = flat.narrow(0, group * g.c_in_group(), g.c_in_group()).narrow(1, from, product.size(1));
    first == 0 ? out.copy_(product) : out.add_(product);
  });
  std::vector<int64_t> size{g.c_in};
  for (int64_t d = 2; d < weight_like.dim(); ++d) size.push_back(weight_like.size(d));
  size.push_back(g.c_out_group());
  const auto gweight = flat.view(size).movedim(-1, 1).to(weight_like.scalar_type());
  if (gweight.strides() == weight_like.strides()) return gweight;
  return at::empty_like(weight_like).copy_(gweight);
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("conv_transpose_act_data_grad_native", conv_transpose_act_data_grad_cpu);
  m.impl("conv_transpose_act_weight_grad_native", conv_transpose_act_weight_grad_cpu);
}

}  // namespace
}  // namespace ganfast
