import contextlib

import pytest

from tests.families.oracle import same_noise


@pytest.fixture(autouse=True)
def noise_of_every_dtype(request):
    """The same numbers in every dtype; where chains are looked for the trace must meet torch's own function."""
    with contextlib.nullcontext() if request.node.name.startswith("test_finds_the_chains") else same_noise():
        yield
