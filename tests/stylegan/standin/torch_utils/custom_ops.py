def get_plugin(name):
    raise RuntimeError(f"{name}: nvcc was not found")
