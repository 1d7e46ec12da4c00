// moments_native: what an epilogue of ours would have given, for convolutions that ran elsewhere.
#include "cpu_moments.h"

#include <torch/library.h>

namespace ganfast {
namespace {

at::Tensor moments_cpu(const at::Tensor& x, bool channels_last) {
  at::Tensor out;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "moments_cpu", [&] {
    out = moments<scalar_t>(x.const_data_ptr<scalar_t>(), Rows(x, channels_last), x.options());
  });
  return out;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("moments_native", moments_cpu); }

}  // namespace
}  // namespace ganfast
