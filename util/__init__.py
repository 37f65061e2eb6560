"""What every layer above needs: cells, figures, run folders, bounds on mutual information."""
