"""The pages of a run: self-contained, escaped, complete, and the same bytes twice."""

import base64
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from quantitative_metrics.score_table import scores_table
from util.errors import UserError
from util.pages.report import latent_view, thumbnail_sheet, write_latent_page, write_report
from util.style import Roles

EVIL = "</script><script>alert(1)</script>"
IMG = "<img src=x onerror=alert(2)>"
XYZ = ["VAE_x_coord", "VAE_y_coord", "VAE_z_coord"]
PROJECTIONS = {
    "VAE": XYZ,
    "UMAP": ["UMAP_X", "UMAP_Y"],
    "line": ["UMAP_X"],
    "five": XYZ + ["a", "b"],
}


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts, as a browser's parser cuts them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] == "script":
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        if tag == "script":
            self.elements.append(("/script", {}))

    def data(self):
        return json.loads(self.scripts[0])


def cells(n=40):
    draw = np.random.default_rng(0)
    columns = [*XYZ, "UMAP_X", "UMAP_Y", "a", "b"]
    table = pd.DataFrame(draw.normal(size=(n, 7)), columns=columns)
    table.insert(0, "Unique_ID", [f"unique_{i:04d}.tiff" for i in range(n)])
    table["phase"] = draw.choice(["G1", "S", EVIL], n)
    table[IMG] = draw.choice([IMG, "plain & simple"], n)
    table["dna"] = draw.normal(1e5, 1e4, n)
    table["well"] = [f"W{i % 7}" if i % 5 else None for i in range(n)]
    table["file"] = [f"file_{i}" for i in range(n)]
    table.loc[:2, ["UMAP_X", "UMAP_Y"]] = np.nan
    pictures = draw.integers(0, 256, (n, 16, 16, 3)).astype(np.uint8)
    return table, pictures


@pytest.fixture(scope="module")
def latent_page(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "latent_space.html"
    table, pictures = cells()
    view = write_latent_page(
        table, PROJECTIONS, pictures, path, Roles("phase"), title=f"Latent {IMG}"
    )
    return path.read_text(encoding="utf-8"), table, view


@pytest.fixture(scope="module")
def report(tmp_path_factory, latent_page):
    folder = tmp_path_factory.mktemp("report")
    Image.new("RGB", (30, 20), "red").save(folder / "figure.png")
    rows = [
        ("VAE", "", "accuracy", None, 0.5, 0.1, 40, 0),
        (EVIL, "", "accuracy", None, 0.25, 0.1, 40, 0),
    ]
    names = ["projection", "reference", "metric", "k", "value", "std", "n_cells", "seed"]
    path = write_report(
        folder / "report.html",
        f"Run {EVIL}",
        [f"Trained on {IMG}.", "Preset: laptop."],
        {"dataset": EVIL, "scaling": {"low": [1, 2]}},
        [
            ("Scores", scores_table(pd.DataFrame(rows, columns=names))),
            (IMG, pd.DataFrame({IMG: [EVIL]})),
        ],
        [(f"First {IMG}", folder / "figure.png"), ("Second", folder / "figure.png")],
        [f"1 cell left out: {EVIL}"],
        latent_page[2],
        {"torch": "2.14"},
    )
    return path.read_text(encoding="utf-8"), folder


def test_every_cell_is_on_the_page_once(latent_page):
    html, table, _ = latent_page
    for name in table["Unique_ID"]:
        assert html.count(name) == 1
    assert Page(html).data()["ids"] == table["Unique_ID"].tolist()


@pytest.mark.parametrize("which", ["latent_page", "report"])
def test_nothing_of_the_data_becomes_markup(which, request):
    html = request.getfixturevalue(which)[0]
    page = Page(html)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3  # the data, plotly.js, the view: none came from a cell
    assert "alert(2)" not in "".join(
        str(a) for tag, attrs in page.elements for a in attrs if a != "alt"
    )
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert tags.count("img") == 1 + 2 * (which == "report")
    assert EVIL not in html and IMG not in html
    assert not set("<>&") & set(page.scripts[0])


@pytest.mark.parametrize("which", ["latent_page", "report"])
def test_nothing_is_loaded_from_outside(which, request):
    page = Page(request.getfixturevalue(which)[0])
    for tag, attributes in page.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name) or "data:"
            assert value.startswith(("data:", "#")) or value == "plotly.min.js", (tag, value)
        assert tag not in ("link", "iframe", "object", "embed", "base")
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'") and "http" not in policy
    view_script = page.scripts[2]
    assert "http" not in view_script and "innerHTML" not in view_script
    assert "showSendToCloud: false" in view_script  # plotly's button would upload the data


