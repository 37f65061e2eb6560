import pandas as pd


def test_a_table_of_ones_own(run_script, tmp_path):
    rows = [(w, d, 0.5 + 0.01 * w - 0.02 * d) for w in (4, 8, 16) for d in (1, 2)]
    pd.DataFrame(rows, columns=["width", "depth", "f1"]).to_csv(tmp_path / "my.csv", index=False)
    done = run_script(
        "optimization/heatmap_optimization.py", "my.csv", "--x", "width", "--y", "depth"
    )
    folder = tmp_path / "results" / "0001-my-heatmaps"
    assert f"{folder.relative_to(tmp_path)}/report.html" in done.stdout
    assert (folder / "heatmap_f1.png").stat().st_size > 0
    assert "f1" in (folder / "explore.html").read_text()
