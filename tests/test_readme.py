"""What README tells people to type is understood, and the files it names are there."""

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
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = [
    block.replace("\\\n", " ").splitlines()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
]
INLINE = [code.replace("\n", " ") for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", README)]
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


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:tests|util|\.github)/[\w./-]+\.\w+", README)))
)
def test_a_file_is_there(path):
    assert (ROOT / path).is_file()
