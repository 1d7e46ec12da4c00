"""Group norm and layer norm + activation."""
