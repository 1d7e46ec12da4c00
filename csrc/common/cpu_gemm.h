// The matrix product of the CPU kernels: oneDNN's, which on AVX-512 runs nearer the peak than at::mm does in float32
// (205 of 230 GFLOP/s against 170 on two cores, [512, 1024] x [1024, 4096]); at::mm where torch has no oneDNN for the dtype.
#pragma once
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/mm.h>

namespace ganfast {

// a [M, K] times the transpose of b [N, K] -> [M, N], contiguous, of a's dtype. oneDNN wants both dense: for rows cut out of a
// larger matrix it falls to its reference loops, a thousand times slower.
inline at::Tensor gemm_nt(const at::Tensor& a, const at::Tensor& b) {
  using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, c10::string_view,
                            c10::List<std::optional<at::Scalar>>, std::optional<c10::string_view>);
  static const auto linear = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  static const bool bfloat16 = [] {  // a processor without AVX-512 has no such kernels, and asking for one raises
    const auto supported = c10::Dispatcher::singleton().findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
    return supported && supported->typed<bool()>().call();
  }();
  const bool covered = a.scalar_type() == at::kFloat || (a.scalar_type() == at::kBFloat16 && bfloat16);
  if (!linear || !covered || !at::globalContext().userEnabledMkldnn()) return at::mm(a, b.t());
  return linear->typed<Linear>().call(a.contiguous(), b.t().is_contiguous() ? b : b.contiguous(), std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace ganfast
