// Passes that write and read the activation's slope, and those that keep g where gx will be, of types that hold it as it is.
#include "wide_vectors.h"

#include "cpu_norm_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(at::BFloat16, Reads::slope)
GANFAST_NORM_PASSES(at::Half, Reads::slope)
GANFAST_NORM_PASSES(float, Reads::kept)
GANFAST_NORM_PASSES(double, Reads::kept)
}  // namespace ganfast
