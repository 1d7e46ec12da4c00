// Passes that also read a residual.
#include "wide_vectors.h"

#include "cpu_norm_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, Reads::added)
GANFAST_NORM_PASSES(double, Reads::added)
GANFAST_NORM_PASSES(at::BFloat16, Reads::added)
GANFAST_NORM_PASSES(at::Half, Reads::added)
}  // namespace ganfast
