"""Which files below a folder are cells, and what its subfolders mean."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from util.errors import UserError

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
OTHER_SUFFIXES = tuple(".bmp .gif .webp .jp2 .lsm .stk .czi .nd2 .lif .svs .ndpi".split())
MASK_ENDINGS = ("_mask", "_masks")  # of the names of segmentations; also _cp_masks of Cellpose
SPLITS = frozenset("train training val valid validation test testing dev eval holdout".split())

# What people call the folder of a channel: a number, a wavelength, a stain, a compartment.
CHANNEL = re.compile(
    r"(ch(annel)?|w|wave(length)?)[-_ ]?\d+|[3-8]\d\d([-_ ]?nm)?|.*("
    r"dapi|hoechst|draq|fitc|tritc|gfp|rfp|yfp|cfp|bfp|mcherry|tomato|texas|alexa|af\d{3}|cy\d|"
    r"phalloidin|actin|tubulin|lamin|mito|golgi|lyso|nucle(us|i|ar)|dna|rna|agp|er$|membrane|"
    r"cyto(plasm)?|conca|wga|syto|bright|phase|dic$|dark|bf$|red|green|blue|far).*",
    re.IGNORECASE,
)


def list_images(folder: Path, others: Counter[str] | None = None) -> list[Path]:
    """All TIFF, PNG and JPEG files below a folder, sorted by name in NFC; links are followed.

    Hidden files, segmentations (`*_mask`, `*_masks`) and, in a loop of links, folders seen before
    are passed over. A link that leads nowhere is listed, so that it can be counted.

    Args:
        folder: the data set.
        others: counts image files of other formats by their endings.

    Raises:
        UserError: there are none.
    """
    files = list(_walk(folder, Counter() if others is None else others))
    files = [file for _, file in sorted(zip(paths_below(folder, files), files, strict=True))]
    if not files:
        raise UserError(
            f"`dataset` {folder}: no TIFF, PNG or JPEG image in it or in its subfolders"
        )
    return files


def in_nfc(text: str) -> str:
    """The text with composed accents: macOS decomposes the names of files, tables are typed."""
    return unicodedata.normalize("NFC", text)


def paths_below(folder: Path, files: Sequence[Path]) -> list[str]:
    """Where the files lie in the folder, with slashes and in NFC."""
    root = os.fspath(folder)
    start = 0 if root == "." else len(root.rstrip(os.sep)) + 1
    return [in_nfc(os.fspath(file)[start:].replace(os.sep, "/")) for file in files]


def _walk(folder: Path, others: Counter[str]) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            ending = path.suffix.lower()
            is_image = ending in IMAGE_SUFFIXES and not name.startswith(".")
            is_mask = path.stem.lower().endswith(MASK_ENDINGS)
            if is_image and not is_mask and (path.is_file() or path.is_symlink()):
                yield path
            elif ending in OTHER_SUFFIXES:
                others[ending] += 1


def class_folders(
    folder: Path, paths: Sequence[str], joined: bool = False
) -> tuple[list[str], list[str]]:
    """The class of each file, which is its first folder, or "" where it lies in no subfolder.

    Args:
        folder: the data set.
        paths: of its files (`paths_below`).
        joined: whether a table says what the files are, so that the folders need no meaning.

    Returns:
        a class per file, and notes.

    Raises:
        UserError: the subfolders are splits, or the channels of the same cells.
    """
    parts = [path.split("/") for path in paths]
    classes = [part[0] if len(part) > 1 else "" for part in parts]
    names = sorted(set(classes))
    if len(names) > 1 and SPLITS.issuperset(name.lower() for name in names):
        raise UserError(
            f"`dataset` {folder} holds {_listed(names)} above the classes: give one of them, e.g. "
            f"{folder / names[0]}, or move the classes together; cells are held out here anyway"
        )
    notes = []
    if not joined and "" not in names and _same_files(parts):
        said = f"the same file names in {_listed(names)}"
        mend = "if they are channels, save one file per cell with all its channels"
        if all(CHANNEL.fullmatch(name) for name in names):
            raise UserError(
                f"`dataset` {folder} holds {said}: one folder per channel? {mend.capitalize()}; if "
                "they are classes, give a table of the cells with Unique_ID as class/file"
            )
        notes.append(f"{said}, which are taken for classes; {mend}")
    depth = max(len(part) for part in parts) - 1
    if depth > 1:
        notes.append(
            f"images lie up to {depth} folders deep: the class is the first folder "
            f"({_listed(names[:6])}{', ...' if len(names) > 6 else ''}); for another one give a "
            "table of the cells"
        )
    return classes, notes


def _same_files(parts: list[list[str]]) -> bool:
    """Whether several folders hold files of the same names."""
    files = defaultdict(set)
    for part in parts:
        files[part[0]].add("/".join(part[1:]))
    first, *others = files.values()
    return bool(others) and len(first) > 1 and all(other == first for other in others)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name}/" for name in names)
