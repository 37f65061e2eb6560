"""Pages that open in a browser without a network: reports, the latent space to turn."""
