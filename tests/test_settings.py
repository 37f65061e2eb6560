"""Settings from the command line, from presets and from other runs; how a script ends."""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import tyro

import InfoMAX_VAE_framework
import VAE_framework
from quantitative_metrics import performance_metrics
from util.errors import UserError
from util.runs import create_run_folder, describe_run, write_json
from util.settings import (
    changed_settings,
    parse_settings,
    run_script,
    settings_from_json,
    take_fields,
    with_edits,
)


@dataclasses.dataclass(frozen=True)
class Toy:
    """Settings of a script that does nothing."""

    epochs: int = 100
    """At most so many passes."""
    base: int = 32
    """Channels of the first block."""
    preset: str = "thesis"
    """Named set of values."""
    original: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Start with the settings of a run."""
    resume: str | None = None
    """Go on with a run."""
    results: str = "results"
    """Folder of the runs."""


PRESETS = {"thesis": {}, "laptop": {"epochs": 10, "base": 8}}


def parse(argv, results, changeable=("epochs",)):
    return parse_settings(Toy(results=str(results)), PRESETS, argv, changeable)


def test_preset_gives_way_to_an_explicit_option(tmp_path):
    assert parse([], tmp_path) == Toy(results=str(tmp_path))
    assert parse(["--preset", "laptop"], tmp_path).base == 8
    chosen = parse(["--preset", "laptop", "--base", "16"], tmp_path)
    assert (chosen.base, chosen.epochs) == (16, 10)
    with pytest.raises(UserError, match="--preset desktop"):
        parse(["--preset", "desktop"], tmp_path)


def test_an_edited_number_wins_over_a_preset_and_is_said(tmp_path, capsys):
    edited = Toy(base=4, results=str(tmp_path))
    chosen = parse_settings(edited, PRESETS, ["--preset", "laptop"])
    assert (chosen.base, chosen.epochs) == (4, 10)
    said = capsys.readouterr().out
    assert said == "note: base 4, edited on top of the script, wins over preset laptop\n"
    assert parse_settings(edited, PRESETS, ["--preset", "laptop", "--base", "2"]).base == 2
    assert parse_settings(Toy(base=8), PRESETS, ["--preset", "laptop"]).base == 8
    assert parse_settings(edited, PRESETS, []) == edited
    assert capsys.readouterr().out == said


def test_edits_of_a_page_hold_for_scripts_that_build_on_it():
    @dataclasses.dataclass(frozen=True)
    class More(Toy):
        epochs: int = 7
        more: int = 1

    assert with_edits(More, Toy()) == More()
    assert with_edits(More, Toy(base=4)) == More(base=4)
    assert with_edits(More, Toy(epochs=100)) == More()  # nothing was edited
    assert with_edits(More, Toy(epochs=50)).epochs == 50


PAGES = (
    "VAE_framework",
    "InfoMAX_VAE_framework",
    "optimization.hyper_optimization",
    "optimization.hyper_optimization_bs_fixed",
    "optimization.compare_methods",
)


@pytest.mark.parametrize("name", PAGES)
def test_the_numbers_as_they_came_are_those_of_the_page(name):
    script = importlib.import_module(name)
    presets = getattr(script, "PRESETS", InfoMAX_VAE_framework.PRESETS)
    presets = VAE_framework.PRESETS if name.endswith("hyper_optimization") else presets
    assert {n for values in presets.values() for n in values} <= script.SETTINGS.SHIPPED.keys()
    for field, value in script.SETTINGS.SHIPPED.items():
        assert getattr(script.SETTINGS, field) == value


ASK = """
import sys
from util.settings import parse_settings
import VAE_framework, InfoMAX_VAE_framework as infomax
assert VAE_framework.__file__.startswith(sys.argv[1])
for script in (VAE_framework, infomax):
    chosen = parse_settings(script.SETTINGS, script.PRESETS, ["--preset", "laptop"])
    print(chosen.base, chosen.epochs, chosen.beta)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["base: int = 32", "beta: float = 1.0"], ["base: int = 4", "beta: float = 2.0"]),
        (["SETTINGS = Settings()"], ["SETTINGS = Settings(base=4, beta=2.0)"]),
    ],
)
def test_an_edited_script_keeps_its_numbers(tmp_path, old, new):
    root = Path(VAE_framework.__file__).parent
    text = (root / "VAE_framework.py").read_text()
    for before, after in zip(old, new, strict=True):
        assert text.count(before + "\n") == 1
        text = text.replace(before, after)
    (tmp_path / "VAE_framework.py").write_text(text)
    shutil.copy(root / "InfoMAX_VAE_framework.py", tmp_path)
    found = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.stderr == ""
    note = "note: base 4, edited on top of the script, wins over preset laptop"
    assert found.stdout.splitlines() == [note, "4 20 2.0"] * 2


def test_misspelt_option_exits_with_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["--epoch", "3"], tmp_path)
    assert caught.value.code == 2
    assert "--epochs" in capsys.readouterr().err


