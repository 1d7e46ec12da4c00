"""Layers of real networks, each with its source. Widths, kernel, stride and padding are the published ones, the batch that of the
paper's or its repository's training run; `cpu_batch` is a smaller one for a CPU (0: GPU only), `gpu_batches` others for a GPU."""

from benchmarks.case_types import (
    BiasCase,
    BlockCase,
    ConvCase,
    ConvTransposeCase,
    GatherCase,
    LossCase,
    NetworkCase,
    NormCase,
    UpsampleCase,
    WeightsCase,
)
from benchmarks.norm_cases import GroupNormCase, ModulatedCase

_DCGAN = "Radford et al. 2016, generator for 64x64, width 64, batch 64"
_DCGAN128 = "Radford et al. 2016, one level more for 128x128, width 64, batch 64"
_WGAN_GP = "Gulrajani et al. 2017, CIFAR-10 generator, width 128, kernel 5 with TensorFlow's SAME padding, batch 64"
_PIX2PIX = "Isola et al. 2017, U-Net decoder for 256x256, input joined with the skip, batch 1"
_CYCLEGAN = "Zhu et al. 2017, ResNet generator for 256x256, batch 1; its instance norm apart"
_SRGAN = "Ledig et al. 2017, x4 generator on 24x24 crops, batch 16"
_SUBPIXEL = _SRGAN + "; 3x3 to 256 channels + PixelShuffle 2 as the transposed convolution it equals (Shi et al. 2016, 1609.07009)"
_CONTEXT = "Pathak et al. 2016, context encoder: bottleneck of 4000 to 4x4, batch 64; the layers after it are dcgan64-2 to -rgb"
_HIFIGAN = "Kong et al. 2020, HiFi-GAN V1, segments of 8192 samples (32 frames), batch 16; no activation follows directly"
_3DGAN = "Wu et al. 2016, 3D-GAN for 64x64x64 voxels, batch 100"

