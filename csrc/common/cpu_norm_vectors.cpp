// Passes that read x and vectors alone.
#include "wide_vectors.h"

#include "cpu_norm_body.h"

namespace ganfast {
GANFAST_NORM_PASSES(float, Reads::vectors)
GANFAST_NORM_PASSES(double, Reads::vectors)
GANFAST_NORM_PASSES(at::BFloat16, Reads::vectors)
GANFAST_NORM_PASSES(at::Half, Reads::vectors)
}  // namespace ganfast
