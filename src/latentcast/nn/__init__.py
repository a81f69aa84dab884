"""The transformer: patches, rotary positions, attention, blocks, and the encoder made of them."""
