"""The expert in the loop: guidance of a latent space by feedback, and its interpretation."""
