"""Views, replicates, plates and seeds: which scores their inputs give, and what is said without."""

import numpy as np
import pandas as pd
import pytest

from quantitative_metrics.agreement import Views
from quantitative_metrics.classifier_metric import ClassifierTask
from quantitative_metrics.performance_metrics import compute_perf_metrics
from quantitative_metrics.scores import Plan, score_projections
from util.errors import UserError
from util.metadata import plate_column


def screen(seed=0, n_plates=3, n_drugs=8, wells=2, cells=12):
    """Codes of cells in wells; a drug has two wells on every plate."""
    rng = np.random.default_rng(seed)
    table = pd.MultiIndex.from_product(
        [range(n_plates), range(n_drugs), range(wells), range(cells)],
        names=["Metadata_Plate", "drug", "n", "cell"],
    ).to_frame(index=False)
    codes = 3 * rng.normal(size=(n_drugs, 3))[table["drug"]] + rng.normal(size=(len(table), 3))
    table["well"] = "p" + table["Metadata_Plate"].astype(str) + "_" + table["drug"].astype(str)
    table["well"] += table["n"].map({0: "a", 1: "b"})
    table["drug"] = "drug " + table["drug"].astype(str)
    table["Unique_ID"] = [f"c{i}" for i in range(len(table))]
    return codes, table.drop(columns=["n", "cell"])


def values(scores, projection="code"):
    own = scores.table[scores.table["projection"] == projection]
    return own.set_index("metric")["value"]


def scored(codes, table, **plan):
    task = ClassifierTask("accuracy", "drug") if "drug" in table else None
    plan = {"metrics": ("agreement",), "task": task} | plan
    return score_projections({"code": codes}, {}, table, Plan(**plan))


def test_wells_of_a_treatment_find_each_other_on_other_plates():
    codes, table = screen()
    scores = scored(codes, table, replicate="well")
    found = values(scores)
    assert found["replicate_neighbours"] > 2 * 11 / 575
    assert found["replicate_precision_within"] > found["replicate_precision"]
    assert "replicate_neighbours_across" not in found  # a well lies on one plate
    assert found["profile_precision"] > 0.8 and found["profile_retrieved"] == 1
    assert found["plate_mixing"] == pytest.approx(1, abs=0.15)
    assert any("no well has cells on two plates" in note for note in scores.notes)
    assert "the column Metadata_Plate names the plates: 3 of them" in scores.notes


def test_a_treatment_as_replicate_is_looked_for_across_plates():
    codes, table = screen()
    found = values(scored(codes, table, replicate="drug"))
    assert found["replicate_neighbours_across"] > 0.5
    assert found["profile_precision"] > 0.8
    shuffled = values(scored(np.random.default_rng(1).permutation(codes), table, replicate="drug"))
    assert shuffled["replicate_neighbours_across"] == pytest.approx(1 / 8, abs=0.05)
    assert shuffled["profile_retrieved"] <= 0.25


def test_without_plates_and_treatments_profiles_have_nothing_to_find():
    codes, table = screen()
    scores = scored(codes, table[["Unique_ID", "well"]], replicate="well")
    found = values(scores)
    assert set(found.index) == {"replicate_neighbours", "replicate_precision"}
    assert any("profiles skipped: each well has one profile" in note for note in scores.notes)


def test_what_is_not_known_is_said():
    codes, table = screen()
    scores = scored(codes, table[["Unique_ID"]])
    assert scores.table.empty
    assert any(note.startswith("replicate retrieval skipped: no repl") for note in scores.notes)
    alone = scored(codes, table[["Unique_ID"]], replicate="Unique_ID")
    assert "replicate retrieval skipped: no two cells share Unique_ID" in alone.notes
    plates = values(scored(codes, table[["Unique_ID", "Metadata_Plate"]]))
    assert list(plates.index) == ["plate_mixing"]
    same = values(scored(codes, table, replicate="Metadata_Plate"))
    assert "plate_mixing" not in same and "replicate_neighbours" in same
    for option in ("replicate", "group"):
        with pytest.raises(UserError, match=f"`{option}` wel: no such column; there are Meta"):
            scored(codes, table, **{option: "wel"})


def test_many_cells_are_sampled_with_a_standard_error():
    codes, table = screen()
    whole = scored(codes, table, replicate="drug")
    some = scored(codes, table, replicate="drug", rank_all_up_to=100, ranked_sample=200)
    exact = values(whole)
    assert whole.table["std"].isna().all()
    for row in some.table[some.table["metric"].str.startswith("replicate")].itertuples():
        assert row.std > 0 and row.n_cells == 200
        assert abs(row.value - exact[row.metric]) < 4 * row.std


