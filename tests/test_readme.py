"""What the READMEs tell people to type is understood, and the files they name are there."""

import importlib
import inspect
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from quantitative_metrics.performance_metrics import compute_perf_metrics
from util.settings import parse_options

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("[!.]*/README.md")), ROOT / "optimization" / "RESULTS.md"]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
TEXT = "\n".join(TEXTS.values())
SHELL = [
    block.replace("\\\n", " ").splitlines() for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S)
]
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.S)
INLINE = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", PROSE)]
TYPED = [line for line in [*sum(SHELL, []), *INLINE] if ".py" in line]
COMMANDS = [
    re.sub(r"\|\w+|\.\.\.$", "", line).removeprefix("python ")  # one of a|b|c
    for line in TYPED
    if line.startswith("python ") and not line.startswith("python tests/")
]
OPTIONS = sorted(set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join([*sum(SHELL, []), *INLINE]))))
OF_OTHERS = {"--nproc", "--times", "--help", "--before"}
# Python keeps from for itself
SPELT = {"--from": "original", "--to": "end", "--no-reports": "reports"}


def settings_of(script):
    return importlib.import_module(script.removesuffix(".py").replace("/", ".")).SETTINGS


@cache
def all_settings():
    paths = [*ROOT.glob("*.py"), *ROOT.glob("[!t]*/*.py")]
    scripts = [path for path in paths if "\nSETTINGS = " in path.read_text("utf-8")]
    return [settings_of(path.relative_to(ROOT).as_posix()) for path in scripts]


def test_there_is_something_to_test():
    assert len(COMMANDS) > 12 and len(OPTIONS) > 40


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    script, *options = shlex.split(command, comments=True)
    parse_options(settings_of(script), options)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in OF_OTHERS])
def test_an_option_is_there(option):
    name = SPELT.get(option, option.removeprefix("--").replace("-", "_"))
    assert any(hasattr(settings, name) for settings in all_settings())


@pytest.mark.parametrize("line", [line for line in TYPED if " " in line])
def test_a_script_is_there(line):
    for name in re.findall(r"[\w/]+\.py\b", line):
        assert (ROOT / name).is_file() or list(ROOT.glob(f"*/{name}"))


def test_the_function_takes_what_is_shown():
    inspect.signature(compute_perf_metrics).bind("my.csv", dataset="DataSets/MySet")


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    """To a file, or to a heading of the same page."""
    text, home = TEXTS[page], (ROOT / page).parent
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (home / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_are_there(page):
    home = (ROOT / page).parent
    named = re.findall(r"`((?:[\w.]+/)*\w+\.py)`", TEXTS[page])
    named += re.findall(r"(?:tests|util|\.github)/[\w./-]+\.\w+", TEXTS[page])
    for name in named:
        assert (home / name).is_file() or (ROOT / name).is_file(), name


def test_every_folder_of_code_has_a_page():
    folders = {path.parent for path in ROOT.glob("[!.]*/*.py") if "build" not in path.parts}
    assert folders <= {path.parent for path in PAGES}


def test_a_newcomer_reads_readme_to_its_end():
    text = TEXTS["README.md"]
    assert len(text.splitlines()) <= 200 and len(text.split()) <= 2200
