"""Watching a run: collapse statistics with named alarms, and throughput against the machine's peak."""
