"""Damaged and hostile input: what every reader does with thousands of changed files."""
