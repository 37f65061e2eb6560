"""Pages of a folder: one plotly.js for all, safe, and complete in a real browser."""

import base64
import re
import subprocess
import sys

import pytest
from starting import ROOT

from util.pages.plot_page import beside, json_for_page, write_page

PACKAGES = ("human_guidance", "optimization", "quantitative_metrics", "util")
ASSETS = [
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*"))
    if path.suffix in (".js", ".css", ".html")
]
DRAW = """
const data = JSON.parse(document.getElementById("data").textContent);
Plotly.newPlot("plot", [{type: data.type, x: data.x, y: data.x, z: data.z}]);
document.getElementById("plot").dataset.drawn = "yes";
"""


def test_the_built_package_holds_every_asset(tmp_path):
    assert len(ASSETS) > 5
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q"]
    command += ["egg_info", "--egg-base", str(tmp_path)]
    command += ["build_py", "--build-lib", str(tmp_path / "built")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for asset in ASSETS:
        assert (tmp_path / "built" / asset).read_bytes() == (ROOT / asset).read_bytes()


def test_a_file_beside_a_module_is_read():
    import util.pages.report

    style = beside(util.pages.report.__file__, "report.css")
    assert style == (ROOT / "util/pages/report.css").read_text(encoding="utf-8")


def test_pages_of_a_folder_share_one_plotly(tmp_path):
    for name in ("one", "two"):
        write_page(tmp_path / f"{name}.html", name, "<main></main>", style="", script="let a;")
    shared = tmp_path / "plotly.min.js"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "one.html", "plotly.min.js", "two.html",
    ]  # fmt: skip
    assert shared.stat().st_size > 3_000_000
    assert all(file.stat().st_size < 2_000 for file in tmp_path.glob("*.html"))
    written, before = shared.read_bytes(), shared.stat().st_ino
    write_page(tmp_path / "one.html", "one", "", style="", script="let a;")
    assert shared.stat().st_ino == before
    shared.write_text("of another version")
    write_page(tmp_path / "one.html", "one", "", style="", script="let a;")
    assert shared.read_bytes() == written


def test_a_page_without_a_script_needs_no_plotly(tmp_path):
    path = write_page(tmp_path / "page.html", "Title", "<p>text</p>", style="")
    assert list(tmp_path.iterdir()) == [path]
    assert "<script" not in path.read_text(encoding="utf-8")


def test_only_scripts_with_the_nonce_of_the_page_may_run(tmp_path):
    def written(data):
        path = write_page(
            tmp_path / "p.html", "T", "", style="", script="let a;", data=json_for_page(data)
        )
        html = path.read_text(encoding="utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html).group(1)
        return html, policy

    html, policy = written("a")
    assert policy.startswith("default-src 'none'")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    (nonce,) = re.findall(r"'nonce-([^']+)'", policy)
    assert len(base64.b64decode(nonce)) == 32
    assert html.count(f'<script nonce="{nonce}"') == 2 == html.count("<script ") - 1  # the data
    assert nonce not in written("b")[0]  # nobody can write data that know it
    assert written("a") == (html, policy)


@pytest.mark.parametrize("kind", ["scatter3d", "scattergl", "heatmap"])
def test_a_page_opens_from_a_moved_folder(tmp_path, visit, kind):
    folder = tmp_path / "written"
    folder.mkdir()
    heights = [[1, 2], [3, 4]] if kind == "heatmap" else [1, 2]
    data = json_for_page({"type": kind, "x": [1, 2], "z": heights})
    body = '<main><p>text</p></main><div id="plot" style="height: 300px"></div>'
    write_page(folder / "page.html", "T", body, style="", script=DRAW, data=data)
    moved = folder.rename(tmp_path / "moved # here")
    page, errors, files = visit(moved / "page.html")
    page.wait_for_selector("#plot[data-drawn=yes] svg.main-svg", state="attached")
    assert errors == []
    asked = [url for url in files if not url.startswith(("data:", "blob:"))]
    assert asked == [(moved / name).as_uri() for name in ("page.html", "plotly.min.js")]
    assert not page.locator("#without-plotly").is_visible()


def test_a_page_that_was_copied_away_alone_says_what_it_needs(tmp_path, visit):
    body = '<main><p>text</p></main><div id="plot"></div>'
    path = write_page(tmp_path / "page.html", "T", body, style="", script=DRAW)
    (tmp_path / "plotly.min.js").unlink()
    page, errors, _ = visit(path)
    said = page.locator("#without-plotly")
    assert said.is_visible() and "plotly.min.js in the same folder" in said.inner_text()
    assert page.get_by_text("text", exact=True).is_visible()
    assert errors == ["Failed to load resource: net::ERR_FILE_NOT_FOUND"]


def test_a_script_that_was_written_into_a_page_does_not_run(tmp_path, visit):
    path = write_page(tmp_path / "p.html", "T", "<p>text</p>", style="", script="let a;")
    evil = "<script>document.title = 'run'</script><p onclick=\"document.title = 'run'\">text</p>"
    path.write_text(path.read_text(encoding="utf-8").replace("<p>text</p>", evil))
    page, _, _ = visit(path)
    page.get_by_text("text", exact=True).click()
    assert page.title() == "T"
