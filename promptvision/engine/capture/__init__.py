"""Training steps that are captured in CUDA graphs."""
