"""The weights that ship with the package: NAME.safetensors, its card NAME.md, and checksums."""
