def persistent_class(cls):
    return cls
