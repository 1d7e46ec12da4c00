def assert_shape(tensor, shape):
    assert list(tensor.shape) == list(shape)
