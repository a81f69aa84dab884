"""The transformer: patches to tokens, rotary positions, attention, blocks, and the encoder made of them."""
