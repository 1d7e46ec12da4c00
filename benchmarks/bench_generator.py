"""Sampling: DCGAN-64's generator in eval mode, eager modules against fused ones."""

import pytest
import torch

from benchmarks.cases import GENERATOR
from benchmarks.rivals import DTYPES, INFERENCE, Subject
from ganfast.models.dcgan import DCGANGenerator


def _generators(case) -> Subject:
    eager, fused = (DCGANGenerator(case.image_size, case.latent, case.width, fused=f) for f in (False, True))
    z = torch.randn(case.batch, case.latent)
    with torch.no_grad():
        eager(z)  # running statistics other than those of a fresh norm
    fused.load_state_dict(eager.state_dict())
    return Subject(eager.eval(), fused.eval(), z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inference(bench, dtype):
    row = {"op": "generator", "bytes": None, "flops": GENERATOR.flops()}
    bench.modules(_generators, GENERATOR, dtype, INFERENCE, row, dims=2, tiny=GENERATOR.tiny(), max_autotune=True)