def test_projections_of_the_page(latent_page):
    _, table, view = latent_page
    drawn = {p["name"]: p for p in Page(latent_page[0]).data()["projections"]}
    assert {name: len(p["coordinates"]) for name, p in drawn.items()} == {
        "VAE": 3,
        "UMAP": 2,
        "line": 2,
        "five": 3,
    }
    np.testing.assert_allclose(np.transpose(drawn["VAE"]["coordinates"]), table[XYZ], atol=1e-4)
    assert drawn["UMAP"]["coordinates"][0][:4].count(None) == 3
    assert view.remarks == [
        "UMAP: 3 of 40 cells have no coordinates.",
        "line: 3 of 40 cells have no coordinates.",
        "five: the first 3 of 5 dimensions are shown.",
    ]
    for remark in view.remarks:
        assert remark in latent_page[0]


def test_columns_of_the_page_give_back_the_table(latent_page):
    _, table, _ = latent_page
    data = Page(latent_page[0]).data()
    columns = {column["name"]: column for column in data["columns"]}
    assert list(columns) == ["phase", IMG, "dna", "well", "file"]
    assert columns["file"]["kind"] == "text"  # a name per cell colours nothing
    assert data["columns"][data["first"]]["name"] == "phase"
    for name in ("phase", IMG, "well"):
        column = columns[name]
        shown = [column["names"][code] for code in column["codes"]]
        assert shown == table[name].fillna("missing").tolist()
        assert column["counts"] == [shown.count(n) for n in column["names"]]
    np.testing.assert_allclose(columns["dna"]["values"], table["dna"], rtol=1e-5)
    assert columns["dna"]["low"] < np.median(table["dna"]) < columns["dna"]["high"]


@pytest.mark.parametrize(("native", "expected"), [(64, 64), (60, 48), (16, 16)])
def test_the_sheet_holds_each_cell_at_its_place(native, expected):
    flat = np.arange(10, dtype=np.uint8)[:, None, None, None] * 25
    sheet, side, per_row = thumbnail_sheet(np.broadcast_to(flat, (10, native, native, 3)))
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("L"), int)
    assert side == expected and per_row == 4 and pixels.shape == (3 * side, 4 * side)
    for i in range(10):
        row, column = divmod(i, per_row)
        tile = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert abs(tile - 25 * i).max() <= 2  # its own grey up to its edges


def test_noise_is_made_smaller_until_it_fits():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 64, 64, 3)).astype(np.uint8)
    sheet, side, per_row = thumbnail_sheet(noise)
    assert len(sheet) <= 5_000_000 and side < 64
    assert Image.open(io.BytesIO(sheet)).size == (per_row * side, 39 * side)


def test_many_cells_are_thinned_and_the_page_says_so():
    n = 20_001
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(n)], "x": np.arange(n), "y": 0.0})
    table["kind"] = "one"
    view = latent_view(table, {"P": ["x", "y"]}, np.zeros((n, 8, 8, 3), np.uint8))
    data = json.loads(view.data)
    assert data["ids"][:2] == ["c0", "c2"] and len(data["ids"]) == 10_001
    assert data["columns"][0]["counts"] == [n]
    assert data["columns"][0]["codes"] == [0] * 10_001
    assert view.remarks == ["1 of every 2 of the 20,001 cells is shown."]
    shown_only = latent_view(table, {"P": ["x", "y"]}, np.zeros((10_001, 8, 8, 3), np.uint8))
    assert shown_only == view


def test_coordinates_have_five_digits_of_the_largest():
    table = pd.DataFrame({"Unique_ID": ["a", "b"], "x": [1234.5678, 0.01], "y": [-2.25, 3.0]})
    data = json.loads(latent_view(table, {"P": ["x", "y"]}, np.zeros((2, 8, 8, 3), np.uint8)).data)
    assert data["projections"][0]["coordinates"] == [[1234.6, 0.0], [-2.2, 3.0]]


def test_a_table_without_metadata_or_with_a_gap_everywhere():
    table = pd.DataFrame({"Unique_ID": ["a", "b"], "x": [np.nan] * 2, "y": [1.0, 2.0]})
    data = json.loads(latent_view(table, {"P": ["x", "y"]}, np.zeros((2, 8, 8, 3), np.uint8)).data)
    assert data["first"] is None and data["columns"] == []
    assert data["projections"][0]["coordinates"] == [[None, None], [None, None]]
    table["nothing"] = None
    data = json.loads(latent_view(table, {"P": ["x", "y"]}, np.zeros((2, 8, 8, 3), np.uint8)).data)
    assert data["columns"] == [{"name": "nothing", "kind": "text", "values": [None, None]}]