def test_seeds_are_recognised_by_their_names():
    codes, _ = screen()
    noise = np.random.default_rng(0).normal(size=(3, *codes.shape))
    names = ["VAE_seed0", "VAE-seed 1", "VAE seed_12", "UMAP_seed0", "PCA", "seedling"]
    projections = dict(zip(names, [codes, codes + 0.2 * noise[0], noise[1], *noise], strict=True))
    table = pd.DataFrame({"Unique_ID": np.arange(len(codes)).astype(str)})
    found = score_projections(projections, {}, table, Plan(("agreement",))).table
    overlap = found[found["metric"] == "seed_overlap"].set_index("projection")
    assert list(overlap.index) == names[:3]
    assert overlap.loc["VAE_seed0", "value"] > overlap.loc["VAE seed_12", "value"]
    assert overlap["std"].notna().all()
    distance = found[found["metric"] == "seed_distance"].set_index("projection")["value"]
    assert distance.idxmax() == "VAE seed_12"


def test_views_are_scored_by_whole_groups_and_few_of_them_are_not():
    codes, table = screen()
    rng = np.random.default_rng(0)
    rows = np.arange(1, len(codes), 3)
    pair = tuple(codes[rows] + rng.normal(size=(len(rows), 3)) for _ in range(2))
    pair[0][0] = np.nan  # a view that could not be embedded
    few = tuple(codes[rows[:20]] for _ in range(2))
    for group in (None, "well"):
        plan = Plan(("agreement",), group=group)
        found = score_projections(
            {"code": codes}, {}, table, plan, views=Views(rows, {"code": pair})
        )
        row = found.table[found.table["metric"] == "view_information"].iloc[0]
        assert row["value"] > 0.5 and row["std"] > 0 and row["n_cells"] == len(rows) - 1
    assert found.table["seed"].eq(0).all()
    alone = table.assign(well="w1")
    views = Views(rows, {"code": pair})
    found = score_projections(
        {"code": codes}, {}, alone, Plan(("agreement",), group="well"), views=views
    )
    assert "view_information" in set(found.table["metric"])
    assert any("the viewed cells are of one well, so they were halved" in n for n in found.notes)
    views = Views(rows[:20], {"code": few})
    found = score_projections({"code": codes}, {}, table, Plan(("agreement",)), views=views)
    assert any("view information of code skipped: view" in note for note in found.notes)


def test_groups_change_what_is_scored_and_what_is_said():
    codes, table = screen()
    rng = np.random.default_rng(0)
    wells = table["well"].factorize()[0]
    codes = 30 * rng.normal(size=(wells.max() + 1, 3))[wells] + rng.normal(size=(len(wells), 3))
    table["dose"] = table["drug"].factorize()[0] + rng.uniform(size=len(table))
    table = table.assign(**{f"code_{axis}": codes[:, i] for i, axis in enumerate("xyz")})
    options = {"metrics": ("classifier", "backbone"), "label": "drug", "progress": "dose"}
    by_cell = compute_perf_metrics(table, **options).set_index("metric")
    by_well = compute_perf_metrics(table, **options, group="well").set_index("metric")
    assert by_cell.at["knn_accuracy", "value"] > by_well.at["knn_accuracy", "value"] + 0.3
    assert by_well.at["accuracy_across_plates", "value"] < 0.4
    widths = [
        t.at["backbone_spearman_high", "value"] - t.at["backbone_spearman_low", "value"]
        for t in (by_cell, by_well)
    ]
    assert widths[1] > 1.5 * widths[0]
    notes = [
        score_projections({"c": codes}, {}, table, Plan(("classifier",), group=group)).notes[-1]
        for group in (None, "well")
    ]
    assert notes[0].startswith("cells were split one by one") and "`group`" in notes[0]
    assert notes[1] == "cells of one well stay together in every split and resample: 48 groups"


@pytest.mark.parametrize(
    "name", ["plate", "Plate", "Metadata_Plate", "plate_id", "PlateID", "x_plate"]
)
def test_plates_are_known_by_the_name_of_their_column(name):
    assert plate_column(pd.DataFrame({"class": [1, 2], name: ["a", "b"]})) == name


@pytest.mark.parametrize("name", ["platelets", "template", "plated_on", "plate_map_area"])
def test_other_columns_are_no_plates(name):
    assert plate_column(pd.DataFrame({name: ["a", "b"]})) is None
    assert plate_column(pd.DataFrame({"plate": ["a", "a"]})) is None  # one plate tells nothing
