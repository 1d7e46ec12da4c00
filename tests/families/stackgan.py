"""StackGAN-like text to image (Zhang et al. 2017): conditioning augmentation, gated linear units, two stages."""

import torch
from torch import nn

from tests.families.family import Family, Groups, Real, numbered

GF_DIM = 8
DF_DIM = 8
EMBEDDING_DIM = 10
TEXT_DIM = 24
Z_DIM = 6


def conv3x3(in_planes, out_planes, stride=1):
    return nn.Conv2d(in_planes, out_planes, kernel_size=3, stride=stride, padding=1, bias=False)


class GLU(nn.Module):
    def forward(self, x):
        nc = x.size(1)
        assert nc % 2 == 0, "channels dont divide 2!"
        nc = int(nc / 2)
        return x[:, :nc] * torch.sigmoid(x[:, nc:])


def upBlock(in_planes, out_planes):
    block = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv3x3(in_planes, out_planes),
        nn.BatchNorm2d(out_planes),
        nn.ReLU(True),
    )
    return block


def gatedUpBlock(in_planes, out_planes):
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        conv3x3(in_planes, out_planes * 2),
        nn.BatchNorm2d(out_planes * 2),
        GLU(),
    )


class ResBlock(nn.Module):
    def __init__(self, channel_num):
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channel_num, channel_num),
            nn.BatchNorm2d(channel_num),
            nn.ReLU(True),
            conv3x3(channel_num, channel_num),
            nn.BatchNorm2d(channel_num),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        residual = x
        out = self.block(x)
        out += residual
        out = self.relu(out)
        return out


class CA_NET(nn.Module):
    def __init__(self, t_dim=TEXT_DIM, c_dim=EMBEDDING_DIM):
        super().__init__()
        self.t_dim = t_dim
        self.c_dim = c_dim
        self.fc = nn.Linear(self.t_dim, self.c_dim * 2, bias=True)
        self.relu = nn.ReLU()

    def encode(self, text_embedding):
        x = self.relu(self.fc(text_embedding))
        mu = x[:, : self.c_dim]
        logvar = x[:, self.c_dim :]
        return mu, logvar

    def reparametrize(self, mu, logvar):
        std = logvar.mul(0.5).exp_()
        eps = torch.randn_like(std)
        return eps.mul(std).add_(mu)

    def forward(self, text_embedding):
        mu, logvar = self.encode(text_embedding)
        c_code = self.reparametrize(mu, logvar)
        return c_code, mu, logvar


