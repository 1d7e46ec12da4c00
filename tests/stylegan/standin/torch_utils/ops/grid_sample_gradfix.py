from torch_utils import custom_ops

enabled = False


def grid_sample(input, grid):
    return custom_ops.get_plugin("grid_sample")
