"""StyleGAN2's synthesis layers at 256x256: 512 channels up to 32x32, then 256, 128 and 64, the halved widths of configurations A to E;
config F has twice as many from 64x64 on."""

from typing import NamedTuple


class ModulatedConvCase(NamedTuple):
    """x [batch, c_in, size, size] -> modulated convolution, upsampled where `up` is 2 -> noise, bias, leaky ReLU, gain; kernel 1: to RGB,
    a bias alone and no demodulation."""

    name: str
    batch: int
    c_in: int
    c_out: int
    size: int
    kernel: int
    up: int
    source: str
    cpu_batch: int | None = None
    gpu_batches: tuple[int, ...] = ()

    def rgb(self) -> bool:
        return self.kernel == 1

    def elements(self) -> tuple[int, int, int]:
        """Of x, weight and y."""
        pixels = self.size**2
        return self.batch * self.c_in * pixels, self.c_in * self.c_out * self.kernel**2, self.batch * self.c_out * pixels * self.up**2

    def flops(self) -> int:
        """Of the convolution's forward, on the side of x where it upsamples."""
        return 2 * self.batch * self.size**2 * self.c_in * self.c_out * self.kernel**2

    def tiny(self) -> "ModulatedConvCase":
        return self._replace(name="tiny", source="", batch=2, c_in=16, c_out=min(self.c_out, 16), size=4, cpu_batch=None, gpu_batches=())

    def bytes(self, mode: str, item: int) -> int:
        """Each tensor once per pass: forward x, x s; weight, x s, t; t, y. Backward gy, t, gt; gt, x s, weight, g, gweight; g, x, gx."""
        x, weight, y = self.elements()
        forward = 3 * x + weight + 3 * y
        return (forward if mode == "fwd" else forward + 5 * x + 2 * weight + 4 * y) * item


_G = "Karras et al. 2020, StyleGAN2 at 256x256, generator, batch 32: "
_AT = _G + "the second layer of the block at this size"
_TO = _G + "the first layer of the block, from half this size"
MODULATED_CONV = [
    ModulatedConvCase("stylegan2-g8", 32, 512, 512, 8, 3, 1, _AT, cpu_batch=4, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g16-up", 32, 512, 512, 8, 3, 2, _TO, cpu_batch=4, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g32", 32, 512, 512, 32, 3, 1, _AT, cpu_batch=2, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g64-up", 32, 512, 256, 32, 3, 2, _TO, cpu_batch=2, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g128", 32, 128, 128, 128, 3, 1, _AT, cpu_batch=2, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g256-up", 32, 128, 64, 128, 3, 2, _TO, cpu_batch=2, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-g256", 32, 64, 64, 256, 3, 1, _AT, cpu_batch=2, gpu_batches=(32,)),
    ModulatedConvCase("stylegan2-rgb256", 32, 64, 3, 256, 1, 1, _G + "to RGB at this size", cpu_batch=2, gpu_batches=(32,)),
]