def test_resume_takes_the_settings_of_the_run(tmp_path):
    folder = create_run_folder(tmp_path, "toy")
    write_json(folder / "settings.json", describe_run(Toy(base=4, epochs=7)))
    for asked in (["--resume"], ["--resume", "1"], ["--resume", str(folder)]):
        resumed = parse([*asked, "--epochs", "9"], tmp_path)
        assert (resumed.base, resumed.epochs, resumed.resume) == (4, 9, str(folder))
    with pytest.raises(UserError, match="--base 5 differs from 4"):
        parse(["--resume", "--base", "5"], tmp_path)
    with pytest.raises(UserError, match="no settings.json"):
        parse(["--resume", str(tmp_path / "nowhere")], tmp_path)
    with pytest.raises(UserError, match="no run of this script"):
        parse(["--resume"], tmp_path / "empty")


def test_a_new_run_from_the_settings_of_another(tmp_path):
    folder = create_run_folder(tmp_path, "toy")
    made = Toy(base=4, epochs=7, preset="laptop", results="elsewhere")
    write_json(folder / "settings.json", describe_run(made))
    for asked in ("last", "1", str(folder)):
        again = parse(["--from", asked, "--epochs", "9"], tmp_path)
        assert again == Toy(base=4, epochs=9, original=str(folder), results=str(tmp_path))
    for argv, words in (
        (["--from", "1", "--resume"], "--from with --resume"),
        (["--from", "1", "--preset", "laptop"], "--from with --preset"),
        (["--from", "2"], "`from` 2: no run of that number"),
        (["--from", "nowhere"], "`from` nowhere: no settings.json there"),
    ):
        with pytest.raises(UserError, match=words):
            parse(argv, tmp_path)
    write_json(folder / "settings.json", describe_run(made, guidance={"run": "0001"}))
    with pytest.raises(UserError, match="learnt from feedback"):
        parse(["--from", "1"], tmp_path)


def test_settings_of_an_older_version_take_defaults_and_a_newer_one_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Made:
        epochs: int = 5
        sizes: tuple[int, ...] = (1, 2)

    assert settings_from_json(Made, {"sizes": [3]}) == Made(sizes=(3,))
    with pytest.raises(UserError, match="no setting 'depth'"):
        settings_from_json(Made, {"epochs": 1, "depth": 2})


def test_a_field_of_today_means_what_an_older_version_did():
    @dataclasses.dataclass(frozen=True)
    class Made:
        epochs: int = 5
        fit: str = "scale"
        BEFORE: ClassVar = {"fit": "squeeze"}

    assert settings_from_json(Made, {"epochs": 1}) == Made(epochs=1, fit="squeeze")
    assert settings_from_json(Made, {"fit": "scale"}) == Made()


def test_a_users_mistake_is_one_line_and_code_2(capsys):
    def fails():
        raise UserError("`array_key` x: there is no such array; give `dataset` too")

    with pytest.raises(SystemExit) as caught:
        run_script(fails)
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "error: --array-key x: there is no such array; give --dataset too\n"
    )


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the settings of the script, and one more."""

    epochs: int
    base: int = 1
    low: bool = False


def test_fields_of_the_same_name_are_taken():
    assert take_fields(Part, Toy(epochs=7), low=True) == Part(7, 32, True)


def test_what_differs_from_the_defaults_is_named():
    changed = dataclasses.replace(Toy(), base=4, results="elsewhere", preset="laptop")
    assert changed_settings(changed) == ["base 4"] and changed_settings(Toy()) == []


@dataclasses.dataclass(frozen=True)
class Renamed(Toy):
    """The same script, later."""

    downsample: int = 1
    """Was called shrink."""
    RENAMED: ClassVar = {"shrink": "downsample"}


@pytest.mark.parametrize("words", [["--shrink", "2"], ["--shrink=2"], ["--downsample", "2"]])
def test_old_options_stay(tmp_path, words):
    default = Renamed(results=str(tmp_path))
    assert parse_settings(default, PRESETS, words).downsample == 2


def test_settings_of_an_old_run_load_by_their_new_names():
    assert settings_from_json(Renamed, {"shrink": 4, "base": 8}) == Renamed(base=8, downsample=4)
    assert settings_from_json(Toy, {"base": 8, "downsample": 4}, more=True) == Toy(base=8)


@pytest.mark.parametrize("words", [["--resume"], ["--from", "last"]])
def test_last_run_is_that_of_the_script(tmp_path, words):
    """Thirteen scripts call their settings `Settings`; a run of another one lies behind."""
    trained = dataclasses.replace(VAE_framework.SETTINGS, results=str(tmp_path), base=4)
    scored = dataclasses.replace(performance_metrics.SETTINGS, results=str(tmp_path))
    for settings in (trained, scored):
        folder = create_run_folder(tmp_path, "x")
        write_json(folder / "settings.json", describe_run(settings))
    default = dataclasses.replace(VAE_framework.SETTINGS, results=str(tmp_path))
    asked = parse_settings(default, VAE_framework.PRESETS, words)
    assert asked.base == 4 and str(tmp_path / "0001-x") in (asked.resume, asked.original)


@pytest.mark.parametrize("words", [["--preset", "views"], ["--seed", "1", "--preset=views"]])
def test_a_preset_of_another_script_is_named(words, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Made(Toy):
        PRESETS_ELSEWHERE: ClassVar = {"views": "Other_framework.py"}

    with pytest.raises(UserError, match=r"--preset views: a preset of Other_framework\.py"):
        parse_settings(Made(), {"default": {}}, words)
