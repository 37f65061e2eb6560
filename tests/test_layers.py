"""Imports point downwards only, also those inside functions, and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WINGS = {"util.features", "util.raw", "util.simulators", "util.pages"}
BELOW = {"util", *WINGS}
FRAMEWORKS = {"VAE_framework", "InfoMAX_VAE_framework"}
RUNS = {*FRAMEWORKS, "models", "quantitative_metrics", *BELOW}
# Room -> rooms that its modules may import, besides their own.
MAY_IMPORT = {
    "optimization": RUNS,
    "human_guidance": RUNS,  # the page aside: its one user is named in EXCEPTIONS
    "human_guidance.page": {"human_guidance", *RUNS},
    "InfoMAX_VAE_framework": RUNS,
    "VAE_framework": RUNS - FRAMEWORKS,
    "models": {"util"},
    "quantitative_metrics": {"util", "util.pages"},
    "scripts of util": BELOW,
    "util": {"util.features"},
    **{wing: {"util"} for wing in WINGS},
}
# Module -> room or module that it alone of its room may import.
EXCEPTIONS = {
    "util.data_processing": "util.simulate_cells",  # the data set `simulated`, drawn when asked for
    "human_guidance.guidance_app": "human_guidance.page",
}
SCRIPTS_OF_UTIL = ("util.Process_", "util.file_size_distribution", "util.simulate_cells")
TOP_LEVEL = set(
    "README.md environment.yml models quantitative_metrics optimization util human_guidance "
    "VAE_framework.py InfoMAX_VAE_framework.py tests "
    "Makefile pyproject.toml LICENSE CHANGELOG.md CITATION.cff".split()
)
# What some scripts need and training must do without is imported where it is used.
HEAVY = {"umap", "plotly", "cp_measure", "torchsummary", "torchvision", "tensorboard"}
# What training must do without too, since it takes a second; scipy and skimage load it when asked.
SLOW = {"sklearn", "scipy.stats", "skimage.measure"}


def sources():
    """Module -> path, of every module of the program."""
    paths = [ROOT / f"{name}.py" for name in FRAMEWORKS]
    for folder in ("optimization", "human_guidance", "models", "quantitative_metrics", "util"):
        paths += (ROOT / folder).rglob("*.py")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in sorted(names.items())}


SOURCES = sources()


def room(module):
    if module.startswith(SCRIPTS_OF_UTIL):
        return "scripts of util"
    two = ".".join(module.split(".")[:2])
    return two if two in MAY_IMPORT else module.split(".")[0]


def imported(tree):
    """Names of all that is imported, with what is taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def neighbours(source):
    """Modules of the program that a source imports."""
    found = set()
    for name in imported(ast.parse(source)):
        while name and name not in SOURCES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {""}


def wrong_imports(module, source):
    """Modules that this one may not import, but does."""
    own = room(module)
    return sorted(
        other
        for other in neighbours(source)
        if room(other) not in {own, *MAY_IMPORT[own]}
        and EXCEPTIONS.get(module) not in (other, room(other))
    )


def circle(graph):
    """Modules that import each other in a circle, and those that import these; None without.

    Modules that import none of those left are taken away, until only circles can be left.
    """
    graph = dict(graph)
    while free := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in free:
            del graph[name]
    return sorted(graph) or None


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards(module):
    source = SOURCES[module].read_text(encoding="utf-8")
    assert wrong_imports(module, source) == []
    on_top = [n for n in ast.parse(source).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {name.split(".")[0] for name in imported(ast.Module(on_top, []))}
    assert not names & HEAVY, f"{module} imports {names & HEAVY} at its top"


@pytest.mark.parametrize(
    ("module", "upwards"),
    [
        ("util.runs", "util.raw.cellprofiler"),
        ("util.runs", "util.simulators.common"),
        ("util.helpers", "util.pages.report"),
        ("util.streaming", "util.simulate_cells"),
        ("util.runs", "models.networks"),
        ("util.raw.masks", "util.simulators.common"),
        ("util.raw.segmentation", "util.pages.report"),
        ("util.simulators.horvath", "util.raw.raw_data"),
        ("util.pages.report", "util.features.cell_masks"),
        ("util.features.cell_blocks", "util.pages.report"),
        ("util.pages.report", "util.file_size_distribution"),
        ("util.simulate_cells", "models.baselines"),
        ("models.networks", "quantitative_metrics.scores"),
        ("models.networks", "util.pages.report"),
        ("models.networks", "VAE_framework"),
        ("quantitative_metrics.scores", "models.networks"),
        ("quantitative_metrics.scores", "util.raw.cellprofiler"),
        ("VAE_framework", "InfoMAX_VAE_framework"),
        ("VAE_framework", "optimization.grid"),
        ("optimization.grid", "human_guidance.feedback_helpers"),
        ("human_guidance.feedback_helpers", "optimization.grid"),
        ("human_guidance.feedback_helpers", "human_guidance.page.state"),
        ("human_guidance.page.state", "optimization.grid"),
    ],
)
def test_an_upward_import_is_found(module, upwards):
    package, _, name = upwards.rpartition(".")
    written = f"from {package} import {name}" if package else f"import {name}"
    for source in (written, f"import {upwards}", f"def later():\n    {written}"):
        assert wrong_imports(module, source) == [upwards]


def test_no_module_imports_itself_through_others():
    graph = {name: neighbours(path.read_text()) - {name} for name, path in SOURCES.items()}
    assert circle(graph) is None
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_training_needs_no_heavy_import():
    code = "import sys, VAE_framework; print(*sys.modules.keys() & set(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *sorted(HEAVY | SLOW)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_top_level_is_what_the_user_asked_for():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL
