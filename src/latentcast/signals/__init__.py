"""Recordings in physical units: lead names, file readers, quality, preprocessing."""
