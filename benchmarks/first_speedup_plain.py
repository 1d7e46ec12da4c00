"""A DCGAN in plain PyTorch, after PyTorch's own tutorial: where `docs/first-speedup.md` begins."""

import torch
import torch.nn.functional as F
from torch import nn

w, batch, device = 32, 64, "cuda" if torch.cuda.is_available() else "cpu"
up = lambda a, b, *s: (nn.ConvTranspose2d(a, b, 4, *s, bias=False), nn.BatchNorm2d(b), nn.ReLU(True))
down = lambda a, b: (nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(0.2, True))
ups = *up(100, 8 * w), *up(8 * w, 4 * w, 2, 1), *up(4 * w, 2 * w, 2, 1), *up(2 * w, w, 2, 1)
downs = nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2, True), *down(w, 2 * w), *down(2 * w, 4 * w), *down(4 * w, 8 * w)
generator = nn.Sequential(*ups, nn.ConvTranspose2d(w, 3, 4, 2, 1), nn.Tanh()).to(device)
discriminator = nn.Sequential(*downs, nn.Conv2d(8 * w, 1, 4)).to(device)
opt_g, opt_d = (torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (generator, discriminator))
loss = lambda logits: F.softplus(-logits.float()).mean()  # -log sigmoid(logits): cross entropy with the label "real"


def step(real):
    fake = generator(torch.randn(len(real), 100, 1, 1, device=device))
    loss_d = loss(discriminator(real)) + loss(-discriminator(fake.detach()))
    opt_d.zero_grad()
    loss_d.backward()
    opt_d.step()
    loss_g = loss(discriminator(fake))
    opt_g.zero_grad()
    loss_g.backward()
    opt_g.step()
    return loss_d, loss_g


losses = step(torch.rand(batch, 3, 64, 64, device=device) * 2 - 1)  # your images, in [-1, 1]
