"""Scripts that launch many runs: grids, sweeps and the comparison of all methods."""
