// Passes that also read tensors of x's shape.
#include "wide_vectors.h"

#include "cpu_norm_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, Reads::tensors)
GANFAST_NORM_PASSES(double, Reads::tensors)
GANFAST_NORM_PASSES(at::BFloat16, Reads::tensors)
GANFAST_NORM_PASSES(at::Half, Reads::tensors)
}  // namespace ganfast
