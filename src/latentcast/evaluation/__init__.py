"""Frozen features scored under accepted protocols, next to their floors and with intervals."""
