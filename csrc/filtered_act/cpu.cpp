// filtered_act on a CPU: what the passes over lines and planes are asked, and what they give.
#include <torch/library.h>

#include "cpu_middle.h"

namespace ganfast {
namespace {

using Ints = at::IntArrayRef;

std::vector<int64_t> taps_of(const at::Tensor& filter, int64_t dims) {
  return filter.dim() == dims ? filter.sizes().vec() : std::vector<int64_t>(dims, filter.size(0));
}

// Sizes of the upsampled x and of y, as `maps.Shape` has them.
std::pair<std::vector<int64_t>, std::vector<int64_t>> sizes_of(const FilteredAct& f, Ints size) {
  std::vector<int64_t> middle(size.size()), out(size.size());
  const auto first = taps_of(f.up_filter, size.size()), second = taps_of(f.down_filter, size.size());
  for (size_t d = 0; d < size.size(); ++d) {
    middle[d] = size[d] * f.up[d] + f.before[d] + f.after[d] - first[d] + 1;
    out[d] = f.replicate ? middle[d] / f.down[d] : (middle[d] - second[d]) / f.down[d] + 1;
  }
  return {middle, out};
}

at::Tensor like(const at::Tensor& x, Ints size) {
  auto all = x.sizes().vec();
  std::copy(size.begin(), size.end(), all.begin() + 2);
  return at::empty(all, x.options().memory_format(at::MemoryFormat::Contiguous));
}

void run(const Arguments& all) { all.from.dim() == 3 ? filtered_act_lines(all) : filtered_act_planes(all); }

std::tuple<at::Tensor, at::Tensor> filtered_act_fwd_cpu(const at::Tensor& x, const at::Tensor& up_filter, const at::Tensor& down_filter, Ints up, Ints down,
                                                        Ints before, Ints after, bool flip, bool replicate, const MaybeTensor& bias, const MaybeTensor& alpha,
                                                        c10::string_view act, double alpha_value, double gain, std::optional<double> clamp, bool keep_signs) {
  const FilteredAct f{up_filter, down_filter, up, down, before, after, flip, replicate, bias, alpha, parse_act(act), alpha_value, gain, clamp};
  const auto [middle, out] = sizes_of(f, x.sizes().slice(2));
  auto y = like(x, out);
  auto bytes = middle;
  bytes.back() = (bytes.back() + 3) / 4;
  bytes.insert(bytes.begin(), {x.size(0), x.size(1)});
  const auto kind = x.options().dtype(at::kByte).memory_format(std::nullopt);
  const auto signs = keep_signs ? at::empty(bytes, kind) : at::empty({0}, kind);
  run({f, Pass::forward, false, x, y, nullptr, keep_signs ? &signs : nullptr, nullptr});
  return {y, signs};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> filtered_act_bwd_cpu(const at::Tensor& gy, const at::Tensor& x, const at::Tensor& up_filter,
                                                                    const at::Tensor& down_filter, Ints up, Ints down, Ints before, Ints after, bool flip,
                                                                    bool replicate, const MaybeTensor& bias, const MaybeTensor& alpha, c10::string_view act,
                                                                    double alpha_value, double gain, std::optional<double> clamp) {
  const FilteredAct f{up_filter, down_filter, up, down, before, after, flip, replicate, bias, alpha, parse_act(act), alpha_value, gain, clamp};
  auto gx = at::empty_like(x);
  std::array<std::vector<double>, 3> sums;
  run({f, Pass::backward, true, gy, gx, &x, nullptr, &sums});
  at::Tensor gbias, galpha;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, x.scalar_type(), "filtered_act_bwd_cpu", [&] {
    using A = Acc<scalar_t>;
    const int64_t c = x.size(1);
    const bool given = alpha && alpha->defined(), two = given && alpha->dim() == 2;
    auto both = sums[1];
    if (two) both.insert(both.end(), sums[2].begin(), sums[2].end());
    gbias = as_tensor<A>(sums[0].data(), c, x.options());
    galpha = as_tensor<A>(both.data(), given ? (two ? 2 * c : c) : 0, x.options());
    if (two) galpha = galpha.view({2, c});
  });
  return {gx, gbias, galpha};
}

at::Tensor filtered_act_linear_cpu(const at::Tensor& v, const at::Tensor& signs, const at::Tensor& up_filter, const at::Tensor& down_filter, Ints up, Ints down,
                                   Ints before, Ints after, bool flip, bool replicate, c10::string_view act, double alpha_value, double gain, bool transposed,
                                   Ints size) {
  const FilteredAct f{up_filter, down_filter, up, down, before, after, flip, replicate, {}, {}, parse_act(act), alpha_value, gain, {}};
  auto y = like(v, transposed ? size.vec() : sizes_of(f, size).second);
  run({f, Pass::linear, transposed, v, y, nullptr, &signs, nullptr});
  return y;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("filtered_act_fwd_native", filtered_act_fwd_cpu);
  m.impl("filtered_act_bwd_native", filtered_act_bwd_cpu);
  m.impl("filtered_act_linear_native", filtered_act_linear_cpu);
}

}  // namespace
}  // namespace ganfast