CONV_TRANSPOSE = [
    ConvTransposeCase("dcgan64-1", 64, 100, 512, (1, 1), 4, 1, 0, True, "relu", _DCGAN),
    ConvTransposeCase("dcgan64-2", 64, 512, 256, (4, 4), 4, 2, 1, True, "relu", _DCGAN, gpu_batches=(64, 1024)),
    ConvTransposeCase("dcgan64-3", 64, 256, 128, (8, 8), 4, 2, 1, True, "relu", _DCGAN, gpu_batches=(64, 1024)),
    ConvTransposeCase("dcgan64-4", 64, 128, 64, (16, 16), 4, 2, 1, True, "relu", _DCGAN, gpu_batches=(64, 1024)),
    ConvTransposeCase("dcgan64-rgb", 64, 64, 3, (32, 32), 4, 2, 1, False, "tanh", _DCGAN, gpu_batches=(64, 1024)),
    ConvTransposeCase("dcgan128-1", 64, 100, 1024, (1, 1), 4, 1, 0, True, "relu", _DCGAN128, cpu_batch=0),
    ConvTransposeCase("dcgan128-2", 64, 1024, 512, (4, 4), 4, 2, 1, True, "relu", _DCGAN128, cpu_batch=8, gpu_batches=(64, 256)),
    ConvTransposeCase("dcgan128-3", 64, 512, 256, (8, 8), 4, 2, 1, True, "relu", _DCGAN128, cpu_batch=0, gpu_batches=(64, 256)),
    ConvTransposeCase("dcgan128-4", 64, 256, 128, (16, 16), 4, 2, 1, True, "relu", _DCGAN128, cpu_batch=0, gpu_batches=(64, 256)),
    ConvTransposeCase("dcgan128-5", 64, 128, 64, (32, 32), 4, 2, 1, True, "relu", _DCGAN128, cpu_batch=8),
    ConvTransposeCase("dcgan128-rgb", 64, 64, 3, (64, 64), 4, 2, 1, False, "tanh", _DCGAN128, cpu_batch=8),
    ConvTransposeCase("wgan-gp-1", 64, 512, 256, (4, 4), 5, 2, 2, True, "relu", _WGAN_GP, 1, cpu_batch=16),
    ConvTransposeCase("wgan-gp-2", 64, 256, 128, (8, 8), 5, 2, 2, True, "relu", _WGAN_GP, 1, cpu_batch=16),
    ConvTransposeCase("wgan-gp-rgb", 64, 128, 3, (16, 16), 5, 2, 2, False, "tanh", _WGAN_GP, 1),
    ConvTransposeCase("pix2pix-1", 1, 512, 512, (1, 1), 4, 2, 1, True, "relu", _PIX2PIX, gpu_batches=(1, 16)),
    ConvTransposeCase("pix2pix-2", 1, 1024, 512, (2, 2), 4, 2, 1, True, "relu", _PIX2PIX, cpu_batch=0, gpu_batches=(1, 16)),
    ConvTransposeCase("pix2pix-3", 1, 1024, 512, (4, 4), 4, 2, 1, True, "relu", _PIX2PIX, cpu_batch=0, gpu_batches=(1, 16)),
    ConvTransposeCase("pix2pix-4", 1, 1024, 512, (8, 8), 4, 2, 1, True, "relu", _PIX2PIX, gpu_batches=(1, 16)),
    ConvTransposeCase("pix2pix-5", 1, 1024, 256, (16, 16), 4, 2, 1, True, "relu", _PIX2PIX, gpu_batches=(1, 16, 64)),
    ConvTransposeCase("pix2pix-6", 1, 512, 128, (32, 32), 4, 2, 1, True, "relu", _PIX2PIX, cpu_batch=0, gpu_batches=(1, 16, 64)),
    ConvTransposeCase("pix2pix-7", 1, 256, 64, (64, 64), 4, 2, 1, True, "relu", _PIX2PIX, gpu_batches=(1, 16)),
    ConvTransposeCase("pix2pix-rgb", 1, 128, 3, (128, 128), 4, 2, 1, False, "tanh", _PIX2PIX, gpu_batches=(1, 16)),
    ConvTransposeCase("cyclegan-1", 1, 256, 128, (64, 64), 3, 2, 1, False, "relu", _CYCLEGAN, 1, gpu_batches=(1, 16)),
    ConvTransposeCase("cyclegan-2", 1, 128, 64, (128, 128), 3, 2, 1, False, "relu", _CYCLEGAN, 1, gpu_batches=(1, 16)),
    ConvTransposeCase("srgan-up", 16, 64, 64, (24, 24), 6, 2, 2, False, "prelu", _SUBPIXEL, cpu_batch=4),
    ConvTransposeCase("context-encoder-1", 64, 4000, 512, (1, 1), 4, 1, 0, True, "relu", _CONTEXT, cpu_batch=16),
    ConvTransposeCase("hifigan-1", 16, 512, 256, (32,), 16, 8, 4, False, "linear", _HIFIGAN, cpu_batch=4),
    ConvTransposeCase("hifigan-2", 16, 256, 128, (256,), 16, 8, 4, False, "linear", _HIFIGAN, cpu_batch=4),
    ConvTransposeCase("hifigan-3", 16, 128, 64, (2048,), 4, 2, 1, False, "linear", _HIFIGAN, cpu_batch=4),
    ConvTransposeCase("hifigan-4", 16, 64, 32, (4096,), 4, 2, 1, False, "linear", _HIFIGAN, cpu_batch=4),
    ConvTransposeCase("3dgan-1", 100, 200, 512, (1, 1, 1), 4, 1, 0, True, "relu", _3DGAN, cpu_batch=8),
    ConvTransposeCase("3dgan-2", 100, 512, 256, (4, 4, 4), 4, 2, 1, True, "relu", _3DGAN, cpu_batch=2),
    ConvTransposeCase("3dgan-3", 100, 256, 128, (8, 8, 8), 4, 2, 1, True, "relu", _3DGAN, cpu_batch=1),
    ConvTransposeCase("3dgan-4", 100, 128, 64, (16, 16, 16), 4, 2, 1, True, "relu", _3DGAN, cpu_batch=1, gpu_batches=(16,)),
    ConvTransposeCase("3dgan-voxels", 100, 64, 1, (32, 32, 32), 4, 2, 1, False, "sigmoid", _3DGAN, cpu_batch=1, gpu_batches=(16,)),
]
# Convolution, batch norm and activation as one: the paper's blocks, with the norm's statistics taken from the convolution.
CHAIN = [case for case in CONV_TRANSPOSE if case.name.startswith("dcgan64") and case.norm]

