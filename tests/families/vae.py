"""Variational autoencoders (Kingma & Welling 2014) as convolutional networks, whose decoders are generators."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.families.family import Family, Real, images, noise, numbered


class VanillaVAE(nn.Module):
    def __init__(self, in_channels=3, latent_dim=8, hidden_dims=None):
        super().__init__()
        self.latent_dim = latent_dim
        modules = []
        if hidden_dims is None:
            hidden_dims = [8, 16, 32]
        for h_dim in hidden_dims:
            modules.append(
                nn.Sequential(
                    nn.Conv2d(in_channels, out_channels=h_dim, kernel_size=3, stride=2, padding=1),
                    nn.BatchNorm2d(h_dim),
                    nn.LeakyReLU(),
                )
            )
            in_channels = h_dim
        self.encoder = nn.Sequential(*modules)
        self.fc_mu = nn.Linear(hidden_dims[-1] * 4, latent_dim)
        self.fc_var = nn.Linear(hidden_dims[-1] * 4, latent_dim)

        modules = []
        self.decoder_input = nn.Linear(latent_dim, hidden_dims[-1] * 4)
        self.last = hidden_dims[-1]
        hidden_dims = hidden_dims[::-1]
        for i in range(len(hidden_dims) - 1):
            modules.append(
                nn.Sequential(
                    nn.ConvTranspose2d(hidden_dims[i], hidden_dims[i + 1], kernel_size=3, stride=2, padding=1, output_padding=1),
                    nn.BatchNorm2d(hidden_dims[i + 1]),
                    nn.LeakyReLU(),
                )
            )
        self.decoder = nn.Sequential(*modules)
        self.final_layer = nn.Sequential(
            nn.ConvTranspose2d(hidden_dims[-1], hidden_dims[-1], kernel_size=3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(hidden_dims[-1]),
            nn.LeakyReLU(),
            nn.Conv2d(hidden_dims[-1], out_channels=3, kernel_size=3, padding=1),
            nn.Tanh(),
        )

    def encode(self, input):
        result = self.encoder(input)
        result = torch.flatten(result, start_dim=1)
        return [self.fc_mu(result), self.fc_var(result)]

    def decode(self, z):
        result = self.decoder_input(z)
        result = result.view(-1, self.last, 2, 2)
        result = self.decoder(result)
        return self.final_layer(result)

    def reparameterize(self, mu, logvar):
        std = torch.exp(0.5 * logvar)
        eps = torch.randn_like(std)
        return eps * std + mu

    def forward(self, input):
        mu, log_var = self.encode(input)
        z = self.reparameterize(mu, log_var)
        return [self.decode(z), input, mu, log_var]


class Decoder(nn.Module):
    def __init__(self, latent_dim=8, base_channel_size=8, num_input_channels=1, act_fn=nn.GELU):
        super().__init__()
        c_hid = base_channel_size
        self.linear = nn.Sequential(nn.Linear(latent_dim, 2 * 16 * c_hid), act_fn())
        self.net = nn.Sequential(
            nn.Unflatten(1, (-1, 4, 4)),
            nn.ConvTranspose2d(2 * c_hid, 2 * c_hid, kernel_size=3, output_padding=1, padding=1, stride=2),
            act_fn(),
            nn.Conv2d(2 * c_hid, 2 * c_hid, kernel_size=3, padding=1),
            act_fn(),
            nn.ConvTranspose2d(2 * c_hid, c_hid, kernel_size=3, output_padding=1, padding=1, stride=2),
            act_fn(),
            nn.Conv2d(c_hid, c_hid, kernel_size=3, padding="same"),
            nn.BatchNorm2d(c_hid, affine=False, momentum=None),
            act_fn(),
            nn.ConvTranspose2d(c_hid, num_input_channels, kernel_size=3, output_padding=1, padding=1, stride=2),
            nn.Tanh(),
        )

    def forward(self, x):
        return self.net(self.linear(x))


class SmallVAE(nn.Module):
    """Everything in forward, activations as functions; in evaluation the mean is decoded."""

    def __init__(self, z_dim=6):
        super().__init__()
        self.enc1 = nn.Conv2d(1, 8, 4, 2, 1)
        self.enc2 = nn.Conv2d(8, 16, 4, 2, 1)
        self.enc_bn = nn.BatchNorm2d(16, track_running_stats=False)
        self.fc = nn.Linear(16 * 16, 2 * z_dim)
        self.defc = nn.Linear(z_dim, 16 * 16)
        self.dec2 = nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.dec1 = nn.ConvTranspose2d(8, 1, 4, 2, 1)

    def forward(self, x):
        h = F.elu(self.enc1(x))
        h = F.silu(self.enc_bn(self.enc2(h)))
        mu, logvar = self.fc(h.view(h.size(0), -1)).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(logvar / 2)
        h = F.relu(self.defc(z)).view(-1, 16, 4, 4)
        h = F.softplus(self.dec2(h))
        return torch.sigmoid(self.dec1(h)), mu, logvar


ROWS = [
    Family(
        "vae",
        VanillaVAE,
        images(3, 16, 16),
        [
            *numbered("encoder", *(f"{i}.0 {i}.1 {i}.2" for i in range(3))),
            *numbered("decoder", "0.0 0.1 0.2", "1.0 1.1 1.2"),
            *numbered("final_layer", "0 1 2", "3 4"),
        ],
        real=Real(
            lambda: VanillaVAE(latent_dim=128, hidden_dims=[32, 64, 128, 256, 512]),
            images(3, 64, 64),
            8,
            "PyTorch-VAE's vae.yaml: 128 latents, 32 to 512 channels, 64x64; batch 64 there",
        ),
    ).with_small(4),
    # In training its norm without a momentum reads how many batches it has counted, which breaks the graph: these are evaluation's.
    Family("vae-decoder", Decoder, noise(8), numbered("net", "1 2", "3 4", "5 6", "7 8 9", "10 11")),
    Family(
        "vae-functional",
        SmallVAE,
        images(1, 16, 16),
        [("enc1", "elu()"), ("enc2", "enc_bn", "silu()"), ("dec2", "softplus()"), ("dec1", "sigmoid()")],
    ),
]
