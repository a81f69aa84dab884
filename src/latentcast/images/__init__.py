"""Images on their way to the encoder."""