_WGAN_RESNET = "Gulrajani et al. 2017, 64x64 ResNet generator, width 64: UpsampleConv, batch 64"
_SNGAN = "Miyato et al. 2018, 32x32 ResNet generator, 256 channels, generator's batch 128; norm and ReLU stand before it"
_STYLEGAN2 = "Karras et al. 2020, config F's x2 convolution at this resolution, batch 32; nearest for its filter, no modulation"
UPSAMPLE = [
    UpsampleCase("wgan-gp-res1", 64, 512, 512, (4, 4), "linear", _WGAN_RESNET, cpu_batch=8),
    UpsampleCase("wgan-gp-res2", 64, 512, 256, (8, 8), "linear", _WGAN_RESNET, cpu_batch=0),
    UpsampleCase("wgan-gp-res3", 64, 256, 128, (16, 16), "linear", _WGAN_RESNET, cpu_batch=0),
    UpsampleCase("wgan-gp-res4", 64, 128, 64, (32, 32), "linear", _WGAN_RESNET, cpu_batch=8),
    UpsampleCase("sngan32-1", 128, 256, 256, (4, 4), "linear", _SNGAN, cpu_batch=32),
    UpsampleCase("sngan32-2", 128, 256, 256, (8, 8), "linear", _SNGAN, cpu_batch=8),
    UpsampleCase("sngan32-3", 128, 256, 256, (16, 16), "linear", _SNGAN, cpu_batch=4),
    UpsampleCase("stylegan2-8", 32, 512, 512, (4, 4), "leaky_relu", _STYLEGAN2, cpu_batch=1, gpu_batches=(1, 16)),
    UpsampleCase("stylegan2-16", 32, 512, 512, (8, 8), "leaky_relu", _STYLEGAN2, cpu_batch=1, gpu_batches=(1, 16)),
    UpsampleCase("stylegan2-32", 32, 512, 512, (16, 16), "leaky_relu", _STYLEGAN2, cpu_batch=1, gpu_batches=(1, 16)),
    UpsampleCase("stylegan2-64", 32, 512, 512, (32, 32), "leaky_relu", _STYLEGAN2, cpu_batch=0, gpu_batches=(1, 16)),
    UpsampleCase("stylegan2-128", 32, 512, 256, (64, 64), "leaky_relu", _STYLEGAN2, cpu_batch=0, gpu_batches=(1, 16)),
    UpsampleCase("stylegan2-256", 32, 256, 128, (128, 128), "leaky_relu", _STYLEGAN2, cpu_batch=0, gpu_batches=(1, 16)),
]

