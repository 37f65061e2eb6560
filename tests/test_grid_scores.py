from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from optimization.grid_scores import score_each, subset
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.scores import Plan, score_projections

N = 80


@pytest.fixture(scope="module")
def cells():
    """Table, two reference spaces, codes of two projections (one with a gap), log-variances."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(N)]})
    table["kind"] = np.repeat(["a", "b"], N // 2)
    table["dose"] = rng.random(N)
    features = rng.normal(size=(N, 6)) + 2 * (table["kind"] == "a").to_numpy()[:, None]
    images = rng.integers(0, 255, (N, 2, 32, 32), dtype=np.uint8)
    codes = {"A": features[:, :3] + 0.1, "B": rng.normal(size=(N, 2))}
    codes["B"][5] = np.nan
    logvars = {"A": np.full((N, 3), -2.0)}
    return table, {"pixels": images, "features": features}, codes, logvars


PLAN = Plan(("neighbours", "information", "classifier", "axes"), ClassifierTask("accuracy", "kind"))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_numbers_are_those_of_one_call(cells, workers):
    table, references, codes, logvars = cells
    plan = PLAN if workers == 1 else replace(PLAN, metrics=("neighbours", "classifier"))
    if workers == 1:  # critics of one reference are enough
        references = {"features": references["features"]}
    whole = score_projections(codes, references, table, plan, logvars=logvars)
    found = dict(score_each(codes, references, table, plan, logvars=logvars, workers=workers))
    assert list(found) == ["A", "B"]
    together = subset(list(found.values()), {"A": "A", "B": "B"})
    keys = ["projection", "reference", "metric", "k"]
    ordered = [
        scores.table.sort_values(keys).reset_index(drop=True) for scores in (together, whole)
    ]
    pd.testing.assert_frame_equal(*ordered, check_dtype=False)
    assert (together.table["n_cells"] <= N - 1).all()  # the cell without B counts for neither
    local = together.local_quality[whole.local_quality.columns]
    pd.testing.assert_frame_equal(local, whole.local_quality)
    for reference, corners in whole.corners.items():
        for name, corner in corners.items():
            np.testing.assert_array_equal(together.corners[reference][name], corner)
    pd.testing.assert_frame_equal(together.confusion["B"], whole.confusion["B"])


def test_subset_renames(cells):
    table, references, codes, logvars = cells
    plan = Plan(("neighbours", "axes"))
    scores = score_projections(codes, references, table, plan)
    chosen = subset([scores], {"B": "VAE", "absent": "X"})
    assert set(chosen.table["projection"]) == {"VAE"} and set(chosen.axes["projection"]) == {"VAE"}
    assert list(chosen.corners["pixels"]) == ["VAE"]
    columns = ["VAE_pixels_local_Q_score", "VAE_features_local_Q_score"]
    assert sorted(chosen.local_quality) == sorted(columns)
    own = scores.table[scores.table["projection"] == "B"]
    assert list(chosen.table["value"]) == list(own["value"])
