"""The thesis's study of feedback on dSprites: its images and its anchors.

6,144 unrotated squares and 6,144 unrotated hearts, in all sizes and at all positions. Hearts are
anchored at (-1, 0), squares at (1, 0).
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from human_guidance.feedback_helpers import Feedback, check_feedback
from human_guidance.guidance_report import Guidance
from util.errors import explain_os_error
from util.files import write_atomically
from util.runs import write_table
from util.simulators.dsprites import DSPRITES_FILE, FACTOR_SIZES, FACTORS, load_dsprites, rows_of

SHAPES = {0: "square", 2: "heart"}  # shape in latents_classes -> its name
DSPRITES_ANCHORS = {"heart": (-1.0, 0.0), "square": (1.0, 0.0)}
# Indices of scale, posX and posY of the hearts of case 1.
ANCHORED_HEARTS = ((3, 4), (5, 10, 15, 25), (5, 15, 20, 25))
UNSEEN_HEARTS = ((3, 4), (17, 22), (7, 12))


def dsprites_guidance(table: pd.DataFrame, case: int, delta: float) -> Guidance:
    """The anchors of the thesis's study.

    Args:
        table: Unique_ID, shape, and the indices scale, posX, posY of each image.
        case: 1 anchors all squares and 32 hearts, 2 all squares and hearts.
        delta: weight of every anchor.
    """
    square, heart = (table["shape"] == name for name in ("square", "heart"))
    shown = heart & _at(table, ANCHORED_HEARTS) if case == 1 else heart
    unseen = heart & _at(table, UNSEEN_HEARTS)
    anchors, held_out = (
        _anchored(table, chosen, delta)
        for chosen in (square | shown, unseen if case == 1 else None)
    )
    return Guidance(anchors, held_out)


def _at(table: pd.DataFrame, indices: tuple[tuple[int, ...], ...]) -> pd.Series:
    """(N,) bool: rows whose scale, posX and posY are all among the indices given."""
    names = ("scale", "posX", "posY")
    return pd.concat([table[n].isin(i) for n, i in zip(names, indices, strict=True)], axis=1).all(1)


def _anchored(table: pd.DataFrame, chosen: pd.Series | None, delta: float) -> Feedback | None:
    if chosen is None:
        return None
    rows = table[chosen]
    anchors = np.array([DSPRITES_ANCHORS[shape] for shape in rows["shape"]])
    feedback = pd.DataFrame(
        {"Unique_ID": rows["Unique_ID"], "delta": delta, "group": rows["shape"]}
        | dict(zip(("x_anchor", "y_anchor"), anchors.T, strict=True))
    )
    return check_feedback(feedback, table["Unique_ID"], 2)


def write_squares_and_hearts(folder: Path, published: str | None) -> tuple[Path, Path]:
    """Write the unrotated squares and hearts as a data set, unless it is there.

    Args:
        folder: where to write it.
        published: the npz of dSprites; None takes DataSets/dSprites, or renders the same images.

    Returns:
        the array file and the CSV with a row per image.
    """
    source = Path(published) if published else DSPRITES_FILE if DSPRITES_FILE.is_file() else None
    name = "squares_hearts" if source else "squares_hearts_rendered"
    images, table = folder / f"{name}.npz", folder / f"{name}.csv"
    if not (images.is_file() and table.is_file()):
        with explain_os_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        rows = unrotated()
        found = load_dsprites(source, rows_of(rows.loc[:, list(FACTORS)].to_numpy()))
        with write_atomically(images) as temporary:
            np.savez_compressed(temporary, imgs=255 * found.imgs)
        named = rows.assign(shape=rows["shape"].map(SHAPES))[["shape", "scale", "posX", "posY"]]
        ids = named.astype(str).agg("_".join, axis=1)
        write_table(table, named.assign(Unique_ID=ids))
    return images, table


def unrotated() -> pd.DataFrame:
    """Indices of the factors of all squares and hearts of orientation 0, a row per image."""
    scale, x, y = (range(FACTOR_SIZES[FACTORS.index(name)]) for name in ("scale", "posX", "posY"))
    return pd.DataFrame(product([0], SHAPES, scale, [0], x, y), columns=list(FACTORS))
