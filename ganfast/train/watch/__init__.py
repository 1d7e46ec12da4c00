"""Watching a run: callbacks, alarms, metrics, and pictures of samples and curves."""
