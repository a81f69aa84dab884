"""Encoders of somebody else as rows of a table: networks over recordings and images, by name."""
