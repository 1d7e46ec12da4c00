"""Systems: one file each, made of networks, data and terms."""