_DOWN = "Radford et al. 2016, discriminator for 64x64, width 64, batch 64, slope 0.2; without norm, as a gradient penalty wants it"
_R3GAN = "Huang et al. 2024, R3GAN for CIFAR-10: 768 channels, a block's 3x3 in groups of 16 of its 1536, batch 512, slope 0.2"
_RESNEXT = "Xie et al. 2017, ResNeXt-50 32x4d, the first stage's 3x3: groups of 4 of 128 channels, batch 256; batch norm left out"
_ENCODER = "Isola et al. 2017, U-Net encoder for 256x256, batch 1, slope 0.2; norm left out"
_VQGAN = "Esser et al. 2021 (and Rombach et al. 2022), autoencoder's ResnetBlock: second convolution + x"
_R3GAN_LAST = "Huang et al. 2024, R3GAN's block for CIFAR-10 at 16 pixels: last 1x1 convolution, of 2 * 768 channels, + x; no bias there"
_EDSR = "Lim et al. 2017, EDSR baseline's block: second convolution + x, 48x48 crops, batch 16"
CONV = [
    ConvCase("dcgan64-conv1", 64, 3, 64, (64, 64), 4, 2, 1, "leaky_relu", _DOWN, gpu_batches=(64, 512)),
    ConvCase("dcgan64-conv2", 64, 64, 128, (32, 32), 4, 2, 1, "leaky_relu", _DOWN, gpu_batches=(64, 512)),
    ConvCase("dcgan64-conv3", 64, 128, 256, (16, 16), 4, 2, 1, "leaky_relu", _DOWN, gpu_batches=(64, 512)),
    ConvCase("dcgan64-conv4", 64, 256, 512, (8, 8), 4, 2, 1, "leaky_relu", _DOWN, gpu_batches=(64, 512)),
    ConvCase("dcgan64-conv5", 64, 512, 1, (4, 4), 4, 1, 0, "linear", _DOWN, gpu_batches=(64, 512)),
    ConvCase("pix2pix-down1", 1, 3, 64, (256, 256), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down2", 1, 64, 128, (128, 128), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down3", 1, 128, 256, (64, 64), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down4", 1, 256, 512, (32, 32), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down5", 1, 512, 512, (16, 16), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down7", 1, 512, 512, (4, 4), 4, 2, 1, "leaky_relu", _ENCODER),
    ConvCase("pix2pix-down8", 1, 512, 512, (2, 2), 4, 2, 1, "relu", _ENCODER),
    ConvCase("r3gan-groups32", 512, 1536, 1536, (32, 32), 3, 1, 1, "leaky_relu", _R3GAN, 96, cpu_batch=4, gpu_batches=(64,)),
    ConvCase("r3gan-groups8", 512, 1536, 1536, (8, 8), 3, 1, 1, "leaky_relu", _R3GAN, 96, cpu_batch=32),
    ConvCase("resnext-groups", 256, 128, 128, (56, 56), 3, 1, 1, "relu", _RESNEXT, 32, cpu_batch=8),
    ConvCase("vqgan-block", 4, 128, 128, (64, 64), 3, 1, 1, "linear", _VQGAN, cpu_batch=2, residual=True),
    ConvCase("r3gan-projection", 64, 1536, 768, (16, 16), 1, 1, 0, "linear", _R3GAN_LAST, cpu_batch=4, residual=True),
    ConvCase("edsr-block", 16, 64, 64, (48, 48), 3, 1, 1, "linear", _EDSR, cpu_batch=8, residual=True),
]

BLOCK = [
    BlockCase("r3gan-block32", 512, 768, 1536, 96, (32, 32), _R3GAN, cpu_batch=1, gpu_batches=(64,)),
    BlockCase("r3gan-block8", 512, 768, 1536, 96, (8, 8), _R3GAN, cpu_batch=16),
]

_DCGAN_D = "Radford et al. 2016, discriminator for 64x64, slope 0.2"
NORM = [
    NormCase("dcgan64-bn1", 64, 512, (4, 4), "relu", _DCGAN),
    NormCase("dcgan64-bn2", 64, 256, (8, 8), "relu", _DCGAN),
    NormCase("dcgan64-bn3", 64, 128, (16, 16), "relu", _DCGAN),
    NormCase("dcgan64-bn4", 64, 64, (32, 32), "relu", _DCGAN, gpu_batches=(64, 512)),
    NormCase("dcgan64-d2", 64, 128, (16, 16), "leaky_relu", _DCGAN_D, gpu_batches=(64, 512)),
    NormCase("sngan32-bn", 128, 256, (32, 32), "relu", "Miyato et al. 2018, before the last convolution, batch 128", cpu_batch=8),
    NormCase("srgan-block", 16, 64, (24, 24), "prelu", _SRGAN + ", residual blocks", gpu_batches=(16, 1024)),
    NormCase(
        "srgan-d", 16, 64, (48, 48), "leaky_relu", "Ledig et al. 2017, discriminator's second layer, slope 0.2", gpu_batches=(16, 1024)
    ),
    NormCase("pix2pix-bn7", 1, 64, (128, 128), "relu", _PIX2PIX, gpu_batches=(1, 64)),
]
# Instance norms. CycleGAN's stand after its 7x7, its second strided and its residual convolutions, and its first transposed one.
_CYCLEGAN_IN = "Zhu et al. 2017, ResNet generator for 256x256, batch 1"
INSTANCE_NORM = [
    NormCase("cyclegan-in1", 1, 64, (256, 256), "relu", _CYCLEGAN_IN, gpu_batches=(1, 16)),
    NormCase("cyclegan-in2", 1, 128, (128, 128), "relu", _CYCLEGAN_IN, gpu_batches=(1, 16)),
    NormCase("cyclegan-block", 1, 256, (64, 64), "relu", _CYCLEGAN_IN, gpu_batches=(1, 16)),
    NormCase("cyclegan-d", 1, 128, (64, 64), "leaky_relu", "Zhu et al. 2017, 70x70 PatchGAN's second layer, slope 0.2, batch 1"),
    NormCase("pix2pix-in7", 16, 512, (2, 2), "relu", "Isola et al. 2017, U-Net's innermost norm with instance statistics, batch 16"),
]

_VQGAN_GN = "Esser et al. 2021, VQGAN's decoder (Rombach et al. 2022's with factor 4) for 64x64 images, group norm + swish of a level"
GROUP_NORM = [
    GroupNormCase("vqgan-gn64", 8, 128, (64, 64), 32, "silu", _VQGAN_GN, cpu_batch=4, gpu_batches=(8, 64)),
    GroupNormCase("vqgan-gn32", 8, 256, (32, 32), 32, "silu", _VQGAN_GN, gpu_batches=(8, 64)),
    GroupNormCase("vqgan-gn16", 8, 512, (16, 16), 32, "silu", _VQGAN_GN, gpu_batches=(8, 64)),
    GroupNormCase(
        "ldm-gn256", 1, 128, (256, 256), 32, "silu", "Rombach et al. 2022, last level at 256x256, batch 1", gpu_batches=(1, 8)
    ),
    GroupNormCase(
        "adm-agn32", 16, 256, (32, 32), 32, "silu", "Dhariwal & Nichol 2021, adaptive group norm at 32x32 for 64x64 images", cpu_batch=4,
        gpu_batches=(16,), embedding=True,
    ),
    GroupNormCase("vitgan-ln", 65_536, 384, (), 1, "linear", "Lee et al. 2022, ViTGAN: 256 tokens of 384, batch 256", cpu_batch=4096),
]  # fmt: skip
MODULATED = [
    ModulatedCase(
        "biggan-cbn", 64, 384, (32, 32), "batch", "vectors", "relu", "Brock et al. 2019, 128x128, width 96: at 32x32",
        cpu_batch=4, gpu_batches=(64,),
    ),
    ModulatedCase(
        "munit-adain", 1, 256, (64, 64), "instance", "vectors", "relu", "Huang et al. 2018, MUNIT's decoder for 256x256: AdaIN, batch 1",
        gpu_batches=(1, 16),
    ),
    ModulatedCase(
        "spade-64", 4, 256, (64, 64), "batch", "maps", "leaky_relu", "Park et al. 2019, generator at 64x64 (64x128), slope 0.2",
        cpu_batch=1, gpu_batches=(4, 16),
    ),
    ModulatedCase(
        "resnet-sum", 64, 256, (8, 8), "batch", "residual", "relu", "He et al. 2016, at 8x8: norm + shortcut, ReLU, batch 64",
        gpu_batches=(64, 512),
    ),
]  # fmt: skip

_STYLEGAN2_D = (
    "Karras et al. 2020, config F's last layer of a block at this resolution, slope 0.2, gain sqrt(2), batch 32; clamp of 2020's ADA"
)
_STYLEGAN2_SKIP = "Karras et al. 2020, residual discriminator, slope 0.2: (leaky_relu(x + bias) + skip) / sqrt(2), batch 32"
BIAS = [
    BiasCase(
        "dcgan64-d1", 64, 64, (32, 32), "leaky_relu", 1.0, None, "Radford et al. 2016, discriminator's first layer: no norm, slope 0.2"
    ),
    BiasCase("stylegan2-b32", 32, 512, (32, 32), "leaky_relu", 2**0.5, 256.0, _STYLEGAN2_D, cpu_batch=4, gpu_batches=(32, 64)),
    BiasCase("stylegan2-b256", 32, 128, (256, 256), "leaky_relu", 2**0.5, 256.0, _STYLEGAN2_D, cpu_batch=0),
    BiasCase(
        "hifigan-res3", 16, 64, (4096,), "leaky_relu", 1.0, None, "Kong et al. 2020, V1's residual blocks at 64 channels; slope 0.1 there"
    ),
    BiasCase("stylegan2-residual", 32, 256, (64, 64), "leaky_relu", 1.0, None, _STYLEGAN2_SKIP, cpu_batch=4, factor=2**-0.5),
    BiasCase("wgan-gp-d", 64, 64, (64, 64), "relu", 1.0, None, "Gulrajani et al. 2017, ResNet critic's first block, no norm", cpu_batch=16),
]

LOSS = [
    LossCase("logits-64", 64, "nonsaturating", "one logit an image, DCGAN's batch of 64"),
    LossCase("logits-128", 128, "nonsaturating", "one logit an image, a batch of 128 as SNGAN's generator has"),
    LossCase("patch-900", 900, "lsgan", "Isola et al. 2017: 30x30 patch logits, batch 1"),
    LossCase("patch-230400", 230_400, "hinge", "30x30 patch logits of 256 images"),
    LossCase("large", 1 << 22, "nonsaturating", "no network's: 4 or 32 million logits a side, for the bandwidth", gpu_batches=(1 << 25,)),
    LossCase("large-hinge", 1 << 22, "hinge", "as large", gpu_batches=(1 << 25,)),
    LossCase("relativistic-64", 64, "relativistic", "Jolicoeur-Martineau 2019, batch 64"),
]

# The datasets whole where they are small; else enough of one that no cache holds it.
GATHER = [
    GatherCase("celeba-64", 128, 20_000, 3, (64, 64), True, "CelebA, 202,599 images (Liu et al. 2015), at 64x64; Radford's batch of 128"),
    GatherCase(
        "ffhq-256",
        16,
        2_000,
        3,
        (256, 256),
        True,
        "FFHQ, 70,000 images (Karras et al. 2019), at 256x256, mirrored; batch 16",
        gpu_batches=(16, 256),
    ),
    GatherCase("cifar-32", 64, 50_000, 3, (32, 32), True, "CIFAR-10, 50,000 images; SNGAN's batch of 64 (Miyato et al. 2018)"),
    GatherCase("mnist-28", 64, 60_000, 1, (28, 28), False, "MNIST, 60,000 grey images, never mirrored; batch 64"),
]

# A whole network, sampling in eval mode; the training steps are in steps/cases.py.
# Convolutions before and after, four that upsample, 18 in the residual blocks behind each of those.
_HIFIGAN_SHAPES = (
    (512, 80, 7),
    *((512 >> i, 256 >> i, kernel) for i, kernel in enumerate((16, 16, 4, 4))),
    *((256 >> i, 256 >> i, kernel) for i in range(4) for kernel in (3, 7, 11) for _ in range(6)),
    (1, 32, 7),
)
_SNGAN_SHAPES = ((128, 3, 3, 3), (128, 3, 1, 1), (128, 128, 1, 1), *((128, 128, 3, 3),) * 7, (1, 128))
WEIGHTS = [
    WeightsCase("hifigan-v1", 78, "weight norm", _HIFIGAN_SHAPES, "Kong et al. 2020, the 78 weights of HiFi-GAN V1's generator"),
    WeightsCase(
        "sngan32-d",
        11,
        "spectral norm",
        _SNGAN_SHAPES,
        "Miyato et al. 2018, the 11 weights of the 32x32 ResNet discriminator, 128 channels; one power iteration",
    ),
]

GENERATOR = NetworkCase("dcgan64", 64, 64, 100, 64, _DCGAN)
# The same with so few channels that a call is little but its Python.
CALL = NetworkCase("dcgan64-w8", 1, 64, 100, 8, f"{_DCGAN}; here width 8, batch 1")

# Rows of the third mode: the gradient of a squared gradient norm, as a gradient penalty wants it. float32.
SECOND_ORDER = {
    "dcgan64-3", "dcgan64-rgb", "wgan-gp-2", "dcgan64-conv1", "dcgan64-conv3", "dcgan64-bn3", "dcgan64-d2", "cyclegan-d", "sngan32-1",
    "stylegan2-16",
}  # fmt: skip
# Layers, beside whole networks, that torch.compile's max-autotune also takes part in (bf16, fwd+bwd): it may need a minute each.
MAX_AUTOTUNE = {"dcgan64-3", "dcgan128-4", "pix2pix-6", "sngan32-2"}
