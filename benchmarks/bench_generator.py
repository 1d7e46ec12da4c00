"""Sampling: DCGAN-64's generator in eval mode, plain against accelerated."""

import pytest
import torch

import ganfast
from benchmarks.cases import GENERATOR
from benchmarks.rivals import DTYPES, INFERENCE, Subject
from ganfast.models.dcgan import DCGANGenerator


def generators(case) -> Subject:
    eager, fast = (DCGANGenerator(case.image_size, case.latent, case.width) for _ in range(2))
    z = torch.randn(case.batch, case.latent)
    with torch.no_grad():
        eager(z)  # running statistics other than those of a fresh norm
    fast.load_state_dict(eager.state_dict())
    return Subject(eager.eval(), ganfast.accelerate(fast).eval(), z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference(bench, dtype):
    row = {"op": "generator", "bytes": None, "flops": GENERATOR.flops()}
    bench.modules(generators, GENERATOR, dtype, INFERENCE, row, dims=2, tiny=GENERATOR.tiny(), max_autotune=True)
