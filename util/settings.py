"""Settings of a script."""

import dataclasses
import errno
import math
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TextIO, TypeVar, Union, get_args, get_origin, get_type_hints

from util import processes
from util.errors import NO_SPACE, REFUSALS, DiskFullError, UserError, without_password
from util.metadata import WARNING
from util.runs import find_run, read_description, script_of

SettingsT = TypeVar("SettingsT")


# Settings that say where a run is and what it started from, not what it computes.
PROVENANCE = ("preset", "original", "resume", "results")


def parse_settings(
    default: SettingsT,
    presets: dict[str, dict[str, Any]],
    argv: Sequence[str] | None = None,
    changeable_on_resume: Sequence[str] = (),
) -> SettingsT:
    """Settings of a script: its defaults, then a preset or another run, then the command line.

    A number that was edited on top of the script wins over a preset, and this is said. `SHIPPED` of
    the class holds the numbers as they came, of those fields that a preset changes.

    `--resume` alone means the newest run in the folder `results`; with a number or path that run.
    A resumed run keeps its own settings; of them only `changeable_on_resume` may be given again.
    `--from` starts a new run with the settings of another, any of which may be given again.

    Args:
        default: the frozen dataclass instance on top of the script, with the fields `PROVENANCE`.
        presets: name -> values that differ from the defaults; an explicit option wins over a
            preset.
        argv: the command line without the program's name; None for `sys.argv`.
        changeable_on_resume: names of fields that may differ from the run resumed.

    Raises:
        UserError: a field is changed that a resumed run cannot change, or there is no such run.
        SystemExit: code 2 for a misspelt option or a value of the wrong kind, 0 after `--help`.
    """
    argv = _give_bare_resume_a_value(list(sys.argv[1:] if argv is None else argv))
    _refuse_preset_of_another_script(argv, presets, getattr(default, "PRESETS_ELSEWHERE", {}))

    def parse(base: SettingsT) -> SettingsT:
        return parse_options(base, argv)

    asked = parse(default)
    if asked.original:
        return _as_of_another_run(asked, default, parse)
    if asked.resume:
        folder = find_run(asked.resume, Path(asked.results), script_of(type(default)))
        saved = settings_from_json(type(default), read_description(folder)["settings"])
        resumed = dataclasses.replace(parse(saved), resume=str(folder))
        _refuse_changes(resumed, saved, changeable_on_resume, folder)
        return resumed
    if asked.preset not in presets:
        raise UserError(f"--preset {asked.preset}: must be one of {', '.join(presets)}")
    return parse(dataclasses.replace(default, **_without_edited(default, asked.preset, presets)))


