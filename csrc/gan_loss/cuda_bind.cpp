#include "gan_loss.h"

#include "../common/cuda_bind.h"

namespace ganfast {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gan_loss_fwd(const std::optional<at::Tensor>& real, const at::Tensor& fake, c10::string_view kind,
                                                                        bool generator, double smoothing) {
  const Place place(fake);
  GanLossShape shape{real ? real->numel() : 0, fake.numel(), GanLoss::minimax, generator, static_cast<float>(smoothing)};
  TORCH_INTERNAL_ASSERT(gan_loss_from_name(std::string(kind).c_str(), &shape.kind));
  at::Tensor loss = new_floats(fake, {}), stats = new_floats(fake, {5}), scratch = new_floats(fake, {gan_loss_fwd_scratch(shape)});
  at::Tensor greal = new_floats(fake, real ? real->sizes() : at::IntArrayRef{0}), gfake = new_floats(fake, fake.sizes());
  gan_loss_fwd_cuda(shape, dtype_of(fake), real ? real->const_data_ptr() : nullptr, fake.const_data_ptr(), loss.mutable_data_ptr<float>(),
                    greal.mutable_data_ptr<float>(), gfake.mutable_data_ptr<float>(), stats.mutable_data_ptr<float>(), scratch.mutable_data_ptr<float>(),
                    place.stream);
  return {loss, greal, gfake, stats};
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CUDA, m) { m.impl("gan_loss_fwd_native", &gan_loss_fwd); }

}  // namespace ganfast
