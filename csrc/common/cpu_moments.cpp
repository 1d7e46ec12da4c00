// moments_native: what an epilogue of ours would have given, for convolutions that ran elsewhere.
#include "wide_vectors.h"

#include "cpu_moments.h"

#include <torch/library.h>

namespace ganfast {
namespace {

at::Tensor moments_cpu(const at::Tensor& x, bool channels_last) {
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "moments_cpu", [&] {
    const auto sum = moments<scalar_t>(x.const_data_ptr<scalar_t>(), Rows::spread_out(x, channels_last));
    out = as_tensor<Acc<scalar_t>>(sum.data(), sum.size(), x.options()).view({1, 3, x.size(1)});
  });
  return out;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("moments_native", moments_cpu); }

}  // namespace
}  // namespace ganfast