def _without_edited(
    default: Any, name: str, presets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The values of a preset, but for fields that were edited on top of the script."""
    shipped = {field.name: field.default for field in dataclasses.fields(default)}
    shipped |= getattr(default, "SHIPPED", {})
    taken = {}
    for field, value in presets[name].items():
        own = getattr(default, field)
        if own == shipped[field]:
            taken[field] = value
        elif own != value and processes.is_main():
            print(f"note: {field} {own}, edited on top of the script, wins over preset {name}")
    return taken


def with_edits(kind: type[SettingsT], page: Any) -> SettingsT:
    """Settings of a script that builds on another one: their defaults, and what was edited there.

    Args:
        kind: their class.
        page: `SETTINGS` of the other script.
    """
    fields = dataclasses.fields(page)
    edited = {f.name: getattr(page, f.name) for f in fields if getattr(page, f.name) != f.default}
    return kind(**edited)


def _as_of_another_run(
    asked: SettingsT, default: SettingsT, parse: Callable[[SettingsT], SettingsT]
) -> SettingsT:
    """Settings of a new run: those of the run of `--from` where no option says otherwise."""
    for name in ("resume", "preset"):
        if getattr(asked, name) != getattr(default, name):
            raise UserError(f"--from with --{name}: a run has one beginning, give one of them")
    folder = find_run(asked.original, Path(asked.results), script_of(type(default)), "from")
    described = read_description(folder)
    if "guidance" in described:
        raise UserError(
            f"--from {asked.original}: that run learnt from feedback; fine-tune again with "
            "human_guidance/VAE_feedback_framework.py"
        )
    saved = settings_from_json(type(default), described["settings"])
    here = {name: getattr(default, name) for name in PROVENANCE}
    return dataclasses.replace(parse(dataclasses.replace(saved, **here)), original=str(folder))


def parse_options(default: SettingsT, argv: Sequence[str] | None = None) -> SettingsT:
    """Settings of a script without presets: its defaults, then the command line.

    Args:
        default: the frozen dataclass instance on top of the script.
        argv: the command line without the program's name; None for `sys.argv`.

    Raises:
        SystemExit: code 2 for a misspelt option or a value of the wrong kind, 0 after `--help`.
    """
    import tyro

    argv = _by_new_names(sys.argv[1:] if argv is None else argv, getattr(default, "RENAMED", {}))
    # An error of tyro's quotes the words of the command line, so it gets them without passwords.
    values = [word.partition("=")[2] if word.startswith("--") else word for word in argv]
    hidden = {without_password(value): value for value in values if "://" in value}
    argv = [without_password(word) for word in argv]
    about = sys.modules[type(default).__module__].__doc__.split("\n\n")[0]
    settings = tyro.cli(type(default), default=default, args=argv, description=about)
    given = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    shown = {name: v for name, v in given.items() if isinstance(v, str) and v in hidden}
    return dataclasses.replace(settings, **{name: hidden[v] for name, v in shown.items()})


def _by_new_names(argv: Sequence[str], renamed: Mapping[str, str]) -> list[str]:
    """The command line with today's names for options that an older version named otherwise."""
    options = {_option(old): _option(new) for old, new in renamed.items()}
    parts = (word.partition("=") for word in argv)
    return [options.get(name, name) + equals + value for name, equals, value in parts]


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _give_bare_resume_a_value(argv: list[str]) -> list[str]:
    """`--resume` at the end or before another option means the newest run."""
    for place in range(len(argv) - 1, -1, -1):
        bare = place + 1 == len(argv) or argv[place + 1].startswith("--")
        if argv[place] == "--resume" and bare:
            argv = [*argv[: place + 1], "last", *argv[place + 1 :]]
    return argv


def _refuse_preset_of_another_script(
    argv: Sequence[str], presets: Mapping[str, Any], elsewhere: Mapping[str, str]
) -> None:
    words = [part for word in argv for part in word.split("=", 1)]
    for option, name in zip(words, words[1:], strict=False):
        if option == "--preset" and name in elsewhere and name not in presets:
            raise UserError(f"--preset {name}: a preset of {elsewhere[name]}; run that script")


def _refuse_changes(new: Any, saved: Any, changeable: Sequence[str], folder: Path) -> None:
    for field in dataclasses.fields(saved):
        name = field.name
        if name in (*changeable, *PROVENANCE) or getattr(new, name) == getattr(saved, name):
            continue
        raise UserError(
            f"--{name.replace('_', '-')} {getattr(new, name)} differs from {getattr(saved, name)} "
            f"of {folder}; a resumed run can change only {', '.join(changeable)}: "
            "leave it out or start a new run"
        )


def settings_from_json(
    kind: type[SettingsT], values: Mapping[str, Any], more: bool = False
) -> SettingsT:
    """Rebuild a settings dataclass; tuples come back from JSON as lists.

    A field that an older version did not have takes its value in `BEFORE` of the class, which is
    what was done then, or else its default. A field that has been renamed since (`RENAMED` of the
    class) keeps its value.

    Args:
        kind: the dataclass.
        values: field -> value, as in settings.json.
        more: ignore values that are no fields, as of a script that builds on the class.

    Raises:
        UserError: a field is unknown, as in a run of a newer version, or of another type.
    """
    renamed = getattr(kind, "RENAMED", {})
    values = {renamed.get(name, name): value for name, value in values.items()}
    values = dict(getattr(kind, "BEFORE", {})) | values
    names = {field.name for field in dataclasses.fields(kind)}
    odd = sorted(set(values) - names)
    if more:
        values = {name: value for name, value in values.items() if name in names}
    elif odd:
        raise UserError(
            f"settings.json was written by another version: there is no setting {odd[0]!r} here"
        )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    types = get_type_hints(kind)
    for name, value in values.items():
        if not _is_of_type(value, types[name]):
            raise UserError(
                f"settings.json: {name} is {str(value)[:40]!r}, expected {_in_words(types[name])}; "
                "restore the file or start a new run"
            )
    return kind(**values)


def _is_of_type(value: Any, kind: Any) -> bool:
    """Whether a value of settings.json fits the annotation of a field."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin in (Union, UnionType):
        return any(_is_of_type(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(each) == len(value) and all(map(_is_of_type, value, each))
    if kind is float:
        return type(value) in (int, float)
    return isinstance(value, str) if kind is Path else type(value) is kind


def _in_words(kind: Any) -> str:
    """An annotation for the user: `int`, `one of a, b or None`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        return " or ".join("null" if one is NoneType else _in_words(one) for one in inner)
    if origin is tuple:
        return f"a list of {_in_words(inner[0])}"
    return kind.__name__


def take_fields(kind: type[SettingsT], settings: Any, **more: Any) -> SettingsT:
    """A dataclass filled from settings that have fields of the same names.

    Args:
        kind: the dataclass.
        settings: an instance of another one.
        more: values that win over those of the settings.
    """
    names = [field.name for field in dataclasses.fields(kind) if hasattr(settings, field.name)]
    return kind(**{name: getattr(settings, name) for name in names} | more)


def changed_settings(settings: Any) -> list[str]:
    """Settings that differ from their defaults, as `name value`, but for `PROVENANCE`."""
    default = type(settings)()
    names = [f.name for f in dataclasses.fields(settings) if f.name not in PROVENANCE]
    return [
        without_password(f"{name} {getattr(settings, name)}")
        for name in names
        if getattr(settings, name) != getattr(default, name)
    ]


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers that a setting can have: low <= x <= high, without an end that is excluded."""

    low: float = -math.inf
    high: float = math.inf
    without: tuple[float, ...] = ()

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and value not in (*self.without, math.inf)

    def __str__(self) -> str:
        least = f"{'above' if self.low in self.without else 'at least'} {self.low:.10g}"
        if self.high == math.inf:
            return least
        return f"{least} and {'below' if self.high in self.without else 'at most'} {self.high:.10g}"


AT_LEAST_0, AT_LEAST_1, ABOVE_0 = Range(0), Range(1), Range(0, without=(0,))


def refuse_out_of_range(settings: Any, ranges: Mapping[str, Range]) -> None:
    """Refuse numbers that mean nothing, before anything is read or made.

    Args:
        settings: a dataclass; None passes, of a tuple every value is looked at.
        ranges: field -> its numbers.

    Raises:
        UserError: a number is outside its range, or is NaN.
    """
    for name, numbers in ranges.items():
        values = getattr(settings, name)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value not in numbers:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {numbers}")


def name_options(message: str) -> str:
    """An error or note with the options of the command line for arguments in backticks.

    Examples:
        >>> name_options("`image_size` 50: must be 32 or 64")
        '--image-size 50: must be 32 or 64'
    """
    return re.sub(r"`(\w+)`", lambda found: _option(found[1]), message)


def notes_for_user(notes: Iterable[str]) -> list[str]:
    """Notes as terminal, settings.json and report show them.

    Each once, those that begin with WARNING first, with options for arguments in backticks.

    Examples:
        >>> notes_for_user(["no classes; name one as `label`", "WARNING: 2 ids match"])
        ['WARNING: 2 ids match', 'no classes; name one as --label']
    """
    return sorted(map(name_options, dict.fromkeys(notes)), key=lambda n: not n.startswith(WARNING))


CLOSED_PIPE = 141  # as a shell reports a program that SIGPIPE ended
RESUMES = "stopped; nothing is lost: --resume goes on from the last finished epoch"


def run_script(
    main: Callable[[], Any], stopped: str = "stopped; give the same command again"
) -> None:
    """Run `main` as a command, in one process or in all that torchrun started.

    A user's mistake, and what the system refuses, print one line on stderr and exit with code 2.
    Ctrl-C and SIGTERM print `stopped`, which says how to continue, and exit with code 130 and 143.
    A full disk prints both and exits with 2. If whoever reads stdout has gone (`| head`), the
    script ends silently with code 141, as other programs do.
    """
    try:
        try:
            with processes.stoppable(), processes.joined():
                try:
                    main()
                finally:  # before Python ends, which reports errors in its own words
                    _flush_output()
        except Exception as error:
            said, code = _in_one_line(error, stopped)
            if said is None and processes.world_size() == 1:
                raise
            processes.exit_saying(traceback.format_exc() if said is None else said, code)
    except KeyboardInterrupt as stop:  # also one that comes while a lost connection is reported
        processes.exit_saying(stopped, processes.code_of(stop))


class _OutputError(OSError):
    """Standard output or standard error cannot be written."""


def _discard(stream: TextIO) -> None:
    """Let all that is still written to a stream vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _flush_output() -> None:
    """Write what `print` has left in the buffers.

    Raises:
        _OutputError: it cannot be written. It is lost then, so that nothing fails again.
    """
    for name, stream in (("standard output", sys.stdout), ("standard error", sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            _discard(stream)
            raise _OutputError(error.errno, error.strerror, name) from error


def _nobody_reads() -> bool:
    """Whether stdout or stderr is a pipe whose reader has ended; it is closed then.

    Not every failed `print` leaves something in a buffer that `_flush_output` would find.
    """
    if not hasattr(select, "poll"):
        return True
    gone = False
    for stream in filter(None, (sys.stdout, sys.stderr)):
        watch = select.poll()
        watch.register(stream.fileno(), 0)
        if any(event & select.POLLERR for _, event in watch.poll(0)):
            _discard(stream)
            gone = True
    return gone


def _in_one_line(error: Exception, stopped: str) -> tuple[str | None, int]:
    """What to print about an error and the exit code; None where it is one of the program."""
    closed = isinstance(error, OSError) and error.errno == errno.EPIPE
    if closed and (isinstance(error, _OutputError) or _nobody_reads()):
        return "", CLOSED_PIPE
    if isinstance(error, UserError):
        said, full = name_options(" ".join(str(error).split())), isinstance(error, DiskFullError)
    elif isinstance(error, OSError) and error.errno in REFUSALS:
        where = f"cannot use {str(error.filename)[:60]}: " if error.filename else ""
        said, full = f"{where}{error.strerror}", error.errno in NO_SPACE
    else:
        return None, 1
    return f"error: {said}" + (f" ({stopped})" if full else ""), 2
