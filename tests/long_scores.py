"""A long table of scores, as scores.csv holds it, to make tables and figures of."""

import pandas as pd


def long_scores():
    """Two projections of 400 cells: curves at k 1..8 against pixels, and scores of one number."""
    rows = []
    for name, level in (("VAE", 0.9), ("UMAP", 0.8)):
        for k in range(1, 9):
            for metric, value in (
                ("trustworthiness", level + k / 1000),
                ("continuity", 0.7 + k / 1000),
                ("lcmc", level / 2 - k / 1000),
            ):
                rows.append((name, "pixels", metric, k, value, 0.01, 400, 0))
        rows.append((name, "pixels", "trustworthiness_area", None, 17.0, None, 400, 0))
        rows.append((name, "", "accuracy", None, level - 0.1, 0.02, 400, 0))
        rows.append((name, "", "balanced_accuracy", None, 0.5, 0.02, 400, 0))
        rows.append((name, "", "accuracy[G1]", None, 0.95, None, 400, 0))
        rows.append((name, "", "accuracy[a $x [b]]", None, 0.25, None, 400, 0))
    rows.append(("VAE", "", "spearman[dna]", None, 0.5, None, 400, 0))
    rows.append(("UMAP", "", "spearman[dna]", None, -0.75, None, 400, 0))
    names = ["projection", "reference", "metric", "k", "value", "std", "n_cells", "seed"]
    return pd.DataFrame(rows, columns=names)
