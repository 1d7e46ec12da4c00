"""The autoencoder of diffusers, where that package is: trained against a discriminator, and accelerated."""

import pytest
import torch
import torch.nn.functional as F

import ganfast
from ganfast.models.cyclegan import PatchDiscriminator
from ganfast.train import Network, TrainConfig, Trainer, autoencoding
from ganfast.train.reconstruction.given import reconstructed

models = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl", reason="diffusers is not installed")


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    how = {"block_out_channels": (32, 64), "norm_num_groups": 8, "layers_per_block": 1, "latent_channels": 4, "sample_size": 32}
    return models.AutoencoderKL(**blocks, **how)


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=pytest.mark.prove)])
def test_it_is_trained_with_its_divergence_and_both_learn(fused):
    autoencoder, judge, rows = small(), PatchDiscriminator(3, 8, 2), []
    before = [[p.detach().clone() for p in network.parameters()] for network in (autoencoder, judge)]
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    c = TrainConfig(steps=3, batch_size=2, loss="hinge", precision="fp32", fused=fused, log_every=1)
    unseen = Network(autoencoder, sampled=False)  # drawing 64 samples a line would be most of the test's time
    trainer = Trainer(unseen, judge, x, c, objective=autoencoding(c, start=2), callbacks=[lambda _, row: rows.append(row)])
    trainer.fit(progress_bar=False)
    assert all(row["kl"] > 0 for row in rows) and [row.get("adaptive_weight", 0) > 0 for row in rows] == [False, True, True]
    for network, old in zip((autoencoder, judge), before, strict=True):
        assert all(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
    if fused:
        return
    assert trainer.sample(2).shape == (2, 3, 32, 32)
    posterior = autoencoder.eval().encode(trainer.reals(2)).latent_dist
    torch.testing.assert_close(reconstructed(autoencoder, trainer.reals(2))[1]["kl"], posterior.kl().mean())


def test_a_codebooks_loss_comes_along():
    vq = pytest.importorskip("diffusers.models.autoencoders.vq_model")
    model = vq.VQModel(block_out_channels=(32,), norm_num_groups=8, num_vq_embeddings=16, mid_block_add_attention=False)
    x = torch.randn(1, 3, 8, 8)
    made, losses = reconstructed(model, x)
    assert made.shape == x.shape and losses.keys() == {"codebook"} and torch.equal(losses["codebook"], model(x).commit_loss)


def test_accelerated_it_gives_what_it_gave():
    x = torch.randn(2, 3, 32, 32)
    found = []
    for accelerated in (False, True):
        autoencoder = small().eval()
        if accelerated:
            ganfast.accelerate(autoencoder)
        y, z = autoencoder(x).sample, autoencoder.encode(x).latent_dist.mean
        gradients = torch.autograd.grad(F.mse_loss(y, x), list(autoencoder.parameters()), allow_unused=True)
        found.append((y, z, torch.cat([g.flatten() for g in gradients if g is not None])))
    with_silu = [g.layers for g in ganfast.explain(autoencoder).groups if any("norm" in layer for layer in g.layers) and len(g.layers) > 1]
    assert with_silu, ganfast.explain(autoencoder)
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())
