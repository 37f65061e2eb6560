"""Patterns of image file names: `{well}_{site}_{channel}.tif`."""

import re
from collections.abc import Collection
from pathlib import Path

from util.errors import UserError


def pattern_to_regex(pattern: str) -> re.Pattern:
    """`{well}_{site}_{channel}.tif` as a regular expression; a name used twice must match the same.

    Raises:
        UserError: the braces do not close.
    """
    parts, seen = [], set()
    for literal, name in re.findall(r"([^{}]+)|\{(\w+)\}", pattern):
        if literal:
            parts.append(re.escape(literal))
        elif name == "_":
            parts.append("[^/]+?")
        else:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
    if re.sub(r"[^{}]+|\{\w+\}", "", pattern):
        raise UserError(f"pattern {pattern!r}: names stand in braces, as in {{well}}_{{channel}}")
    return re.compile("".join(parts))


def match_files(
    folder: Path, pattern: str, option: str, leave_out: Collection[Path] = ()
) -> dict[frozenset, dict[str, Path]]:
    """Files whose name fits: frozenset of (key, value) -> channel -> file, in the files' order.

    Args:
        folder: of the files; those in hidden folders are passed over.
        pattern: e.g. `{well}_{site}_{channel}.tif`.
        option: that gives the pattern, for an error.
        leave_out: files that are something else.

    Raises:
        UserError: no file fits, or two files are the same channel of the same field.
    """
    regex = pattern_to_regex(pattern)
    names = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path not in leave_out
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    found: dict[frozenset, dict[str, Path]] = {}
    for name in names:
        if fit := regex.fullmatch(name):
            key = fit.groupdict()
            channel = key.pop("channel", "")
            files = found.setdefault(frozenset(key.items()), {})
            if channel in files:
                raise UserError(
                    f"{option} {pattern}: {files[channel].name} and {name} are the same image; "
                    "name the part in which they differ"
                )
            files[channel] = folder / name
    if not found:
        example = f"is called {names[0]}" if names else "is not there: the folder is empty"
        raise UserError(f"{option} {pattern}: no file of {folder} fits; the first {example}")
    return found
