"""What MLproject starts: one module a phase, `python -m entry_points.<phase>`."""
