from torch_utils import custom_ops


def filtered_lrelu(
    x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None, flip_filter=False, impl="cuda"
):
    return custom_ops.get_plugin("filtered_lrelu_plugin")
