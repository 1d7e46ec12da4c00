"""Empty, as the official one."""
