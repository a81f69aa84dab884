"""Watching a run: its log, collapse with named alarms, throughput against the peak."""
