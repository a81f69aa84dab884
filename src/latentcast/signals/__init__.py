"""Recordings in physical units: lead names, file readers, quality, and the preprocessing that training saw."""
