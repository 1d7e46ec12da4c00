import pytest
import torch


@pytest.fixture(autouse=True)
def noise_of_every_dtype(request, monkeypatch):
    """torch draws other numbers in float64 than in float32; here every dtype gets the same ones, rounded. A trace takes only
    torch's own function."""
    if request.node.name.startswith("test_finds_the_chains"):
        return
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.empty_like(x, dtype=torch.float64).normal_().to(x.dtype))
