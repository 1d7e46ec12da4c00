from torch_utils import custom_ops


def setup_filter(f, device="cpu", normalize=True, flip_filter=False, gain=1, separable=None):
    return custom_ops.get_plugin("upfirdn2d_plugin")


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    return custom_ops.get_plugin("upfirdn2d_plugin")


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    return upfirdn2d(x, f)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    return upfirdn2d(x, f)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    return upfirdn2d(x, f)
