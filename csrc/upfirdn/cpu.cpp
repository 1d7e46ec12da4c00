// CPU upfirdn: rows of the result, each by itself (common/cpu_fir_row.h).
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include "../common/cpu_fir_row.h"

namespace ganfast {
namespace {

// x [N, C, L] or [N, C, H, W]; filter [taps], of 2-D x along both dimensions, or [h, w].
at::Tensor upfirdn_fwd_cpu(const at::Tensor& x, const at::Tensor& filter, at::IntArrayRef up, at::IntArrayRef down, at::IntArrayRef before, at::IntArrayRef after,
                           bool flip, double gain, bool channels_last) {
  const bool flat = x.dim() == 3;
  const int64_t d = flat ? 0 : 1, n = x.size(0), c = x.size(1), along = filter.size(-1), over = flat ? 1 : filter.size(0);
  const auto result = [](int64_t in, int64_t up, int64_t down, int64_t pad, int64_t taps) { return (in * up + pad - taps) / down + 1; };
  const int64_t w = x.size(-1), h = flat ? 1 : x.size(2);
  const Line columns{w, result(w, up[d], down[d], before[d] + after[d], along), along, up[d], down[d], before[d]};
  const Line rows = flat ? Line{1, 1, 1, 1, 1, 0} : Line{h, result(h, up[0], down[0], before[0] + after[0], over), over, up[0], down[0], before[0]};
  auto size = x.sizes().vec();
  size.back() = columns.out;
  if (!flat) size[2] = rows.out;
  auto y = at::empty(size, x.options().memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  Filter weights = weights_of(filter, flip, gain);
  if (flat && weights.separable()) weights.down.assign(1, 1.0);
  const int64_t channels = channels_last ? c : 1, planes = channels_last ? n : n * c;
  const int64_t width = w * channels, made = columns.out * channels;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "upfirdn_fwd_cpu", [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    scalar_t* to = y.data_ptr<scalar_t>();
    at::parallel_for(0, planes * rows.out, std::max<int64_t>(1, 32768 / std::max(width, made)), [&](int64_t begin, int64_t end) {
      Run<scalar_t> run(rows, columns, weights, channels);
      for (int64_t r = begin; r < end; ++r) {
        if (r % rows.out == 0) run.forget();
        run.row(from + r / rows.out * h * width, r % rows.out, to + r * made);
      }
    });
  });
  return y;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("upfirdn_fwd_native", upfirdn_fwd_cpu); }

}  // namespace
}  // namespace ganfast
