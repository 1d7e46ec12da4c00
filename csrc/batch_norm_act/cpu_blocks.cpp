// Passes that read x and vectors alone.
#include "cpu_blocks_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, false)
GANFAST_NORM_PASSES(double, false)
GANFAST_NORM_PASSES(at::BFloat16, false)
GANFAST_NORM_PASSES(at::Half, false)
}  // namespace ganfast
