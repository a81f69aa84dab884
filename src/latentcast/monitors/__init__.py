"""Watching a run: collapse with named alarms, and throughput against the machine's peak."""
