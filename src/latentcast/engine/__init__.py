"""The order in which a training step happens, and everything that makes it exact and resumable."""
