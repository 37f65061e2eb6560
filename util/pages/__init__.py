"""Pages that open in a browser without a network: the report and the latent space of a run."""
