"""What is minimised, each written like its equation; no optimizers, devices, ranks or files."""
