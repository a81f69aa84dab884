"""Images: sources of them, one file a format, and their way to the encoder."""
