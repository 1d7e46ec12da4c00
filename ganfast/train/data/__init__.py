"""Data for training: images of a folder, tensors, Datasets and DataLoaders, drawn as batches on the device."""

from ganfast.train.data.folders import ImageData, class_vectors, digits, folder, images_of
from ganfast.train.data.sources import source_of
from ganfast.train.data.unpaired import unpaired
from ganfast.train.parts import to_float, to_uint8

__all__ = ["ImageData", "class_vectors", "digits", "folder", "images_of", "source_of", "to_float", "to_uint8", "unpaired"]
