import pytest

from tests.families.oracle import same_noise


@pytest.fixture(autouse=True)
def noise_of_every_dtype():
    """The same numbers in every dtype."""
    with same_noise():
        yield
