"""Architectures, objectives, the training loop and the projections they are compared with."""