class STAGE1_G(nn.Module):
    def __init__(self, up=upBlock, gf_dim=GF_DIM, t_dim=TEXT_DIM, c_dim=EMBEDDING_DIM, z_dim=Z_DIM):
        super().__init__()
        self.gf_dim = gf_dim * 4
        ngf = self.gf_dim
        self.ca_net = CA_NET(t_dim, c_dim)
        self.fc = nn.Sequential(
            nn.Linear(z_dim + c_dim, ngf * 4 * 4, bias=False),
            nn.BatchNorm1d(ngf * 4 * 4),
            nn.ReLU(True),
        )
        self.upsample1 = up(ngf, ngf // 2)
        self.upsample2 = up(ngf // 2, ngf // 4)
        self.img = nn.Sequential(conv3x3(ngf // 4, 3), nn.Tanh())

    def forward(self, text_embedding, noise):
        c_code, mu, logvar = self.ca_net(text_embedding)
        z_c_code = torch.cat((noise, c_code), 1)
        h_code = self.fc(z_c_code)
        h_code = h_code.view(-1, self.gf_dim, 4, 4)
        h_code = self.upsample1(h_code)
        h_code = self.upsample2(h_code)
        fake_img = self.img(h_code)
        return None, fake_img, mu, logvar


class STAGE2_G(nn.Module):
    def __init__(self, STAGE1_G):
        super().__init__()
        self.gf_dim = GF_DIM
        self.STAGE1_G = STAGE1_G
        for param in self.STAGE1_G.parameters():
            param.requires_grad = False
        ngf = self.gf_dim
        self.ca_net = CA_NET()
        self.encoder = nn.Sequential(
            conv3x3(3, ngf),
            nn.ReLU(True),
            nn.Conv2d(ngf, ngf * 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf * 2),
            nn.ReLU(True),
        )
        self.hr_joint = nn.Sequential(conv3x3(EMBEDDING_DIM + ngf * 2, ngf * 2), nn.BatchNorm2d(ngf * 2), nn.ReLU(True))
        layers = []
        for _ in range(2):
            layers.append(ResBlock(ngf * 2))
        self.residual = nn.Sequential(*layers)
        self.upsample1 = upBlock(ngf * 2, ngf)
        self.img = nn.Sequential(conv3x3(ngf, 3), nn.Tanh())

    def forward(self, text_embedding, noise):
        _, stage1_img, _, _ = self.STAGE1_G(text_embedding, noise)
        stage1_img = stage1_img.detach()
        encoded_img = self.encoder(stage1_img)
        c_code, mu, logvar = self.ca_net(text_embedding)
        c_code = c_code.view(-1, EMBEDDING_DIM, 1, 1)
        c_code = c_code.repeat(1, 1, 8, 8)
        i_c_code = torch.cat([encoded_img, c_code], 1)
        h_code = self.hr_joint(i_c_code)
        h_code = self.residual(h_code)
        h_code = self.upsample1(h_code)
        fake_img = self.img(h_code)
        return stage1_img, fake_img, mu, logvar


class D_GET_LOGITS(nn.Module):
    def __init__(self, ndf, nef, bcondition=True):
        super().__init__()
        self.df_dim, self.ef_dim, self.bcondition = ndf, nef, bcondition
        if bcondition:
            self.outlogits = nn.Sequential(
                conv3x3(ndf * 4 + nef, ndf * 4),
                nn.BatchNorm2d(ndf * 4),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(ndf * 4, 1, kernel_size=4, stride=4),
                nn.Sigmoid(),
            )
        else:
            self.outlogits = nn.Sequential(nn.Conv2d(ndf * 4, 1, kernel_size=4, stride=4), nn.Sigmoid())

    def forward(self, h_code, c_code=None):
        if self.bcondition and c_code is not None:
            c_code = c_code.view(-1, self.ef_dim, 1, 1)
            c_code = c_code.repeat(1, 1, 4, 4)
            h_c_code = torch.cat((h_code, c_code), 1)
        else:
            h_c_code = h_code
        output = self.outlogits(h_c_code)
        return output.view(-1)


class STAGE1_D(nn.Module):
    """Conditional and unconditional verdicts on the same features."""

    def __init__(self):
        super().__init__()
        ndf, nef = DF_DIM, EMBEDDING_DIM
        self.encode_img = nn.Sequential(
            nn.Conv2d(3, ndf, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 4, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ndf * 4),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.get_cond_logits = D_GET_LOGITS(ndf, nef)
        self.get_uncond_logits = D_GET_LOGITS(ndf, nef, bcondition=False)

    def forward(self, image, c_code):
        image_embedding = self.encode_img(image)
        return self.get_cond_logits(image_embedding, c_code), self.get_uncond_logits(image_embedding)


def stage1_groups(path: str = "", gated: bool = False) -> Groups:
    """A gated linear unit reads its norm's output twice: the group ends with the norm."""
    block = "0 1 2" if gated else "0 1 2 3"
    groups = [*numbered("fc", "1 2"), *numbered("upsample1", block), *numbered("upsample2", block), *numbered("img", "0 1")]
    return [tuple(path + part for part in group) for group in groups]


text_and_noise = lambda batch: (torch.randn(batch, TEXT_DIM), torch.randn(batch, Z_DIM))

_STAGE2 = [
    *numbered("encoder", "0 1", "2 3 4"),
    *numbered("hr_joint", "0 1 2"),
    *(group for i in range(2) for group in numbered(f"residual.{i}", "block.0 block.1 block.2", "block.3 block.4 add() relu")),
    *numbered("upsample1", "0 1 2 3"),
    *numbered("img", "0 1"),
]

ROWS = [
    Family(
        "stackgan-stage1-g",
        STAGE1_G,
        text_and_noise,
        stage1_groups(),
        real=Real(
            lambda: STAGE1_G(gf_dim=128, t_dim=1024, c_dim=128, z_dim=100),
            lambda n: (torch.randn(n, 1024), torch.randn(n, 100)),
            8,
            "StackGAN (Zhang et al. 2017), stage 1: 1024 text features, 512 to 128 channels; 16x16, there 64x64, batch 64",
        ),
    ).with_small(4),
    Family("stackgan-gated-g", lambda: STAGE1_G(gatedUpBlock), text_and_noise, stage1_groups(gated=True)),
    Family("stackgan-stage2-g", lambda: STAGE2_G(STAGE1_G()), text_and_noise, [*stage1_groups("STAGE1_G."), *_STAGE2]),
    Family(
        "stackgan-stage1-d",
        STAGE1_D,
        lambda n: (torch.rand(n, 3, 16, 16) * 2 - 1, torch.randn(n, EMBEDDING_DIM)),
        [
            *numbered("encode_img", "0 1", "2 3 4"),
            *numbered("get_cond_logits.outlogits", "0 1 2", "3 4"),
            ("get_uncond_logits.outlogits.0", "get_uncond_logits.outlogits.1"),
        ],
    ),
]
