"""A run on the disk: its folder, its checkpoints, what a checkpoint holds, and signals that ask the run to save and stop."""
