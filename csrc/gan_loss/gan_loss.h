// Launch signature of gan_loss's CUDA kernel: raw device pointers, sizes, a stream.
#pragma once
#include <cstring>

#include "../common/launch.h"

namespace ganfast {

enum class GanLoss : int { minimax, nonsaturating, hinge, lsgan, wasserstein, relativistic, relativistic_average };

inline bool gan_loss_from_name(const char* name, GanLoss* kind) {
  const char* const names[] = {"minimax", "nonsaturating", "hinge", "lsgan", "wasserstein", "relativistic", "relativistic_average"};
  for (int i = 0; i < 7; ++i)
    if (std::strcmp(name, names[i]) == 0) return *kind = static_cast<GanLoss>(i), true;
  return false;
}

struct GanLossShape {
  int64_t n_real, n_fake;  // n_real is 0 without real logits; relativistic needs both equal
  GanLoss kind;
  bool generator;
  float smoothing;  // the real target is 1 - smoothing; read by the discriminator of minimax, nonsaturating, lsgan
};

// Floats of scratch; 0 where one block does everything.
int64_t gan_loss_fwd_scratch(const GanLossShape& shape);

//   real [n_real] or null, fake [n_fake], of `dtype`     loss  float32 [1]
//   greal [n_real] or null, gfake [n_fake]: float32, d loss / d logit
//   stats float32 [5]: share of real above t, share of fake below t (t = 0, lsgan 0.5), mean real, mean fake, mean sign(real)
void gan_loss_fwd_cuda(const GanLossShape& shape, Dtype dtype, const void* real, const void* fake, float* loss, float* greal, float* gfake,
                       float* stats, float* scratch, cudaStream_t stream);

}  // namespace ganfast
