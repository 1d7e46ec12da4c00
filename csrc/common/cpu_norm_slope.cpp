// Passes that write and read the activation's slope.
#include "cpu_norm_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, Reads::slope)
GANFAST_NORM_PASSES(double, Reads::slope)
GANFAST_NORM_PASSES(at::BFloat16, Reads::slope)
GANFAST_NORM_PASSES(at::Half, Reads::slope)
}  // namespace ganfast
