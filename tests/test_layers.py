"""Imports point downwards only, also those inside functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEVELS = {
    "optimization": 3,
    "human_guidance": 3,
    "InfoMAX_VAE_framework": 2,
    "VAE_framework": 2,
    "models": 1,
    "quantitative_metrics": 1,
    "util": 0,
}
# Peers share a level and do not know each other, but for the script that InfoMAX builds on.
PEERS = {("InfoMAX_VAE_framework", "VAE_framework")}
TOP_LEVEL = set(
    "README.md environment.yml models quantitative_metrics optimization util human_guidance "
    "VAE_framework.py InfoMAX_VAE_framework.py tests "
    "Makefile pyproject.toml LICENSE CHANGELOG.md CITATION.cff".split()
)
# What some scripts need and training must do without is imported where it is used.
HEAVY = {"umap", "plotly", "cp_measure", "torchsummary", "torchvision", "tensorboard"}
# What training must do without too, since it takes a second; scipy and skimage load it when asked.
SLOW = {"sklearn", "scipy.stats", "skimage.measure"}


def modules():
    for name in LEVELS:
        script = ROOT / f"{name}.py"
        yield from [script] if script.is_file() else sorted((ROOT / name).rglob("*.py"))


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", list(modules()), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for other in set(imports(tree)) & LEVELS.keys() - {own}:
        allowed = LEVELS[other] < LEVELS[own] or (own, other) in PEERS
        assert allowed, f"{path.name} imports {other}"
    on_top = {
        name
        for node in tree.body
        for name in imports(ast.Module([node], []))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert not on_top & HEAVY, f"{path.name} imports {on_top & HEAVY} at its top"


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
