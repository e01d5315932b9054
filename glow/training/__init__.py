"""Training: loop, checkpoints, schedules, metrics."""
