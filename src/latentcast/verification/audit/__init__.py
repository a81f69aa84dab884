"""A run folder held against its own configuration: schedules, checkpoints, a replay."""