def test_pictures_that_do_not_fit_the_table_are_refused():
    table, pictures = cells()
    with pytest.raises(UserError, match="40 rows of the latent table and 39 pictures"):
        latent_view(table, PROJECTIONS, pictures[:39])
    with pytest.raises(UserError, match="no column nowhere"):
        latent_view(table, PROJECTIONS, pictures, Roles("nowhere"))


def test_the_report_holds_all_of_the_run(report):
    html, folder = report
    page = Page(html)
    png = base64.b64encode((folder / "figure.png").read_bytes()).decode()
    assert html.count(png) == 2
    anchors = [a["href"][1:] for tag, a in page.elements if tag == "a"]
    assert anchors == ["scores", "latent-space", "figures", "notes", "settings", "versions"]
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert set(anchors) <= set(identifiers) and len(identifiers) == len(set(identifiers))
    assert '<td class="best">0.500</td>' in html and "<td>0.250</td>" in html
    for text in (
        "Preset: laptop.",
        "1 cell left out",
        "scaling.low",
        "[1, 2]",
        "2.14",
        "Figure 2. Second",
    ):
        assert text in html


def test_a_report_without_a_latent_space_has_no_script(tmp_path):
    path = write_report(tmp_path / "r.html", "Run", ["One line."], {"epochs": 1}, [], [])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.scripts == []
    assert [a["href"] for tag, a in page.elements if tag == "a"] == ["#settings"]
    with pytest.raises(UserError, match=r"absent\.png"):
        write_report(tmp_path / "r.html", "Run", [], {}, [], [("x", tmp_path / "absent.png")])


def test_the_same_input_gives_the_same_page(tmp_path, latent_page):
    table, pictures = cells()
    again = tmp_path / "again.html"
    write_latent_page(table, PROJECTIONS, pictures, again, Roles("phase"), title=f"Latent {IMG}")
    assert again.read_text(encoding="utf-8") == latent_page[0]


def test_the_pages_work_in_a_browser_and_the_report_without_plotly_too(
    tmp_path, visit, report, latent_page
):
    folder = Path(shutil.copytree(report[1], tmp_path / "moved"))
    (folder / "latent_space.html").write_text(latent_page[0], encoding="utf-8")
    for name in ("report.html", "latent_space.html"):
        page, errors, _ = visit(folder / name)
        page.wait_for_selector("#view-plot canvas", state="attached")
        page.select_option("#view-projection", label="UMAP")
        page.select_option("#view-colour", label="dna")
        page.evaluate("document.getElementById('view-plot').emit('plotly_hover', "
                      "{points: [{customdata: 3}]})")  # fmt: skip
        assert page.locator("#view-id").inner_text() == "unique_0003.tiff"
        assert not page.locator("#without-plotly").is_visible() and errors == []
    (folder / "plotly.min.js").unlink()
    page, _, _ = visit(folder / "report.html")
    assert page.locator("#without-plotly").is_visible()
    assert page.locator("figure img").first.is_visible()
    assert page.locator("td.best").first.is_visible()
    assert not page.locator(".view").is_visible()


def test_a_warning_stands_on_top_of_the_page(tmp_path):
    notes = ["one cell", "WARNING: only 50 % match"]
    path = write_report(tmp_path / "r.html", "t", ["s"], {}, tables=[], figures=[], notes=notes)
    page = path.read_text()
    assert page.count("WARNING: only") == 2 and page.count("one cell") == 1
    assert page.index("WARNING: only") < page.index("<h2>")


def test_warnings_stand_under_the_title(tmp_path):
    common = {"summary_lines": ["lead"], "settings": {}, "tables": [], "figures": []}
    odd = ["DNA is dead: it is 0 in every pixel", "<b> is saturated"]
    path = write_report(tmp_path / "odd.html", title="Odd", warnings=odd, **common)
    html = path.read_text(encoding="utf-8")
    places = [
        html.index(text) for text in ("<h1>", "DNA is dead", "&lt;b&gt; is saturated", "lead<")
    ]
    assert places == sorted(places)
    path = write_report(tmp_path / "plain.html", title="Plain", **common)
    assert 'class="warnings"' not in path.read_text(encoding="utf-8")
