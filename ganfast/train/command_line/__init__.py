"""The commands `ganfast train` and `ganfast sample`, and the recipes (data, networks and settings by name) that they train."""
