import pytest
import torch


@pytest.fixture(autouse=True)
def noise_of_every_dtype(monkeypatch):
    """torch draws other numbers in float64 than in float32; here every dtype gets the same ones, rounded."""
    monkeypatch.setattr(torch, "randn_like", lambda x: torch.empty_like(x, dtype=torch.float64).normal_().to(x.dtype))
