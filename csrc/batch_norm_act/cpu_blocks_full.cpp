// Passes that also read tensors of x's shape.
#include "cpu_blocks_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, true)
GANFAST_NORM_PASSES(double, true)
GANFAST_NORM_PASSES(at::BFloat16, true)
GANFAST_NORM_PASSES(at::Half, true)
}  // namespace ganfast
