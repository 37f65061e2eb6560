"""What each score means: a row per score, which every table, figure, grid and message asks.

scores.csv holds a score under its name, once for each reference space where it compares with one
(`pixels`, `features`). Some scores also come by part: `accuracy[G1]` is that of a class,
`backbone_spearman[drug]` that of a branch, `spearman[dose]` that of a column. The bounds of a
bootstrap interval are `backbone_spearman_low` and `backbone_spearman_high`. In a table with a
column per score, the reference follows the name: `mean_area pixels`.

To add a score that needs one projection and the table of the cells, write a function of a `Subject`
and give it a row with `compute`; it is then scored, written, tabled, compared and drawn like the
others. The order of the rows is that of the tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Literal, get_args

import numpy as np
import pandas as pd

from quantitative_metrics.MINE_metric import analytic_information
from util.errors import UserError

Group = Literal["neighbours", "information", "classifier", "backbone", "axes", "agreement"]
GROUPS: tuple[Group, ...] = get_args(Group)
SPACES = ("pixels", "features")  # the reference spaces
AREA = 19  # of a score of 1 over the twenty neighbourhood sizes of the thesis


@dataclass(frozen=True)
class Subject:
    """One projection, for the scores that look at nothing else.

    Attributes:
        codes: (N, d) coordinates, finite.
        table: N rows of what is known of the cells.
        logvar: (N, d) log-variances, where the codes are the means of a stochastic encoder.
        seed: of what is random in the score.
    """

    codes: np.ndarray
    table: pd.DataFrame
    logvar: np.ndarray | None
    seed: int


@dataclass(frozen=True)
class Score:
    """A row of the catalogue.

    Attributes:
        name: in scores.csv or, for what the training measured, in runs.csv.
        title: for people; the reference space or the part follows it.
        question: that it answers.
        source: publication or origin.
        group: that `metrics` names to compute it; `training` for what the training measured.
        low, high: its range.
        chance: value of a projection that knows nothing of the cells; words where it depends on
            the data, "" where there is none.
        better: which way is better; of a correlation the size counts, not the sign.
        compares: whether it compares with a reference space, and comes once for each.
        parts: what it also comes by; `column`: only by that.
        curve: whether it has a value at every neighbourhood size k.
        interval: whether it has bounds `_low` and `_high`.
        derived: whether it only sums up other scores.
        brief: whether the table of a single run shows it.
        many: whether tables and figures of many runs show it.
        bar: whether the bar chart of accuracies shows it.
        compute: its function, which gives the score, or the score and its standard error, or None
            for a projection that has no such score; None where `scores.py` computes a whole group.
    """

    name: str
    title: str
    question: str
    source: str
    group: Group | Literal["training"]
    low: float = 0
    high: float = 1
    chance: float | str = 0
    better: Literal["higher", "lower", "size", "neither"] = "higher"
    compares: bool = False
    parts: Literal["", "class", "branch", "column"] = ""
    curve: bool = False
    interval: bool = False
    derived: bool = False
    brief: bool = True
    many: bool = True
    bar: bool = False
    compute: Callable[[Subject], float | tuple[float, float] | None] | None = None

    @property
    def heading(self) -> str:
        """The title as a figure or table begins with it."""
        return self.title[:1].upper() + self.title[1:]

    @property
    def columns(self) -> list[str]:
        """Names where each score is a column: `mean_area pixels`; none of curves and parts."""
        if self.curve or self.parts == "column":
            return []
        return [f"{self.name} {space}" for space in SPACES] if self.compares else [self.name]


_neighbours = partial(Score, group="neighbours", chance=0.5, compares=True)
_accuracy = partial(Score, group="classifier", chance="share of the largest class")
_backbone = partial(
    Score,
    question="Do the cells keep the order of a known continuum (dose, time, morph) along a line?",
    group="backbone",
    low=-1,
    parts="branch",
    interval=True,
)
_agreement = partial(Score, group="agreement")
_information = partial(Score, group="information", high=inf)
_training = partial(
    Score, source="the training log", group="training", high=inf, chance="", better="neither"
)
_hidden = partial(_training, many=False)


def _area(name: str, title: str, low: float, chance: float, derived: bool = False) -> Score:
    question = f"How high is {title} over neighbourhoods of 1 % to 20 % of the cells together?"
    scaled = {"low": low * AREA, "high": AREA, "chance": chance * AREA}
    marks = {"brief": False, "derived": derived}
    return _neighbours(f"{name}_area", f"{title} area", question, "thesis", **scaled, **marks)


def _replicates(where: str, title: str, among: str, brief: bool = True) -> tuple[Score, Score]:
    """Rows of both scores of replicates, among these cells."""
    of_neighbours, of_ranking = (
        partial(_agreement, f"replicate_{name}{where}", f"replicate {words}{title}", brief=brief)
        for name, words in (("neighbours", "neighbours"), ("precision", "mAP"))
    )
    return (
        of_neighbours(
            f"What share of the 15 nearest cells{among} is of the same replicate?",
            "this work",
            chance="share of replicates",
        ),
        of_ranking(
            f"How early do cells of the same replicate come in the order of all cells{among}?",
            "Kalinin et al. 2025",
            chance="about the share of replicates",
        ),
    )


def _encoder_information(subject: Subject) -> tuple[float, float] | None:
    if subject.logvar is None:
        return None
    found = analytic_information(subject.codes, subject.logvar, seed=subject.seed)
    return found.value, found.standard_error


CATALOGUE = (
    _neighbours(
        "trustworthiness",
        "trustworthiness",
        "Are the cells that lie side by side in the projection truly alike?",
        "Venna and Kaski 2001",
        curve=True,
    ),
    _neighbours(
        "continuity",
        "continuity",
        "Do cells that are truly alike stay side by side in the projection?",
        "Venna and Kaski 2001",
        curve=True,
    ),
    _neighbours(
        "lcmc",
        "LCMC",
        "Which share of the nearest cells is the same in the projection, beyond chance?",
        "Chen and Buja 2009",
        low=-0.5,
        chance=0,
        curve=True,
    ),
    _area("trustworthiness", "trustworthiness", low=0, chance=1 / 2),
    _area("continuity", "continuity", low=0, chance=1 / 2),
    _area("lcmc", "LCMC", low=-1 / 2, chance=0),
    _area("mean", "mean", low=-1 / 6, chance=1 / 3, derived=True),
    _accuracy(
        "accuracy",
        "accuracy",
        "How many cells does a small neural network assign to their class from the coordinates?",
        "thesis",
        parts="class",
        bar=True,
    ),
    _accuracy(
        "balanced_accuracy",
        "balanced accuracy",
        "The same, with every class counting equally however rare it is?",
        "Brodersen et al. 2010",
        chance="1 / number of classes",
        bar=True,
    ),
    _accuracy(
        "m1", "m1", "BBBC031: how many cells find their process, 1 to 6?", "thesis", bar=True
    ),
    _accuracy("m2", "m2", "BBBC031: as m1, half way along or further?", "thesis", bar=True),
    _accuracy("m3", "m3", "BBBC031: as m2, with processes in pairs?", "thesis", bar=True),
    _accuracy(
        "knn_accuracy",
        "k-NN accuracy",
        "How many cells have the class of most of their 15 nearest cells in the projection?",
        "Cover and Hart 1967",
    ),
    _accuracy(
        "logistic_accuracy",
        "logistic accuracy",
        "How many cells are assigned to their class by straight boundaries?",
        "Cox 1958",
    ),
    _accuracy(
        "accuracy_across_plates",
        "accuracy across plates",
        "How many cells have the class of most of their 15 nearest cells on other plates?",
        "Ljosa et al. 2013",
    ),
    _backbone("backbone_spearman", "backbone Spearman", source="thesis; Spearman 1904"),
    _backbone("backbone_kendall", "backbone Kendall", source="thesis; Kendall 1945 (tau-b)"),
    _information(
        "mutual_information",
        "mutual information",
        "How many nats of the pixels or features can be read from the coordinates?",
        "Belghazi et al. 2018; Poole et al. 2019",
        compares=True,
    ),
    _information(
        "analytic_information",
        "encoder information",
        "How many nats does the VAE's encoder pass on, which its own noise does not hide?",
        "Hoffman and Johnson 2016",
        compute=_encoder_information,
    ),
    _agreement(
        "view_information",
        "view information",
        "How many nats do the codes of two views of a held-out cell say about each other?",
        "Gelfand and Yaglom 1957; Bach and Jordan 2002",
        high=inf,
    ),
    *_replicates("", "", ""),
    *_replicates("_within", " within plates", " of the same plate", brief=False),
    *_replicates("_across", " across plates", " of other plates"),
    _agreement(
        "profile_precision",
        "profile mAP",
        "How early do mean codes of one class, or of one replicate, come among all others?",
        "Kalinin et al. 2025",
        chance="about the share of the class",
    ),
    _agreement(
        "profile_retrieved",
        "profiles retrieved",
        "For what share of the classes is that beyond chance (corrected p below 0.05)?",
        "Kalinin et al. 2025; Benjamini and Hochberg 1995",
        chance="at most 0.05",
    ),
    _agreement(
        "plate_mixing",
        "plate mixing",
        "Are cells of other plates as often among the 15 nearest as in a random order, which is 1?",
        "after Büttner et al. 2019 (kBET)",
        high=inf,
        chance=1,
        better="neither",
    ),
    _agreement(
        "seed_overlap",
        "seed overlap",
        "What share of the 15 nearest cells is the same with another seed?",
        "this work",
        chance="15 / number of cells",
    ),
    _agreement(
        "seed_distance",
        "seed distance",
        "How far is the projection from that of another seed, once turned and scaled onto it?",
        "Gower 1975",
        chance="near 1",
        better="lower",
    ),
    Score(
        "spearman",
        "Spearman",
        "Does one axis of the projection follow a measured column, rising or falling?",
        "Spearman 1904",
        group="axes",
        low=-1,
        better="size",
        parts="column",
    ),
    _training(
        "valid_reconstruction",
        "validation reconstruction",
        "How badly does the decoder predict held-out cells, in nats per image?",
        low=-inf,
        better="lower",
    ),
    _training(
        "valid_mutual_information",
        "validation mutual information",
        "How much do held-out images and codes share by the InfoMax critic, in nats?",
        low=-inf,
        better="higher",
    ),
    _training("valid_kl", "validation KL", "How far are the posteriors from the prior, in nats?"),
    _hidden(
        "valid_loss", "validation loss", "How large is the objective?", low=-inf, better="lower"
    ),
    _hidden("epochs", "epochs", "How many epochs did the run train?"),
    _hidden("best_epoch", "best epoch", "Which epoch had the lowest validation loss?"),
    _hidden("batch_size", "batch size", "How many cells had a training step at the end?"),
    _hidden("training_seconds", "training time", "How many seconds did training take?"),
    _hidden("wall_seconds", "wall time", "How many seconds did the whole trial take?"),
)
_BY_NAME = [(name, score) for score in CATALOGUE for name in (score.name, score.title)]
_BY_NAME.sort(key=lambda named: -len(named[0]))  # mean_area before mean
GOAL = "reconstruction"  # of a grid, short for valid_reconstruction


def split_name(name: str) -> tuple[Score | None, str]:
    """The row of a score, and what follows its name or title: part, bound, reference space, k.

    Examples:
        >>> score, rest = split_name("trustworthiness pixels k=25")
        >>> score.title, rest
        ('trustworthiness', ' pixels k=25')
        >>> split_name("backbone_kendall_low")[1], split_name("my_own")
        ('_low', (None, 'my_own'))
    """
    for known, score in _BY_NAME:
        rest = name.removeprefix(known)
        bound = score.interval and rest in ("_low", "_high")
        if name.startswith(known) and (not rest or rest[0] in "[ " or bound):
            return score, rest
    return None, name


def title_of(name: str) -> str:
    """A score for people: `mean area pixels` of `mean_area pixels`; a part keeps its name."""
    score, rest = split_name(name)
    rest = rest if "[" in rest else rest.replace("_", " ")
    return f"{score.title if score else ''}{rest}"


def is_whole(name: str) -> bool:
    """Whether a score is of all cells: not of a single class, branch or column, and no bound."""
    score, rest = split_name(name)
    return "[" not in name and not (score and rest.startswith("_"))


def better_when(name: str) -> int:
    """1 where a higher score is better, -1 where a lower one is, 0 where neither is.

    A column that is not in the catalogue, as of a table from elsewhere, is better when higher.
    """
    score, _ = split_name(name)
    return {"lower": -1, "neither": 0}.get(score.better, 1) if score else 1


def counts_by_size(name: str) -> bool:
    """Whether the sign of a score says nothing of its quality, as of a correlation."""
    score, _ = split_name(name)
    return score is not None and score.better == "size"


def goodness(values: pd.Series) -> pd.Series:
    """The values of a score, called by its name, turned such that the highest is the best."""
    name = str(values.name)
    return values.abs() if counts_by_size(name) else better_when(name) * values


def goal_column(goal: str) -> str:
    """Column of runs.csv that a goal means."""
    return f"valid_{GOAL}" if goal == GOAL else goal


def refuse_unknown_score(argument: str, score: str | None) -> None:
    """Refuse a goal that no run can have, before the first run begins.

    Raises:
        UserError: no score has that name.
    """
    known = [name for row in CATALOGUE if row.group != "training" for name in row.columns]
    row, rest = split_name(score or "")
    by_column = row is not None and row.parts == "column" and rest.endswith("]")
    if score is not None and score not in (GOAL, *known) and not by_column:
        raise UserError(
            f"`{argument}` {score}: no such score; there are {', '.join([GOAL, *known])}, "
            "spearman[<column>]"
        )


def _groups_help() -> str:
    brief = [score for score in CATALOGUE if score.brief]
    titles = {group: [score.title for score in brief if score.group == group] for group in GROUPS}
    return "Groups of scores to compute: " + "; ".join(
        f"{group} ({', '.join(of_group)})" for group, of_group in titles.items()
    )


GROUPS_HELP = _groups_help()  # for --help of `metrics`
