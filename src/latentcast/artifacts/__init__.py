"""What leaves a run: the encoder with its preprocessing, and weights in public key layouts."""
