"""Trustworthiness, continuity and LCMC at every neighbourhood size, from one pass over the ranks.

The co-ranking framework of Lee and Verleysen 2009: rho is the rank of cell j around cell i in the
reference space, r its rank in the projection, both counted from 1 by Euclidean distance.
Trustworthiness T and continuity C are those of Venna and Kaski 2001, the local continuity
meta-criterion LCMC that of Chen and Buja 2009.

Counts by rank are enough for all k at once, so no N x N matrix of ranks is ever held. A pair with
r < rho is an intruder at every k in r <= k < rho and adds rho - k to the sum in T: it starts with
rho - r at k = r and loses 1 per step. With Q(k) the number of pairs with both ranks <= k, there are
N k - Q(k) intruders at k, hence

    S_T(k) = sum over pairs with r <= k of max(rho - r, 0) - sum over k' < k of (N k' - Q(k'))

and the same with rho and r exchanged for C; LCMC needs only Q.

A cell is never its own neighbour, also where it has duplicates. Ties are broken by index. Where
cells share a code, they are broken at random instead, in the same way in both spaces: the table may
be sorted by class, and index would then put some classes first. Each seed breaks them in another
way; the values of a sorted and of a shuffled table differ no more than those of two seeds.

A distance is squared, in float64 and kept to 52 - log2(N) bits (33 at N = 310,194) beside the index
in one 64-bit sort key. That is exact for 8-bit pixels, whose dot products are summed as integers;
elsewhere distances are float64 (matmul of centred data; direct differences up to 16 columns), and
duplicates are given the same column.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from quantitative_metrics.local_quality import LocalQuality, LocalQualityCounter, neighbourhood
from util.devices import select_rows
from util.errors import UserError
from util.latents import finite_matrix, first_alike, to_unit_scale

MEASURES = ("trustworthiness", "continuity", "lcmc", "mean")

_DIRECT_COLUMNS = 16  # up to here distances come from differences, not from a matmul
_EXACT_COLUMNS = 1024  # x 2^14 for a product of 8-bit numbers = 2^24: float32 sums so many exactly
_INT32_COLUMNS = 2**17  # x 2^14 = 2^31: up to here a dot product of 8-bit numbers fits int32
_HELD_BYTES = 2**29  # of distances kept for their mirror image, a quarter of N x N at most
_BLOCK_BYTES = {"cpu": 2**29, "cuda": 2**31}  # of a block of rows x N distances
_TILE_ROWS = {"cpu": 1024, "cuda": 4096}  # of one matmul, and at most in such a block
_RANK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}  # rows x N whose ranks are worked on at once


@dataclass(frozen=True)
class CoRanking:
    """How well one projection keeps the neighbourhoods of the reference space.

    n_tied: cells that share their code with another cell.
    k: (K,) every neighbourhood size below N / 2, from 1.
    trustworthiness, continuity: (K,) in [0, 1], higher is better, 1 when every neighbourhood is
        kept.
    lcmc: (K,) overlap / (N k) - k / (N - 1), in [-k / (N - 1), 1 - k / (N - 1)], higher is better,
        0 by chance.
    standard_errors: for each name of `MEASURES` (K,) standard error from ranking a sample of cells;
        0 when all cells were ranked.
    area_errors: for each name the standard error of `areas()`.
    corner: (c, c) number of pairs with reference rank row + 1 and projection rank column + 1.
    local_quality: score per ranked cell.
    """

    n_cells: int
    n_ranked: int
    n_tied: int
    k: np.ndarray
    trustworthiness: np.ndarray
    continuity: np.ndarray
    lcmc: np.ndarray
    standard_errors: dict[str, np.ndarray] = field(repr=False)
    area_errors: dict[str, float] = field(repr=False)
    corner: np.ndarray = field(repr=False)
    local_quality: LocalQuality = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        """(K,) mean of trustworthiness, continuity and LCMC."""
        return (self.trustworthiness + self.continuity + self.lcmc) / 3

    @property
    def sampled(self) -> bool:
        """Whether only a sample of the cells was ranked."""
        return self.n_ranked < self.n_cells

    def at(self, k: int) -> dict[str, float]:
        """Value of each of `MEASURES` at one neighbourhood size.

        Raises:
            UserError: k is not in 1..K.

        """
        column = self._column(k)
        return {name: float(getattr(self, name)[column]) for name in MEASURES}

    def errors_at(self, k: int) -> dict[str, float]:
        """Standard error of each of `MEASURES` at one neighbourhood size, as `at`."""
        column = self._column(k)
        return {name: float(self.standard_errors[name][column]) for name in MEASURES}

    def areas(self) -> dict[str, float]:
        """Area of each of `MEASURES` over `area_sizes`, by the trapezoid rule over x = 0..19.

        A perfect T or C has 19; a perfect LCMC, which is 1 - k / (N - 1), about 17.
        """
        columns = area_sizes(self.n_cells) - 1
        return {name: float(np.trapezoid(getattr(self, name)[columns])) for name in MEASURES}

    def _column(self, k: int) -> int:
        if not 1 <= k <= len(self.k):
            raise UserError(
                f"k = {k}: sizes for {self.n_cells} cells go from 1 to {len(self.k)} (k < N / 2)"
            )
        return int(k) - 1


def area_sizes(n_cells: int) -> np.ndarray:
    """(20,) neighbourhood sizes of the thesis, 1 % to 20 % of N - 1, here never below 1."""
    return np.maximum((np.linspace(0.01, 0.2, 20) * (n_cells - 1)).astype(int), 1)


def co_ranking(
    reference: np.ndarray,
    projections: dict[str, np.ndarray],
    *,
    sample: int | None = None,
    seed: int = 0,
    kt: int | None = None,
    ks: int | None = None,
    corner: int = 250,
    device: str | torch.device = "cpu",
) -> dict[str, CoRanking]:
    """Compare the neighbour ranks of several projections with those of one reference space.

    The reference is ranked once for all projections. Beside the data, memory is a few blocks of
    rows x N and, where all cells are ranked, up to 512 MiB of distances kept for their mirror
    image.

    Args:
        reference: (N, ...) numbers, flattened to (N, D): pixels or features. uint8 is fastest.
        projections: name -> (N, d) codes in the same order of cells.
        sample: rank only this many randomly drawn cells, each against all N, and estimate the rest;
            None, or N and more, ranks every cell.
        seed: of the sample, and of the order that breaks ties.
        kt, ks: neighbourhood of the local quality; None as in `local_quality.neighbourhood`.
        corner: ranks on a side of the co-ranking picture.
        device: torch device; it must support float64 ("cpu" or "cuda", not "mps").

    Returns:
        A `CoRanking` per projection, in the given order.

    Raises:
        UserError: fewer than 3 cells, NaN or infinite values, lengths that differ, or a bad number
            above.

    Examples:
        A line of cells keeps every neighbourhood, whichever way it runs:

        >>> line = np.arange(12.0)[:, None]
        >>> round(co_ranking(line**2, {"turned": -(line**2)})["turned"].at(3)["trustworthiness"], 6)
        1.0
    """
    device = torch.device(device)
    if device.type not in _BLOCK_BYTES:
        raise UserError(f"device {device}: ranks need float64, so use one of cpu, cuda")
    data, codes = _checked_spaces(reference, projections)
    n_cells = len(data)
    if corner < 1:
        raise UserError(f"corner = {corner}: the co-ranking picture needs at least 1 rank")
    kt, ks = neighbourhood(n_cells, kt, ks)
    cells = torch.as_tensor(_cells_to_rank(n_cells, sample, seed), device=device)

    reference_space = _space(data, device)
    tallies = {
        name: _Tally(
            n_cells=n_cells,
            n_ranked=len(cells),
            n_tied=_n_tied(array),
            corner=min(corner, n_cells - 1),
            kt=kt,
            ks=ks,
            device=device,
        )
        for name, array in codes.items()
    }
    shuffled = torch.as_tensor(np.random.default_rng(seed).permutation(n_cells), device=device)
    for places, tied in ((None, False), (shuffled, True)):
        spaces = {
            name: _space(array, device)
            for name, array in codes.items()
            if (tallies[name].n_tied > 0) == tied
        }
        if spaces:
            _count(reference_space, spaces=spaces, tallies=tallies, cells=cells, places=places)
    return {name: tally.result(cells) for name, tally in tallies.items()}


def _n_tied(codes: np.ndarray) -> int:
    """Cells that share their code with another cell."""
    first, counts = np.unique(first_alike(codes), return_counts=True)
    return int(counts[counts > 1].sum())


def _count(
    reference_space: "_DirectSpace | _MatmulSpace",
    spaces: dict[str, "_DirectSpace | _MatmulSpace"],
    tallies: dict[str, "_Tally"],
    cells: torch.Tensor,
    places: torch.Tensor | None,
) -> None:
    """Rank the cells in the reference and in these projections, block by block, and count pairs."""
    for rows, distances in reference_space.row_blocks(cells):
        reference_order = _order(distances, rows, places)
        reference_ranks = _ranks(reference_order)
        for name, space in spaces.items():
            order = _order(space.distances(rows), rows, places)
            tallies[name].add(rows, reference_order, reference_ranks, order)


def neighbour_orders(
    codes: np.ndarray,
    *,
    sample: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All other cells around each cell, nearest first, a block of cells at a time.

    Args:
        codes: (N, d), finite.
        sample, seed, device: as for `co_ranking`.

    Yields:
        (B,) rows and (B, N - 1) rows of their neighbours; ties by index.

    Raises:
        UserError: NaN or infinite values, or a bad sample.
    """
    data, device = _as_matrix("codes", codes), torch.device(device)
    cells = torch.as_tensor(_cells_to_rank(len(data), sample, seed), device=device)
    for rows, distances in _space(data, device).row_blocks(cells):
        yield rows.cpu().numpy(), _order(distances, rows).cpu().numpy()


def _checked_spaces(
    reference: np.ndarray, projections: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N, D) reference space and (N, d) codes by name, finite, of the same three cells or more."""
    data = _as_matrix("the reference space", reference)
    n_cells = len(data)
    if n_cells < 3:
        raise UserError(f"{n_cells} cells: neighbour ranks need at least 3")
    codes = {name: _as_matrix(f"projection {name}", array) for name, array in projections.items()}
    for name, array in codes.items():
        if len(array) != n_cells:
            raise UserError(
                f"projection {name}: {len(array)} rows, but the reference space has {n_cells} cells"
            )
    return data, codes


def _as_matrix(name: str, array: np.ndarray) -> np.ndarray:
    """(N, D) finite numbers of (N, ...), in a unit that squares can be taken of."""
    array = np.asarray(array)
    if array.ndim > 2:
        array = array.reshape(len(array), int(np.prod(array.shape[1:])))
    array = finite_matrix(array, name)
    if array.dtype == np.float64:  # of other types no square of a number leaves float64
        return to_unit_scale(array)
    return array.view(np.uint8) if array.dtype == bool else array


def _cells_to_rank(n_cells: int, sample: int | None, seed: int) -> np.ndarray:
    """Sorted indices of the cells whose neighbours are ranked."""
    if sample is None or sample >= n_cells:
        return np.arange(n_cells)
    if sample < 2:
        raise UserError(f"sample = {sample}: a standard error needs at least 2 cells")
    return np.sort(np.random.default_rng(seed).choice(n_cells, sample, replace=False))


def _space(data: np.ndarray, device: torch.device) -> "_DirectSpace | _MatmulSpace":
    """The cheapest way to distances that is exact enough for these numbers."""
    if data.shape[1] <= _DIRECT_COLUMNS:
        return _DirectSpace(data, device)
    if data.dtype == np.uint8:
        return _ByteSpace(data, device)
    return _FloatSpace(data, device)


class _DirectSpace:
    """Squared distances from differences of a few columns, in float64."""

    def __init__(self, data: np.ndarray, device: torch.device):
        self.columns = torch.tensor(data.T.astype(np.float64), device=device)  # (D, N)

    def distances(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, N) squared distances of some cells to all cells."""
        squares = self.columns.new_zeros(len(rows), self.columns.shape[1])
        difference = torch.empty_like(squares)
        for column in self.columns:
            torch.sub(column[rows, None], column, out=difference)
            squares.addcmul_(difference, difference)
        return squares

    def row_blocks(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs (rows, distances) that together hold every asked row."""
        for block in rows.split(_rank_rows(self.columns)):
            yield block, self.distances(block)


class _MatmulSpace:
    """Squared distances |x|^2 + |y|^2 - 2 x.y, tile by tile; numbers are converted as needed."""

    def __init__(self, data: np.ndarray, device: torch.device):
        with warnings.catch_warnings():  # a read-only memory map will do: nothing writes to it
            warnings.filterwarnings("ignore", message=".*not writable")
            self.data = torch.as_tensor(data, device=device)
        self.n_cells, n_columns = data.shape
        tile_rows = _TILE_ROWS[device.type]
        block_rows = _BLOCK_BYTES[device.type] // (8 * self.n_cells)
        self.block_rows = max(8, min(block_rows, tile_rows))
        self.tiles = _slices(self.n_cells, tile_rows)
        self.parts = _slices(n_columns, _EXACT_COLUMNS)
        self.norms = torch.cat([self._norms(cells) for cells in self.tiles])

    def operand(self, cells: slice | torch.Tensor, columns: slice) -> torch.Tensor:
        """(B, P) part of some rows in the number format of the matmul."""
        raise NotImplementedError

    def _norms(self, cells: slice) -> torch.Tensor:
        """(B,) float64 squared length of each row."""
        parts = (self.operand(cells, columns) for columns in self.parts)
        return sum(torch.linalg.vecdot(part, part).double() for part in parts)

    def product(self, rows: slice | torch.Tensor, cells: slice) -> torch.Tensor:
        """(B, C) float64 dot products of two sets of rows."""
        return sum(
            (self.operand(rows, columns) @ self.operand(cells, columns).T).double()
            for columns in self.parts
        )

    def tile(self, rows: slice | torch.Tensor, cells: slice) -> torch.Tensor:
        """(B, C) squared distances between two sets of rows."""
        squares = self.product(rows, cells).mul_(-2)
        squares += self.norms[rows, None]
        squares += self.norms[cells]
        return squares.clamp_(min=0)

    def mend(self, distances: torch.Tensor) -> torch.Tensor:
        """(B, N) distances with errors of rounding repaired, in place."""
        return distances

    def distances(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, N) squared distances of some cells to all cells."""
        squares = self.norms.new_empty(len(rows), self.n_cells)
        for cells in self.tiles:
            squares[:, cells] = self.tile(rows, cells)
        return self.mend(squares)

    def row_blocks(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs (rows, distances) that together hold every asked row."""
        mirrored = len(rows) == self.n_cells and 8 * self.n_cells**2 // 4 <= _HELD_BYTES
        for block, squares in self._mirrored(rows) if mirrored else self._one_by_one(rows):
            step = _rank_rows(squares)
            yield from zip(block.split(step), squares.split(step), strict=True)

    def _one_by_one(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for block in rows.split(self.block_rows):
            yield block, self.distances(block)

    def _mirrored(self, rows: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks of all rows; what lies right of the diagonal is kept for its mirror image."""
        waiting = {}
        for i, cells in enumerate(self.tiles):
            block = rows[cells]
            squares = self.norms.new_empty(len(block), self.n_cells)
            for j, others in enumerate(self.tiles):
                if j < i:
                    squares[:, others] = waiting.pop((j, i)).T
                    continue
                tile = self.tile(cells, others)
                squares[:, others] = tile
                if j > i:
                    waiting[i, j] = tile
            yield block, self.mend(squares)


class _ByteSpace(_MatmulSpace):
    """8-bit numbers, shifted to -128..127, with exact sums."""

    def __init__(self, data: np.ndarray, device: torch.device):
        # Without these instructions the integer matmul is slow, or saturates at 16 bits.
        fast = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_vnni", False)
        self.integer_matmul = fast and data.shape[1] <= _INT32_COLUMNS
        super().__init__(data, device)

    def operand(self, cells: slice | torch.Tensor, columns: slice) -> torch.Tensor:
        return self.data[cells, columns].float().sub_(128)

    def product(self, rows: slice | torch.Tensor, cells: slice) -> torch.Tensor:
        if not self.integer_matmul:
            return super().product(rows, cells)
        left, right = ((self.data[some] ^ 128).view(torch.int8) for some in (rows, cells))
        return torch._int_mm(left, right.T).double()  # 8-bit numbers, 32-bit sums


class _FloatSpace(_MatmulSpace):
    """Any numbers, centred, in float64."""

    def __init__(self, data: np.ndarray, device: torch.device):
        self.centre = torch.as_tensor(_centre(data), device=device)
        first = torch.as_tensor(first_alike(data), device=device)
        self.copies = (first != torch.arange(len(first), device=device)).nonzero()[:, 0]
        self.originals = first[self.copies]
        super().__init__(data, device)

    def operand(self, cells: slice | torch.Tensor, columns: slice) -> torch.Tensor:
        part = select_rows(self.data[:, columns], cells)
        return part.to(torch.float64, copy=True).sub_(self.centre[columns])

    def mend(self, distances: torch.Tensor) -> torch.Tensor:
        # A matmul sums in an order that depends on the place in the matrix, so equal cells could
        # differ in the last bit and lose their tie.
        distances[:, self.copies] = distances[:, self.originals]
        return distances


def _slices(length: int, step: int) -> list[slice]:
    """Slices that cut a range into steps."""
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _centre(data: np.ndarray) -> np.ndarray:
    """(D,) column means, rounded to a power of two below the spread of the numbers.

    Whole numbers stay whole, or gain a few binary digits, so that their distances are still exact
    and tie.
    """
    mean = data.mean(axis=0, dtype=np.float64)
    some = data[:: -(-len(data) // 1000)]  # enough to know the order of magnitude
    spread = np.sqrt(some.var(axis=0, dtype=np.float64).mean())
    grid = 2.0 ** np.floor(np.log2(spread)) if spread > 0 else 1.0
    return np.round(mean / grid) * grid


def _rank_rows(distances: torch.Tensor) -> int:
    """How many rows of N distances are ranked at once."""
    return max(8, _RANK_ELEMENTS[distances.device.type] // distances.shape[1])


def _order(
    distances: torch.Tensor, rows: torch.Tensor, places: torch.Tensor | None = None
) -> torch.Tensor:
    """(B, N - 1) int64 neighbours of each row's cell, nearest first, without itself.

    Works in place: the memory of `distances` becomes the result.

    Args:
        distances: (B, N) of the cells `rows` (B,) to all cells.
        rows: index of each row's cell.
        places: (N,) place of each cell in a random circle. Of those that are equally far, the next
            in the circle comes first; so each cell begins with another one. None for the index.
    """
    n_cells = distances.shape[1]
    index = torch.arange(n_cells, device=distances.device)
    if places is not None:
        index = (places - places[rows, None]) % n_cells  # (B, N)
    place_bits = (1 << (n_cells - 1).bit_length()) - 1
    # the bits of non-negative floats sort like the floats; the lowest make room for the place
    keys = distances.view(torch.int64)
    keys &= torch.iinfo(torch.int64).max ^ place_bits
    keys |= index
    keys[torch.arange(len(rows), device=keys.device), rows] = torch.iinfo(torch.int64).min
    _sort_rows(keys)
    keys &= place_bits
    if places is not None:
        return places.argsort()[(keys[:, 1:] + places[rows, None]) % n_cells]
    return keys[:, 1:]


def _sort_rows(keys: torch.Tensor) -> None:
    """Sort each row in place; on the CPU by NumPy, whose sort of integers is twice as fast."""
    if keys.device.type != "cpu":
        keys.copy_(keys.sort(dim=1).values)
        return
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(lambda part: part.numpy().sort(axis=1), keys.chunk(torch.get_num_threads())))


def _ranks(order: torch.Tensor) -> torch.Tensor:
    """(B, N) int32 rank of every cell around each row's cell, from 1; 0 for the cell itself."""
    ranks = torch.zeros(len(order), order.shape[1] + 1, dtype=torch.int32, device=order.device)
    places = torch.arange(1, order.shape[1] + 1, dtype=torch.int32, device=order.device)
    return ranks.scatter_(1, order, places.expand_as(order))


class _Tally:
    """Counts by rank of one projection, from which every measure follows."""

    def __init__(
        self, n_cells: int, n_ranked: int, n_tied: int, corner: int, kt: int, ks: int, device
    ):
        self.n_cells, self.n_ranked, self.n_tied = n_cells, n_ranked, n_tied
        self.k = torch.arange(1, (n_cells - 1) // 2 + 1, dtype=torch.int32, device=device)
        self.counts = torch.zeros(3, len(self.k), dtype=torch.int64, device=device)
        self.squares = torch.zeros(len(MEASURES), len(self.k), dtype=torch.float64, device=device)
        self.cell_areas = []
        self.corner = torch.zeros(corner, corner, dtype=torch.int64, device=device)
        self.local_quality = LocalQualityCounter(n_cells, kt, ks, device)

    def add(
        self,
        rows: torch.Tensor,
        reference_order: torch.Tensor,
        reference_ranks: torch.Tensor,
        order: torch.Tensor,
    ) -> None:
        """Count the pairs of some rows: orders are (B, N - 1), ranks (B, N)."""
        width = max(len(self.k), self.local_quality.reach, len(self.corner))
        rho = reference_ranks.gather(1, order[:, :width])  # of the neighbours in the projection
        r = _ranks(order).gather(1, reference_order[:, : len(self.k)])  # and the other way round
        counts = self._by_near_rank(rho[:, : len(self.k)], r)
        self.counts += counts.sum(dim=1)
        if self.n_ranked < self.n_cells:
            self._add_spread(counts)
        self._add_corner(rho[:, : len(self.corner)])
        self.local_quality.add(rows, order, rho)

    def _by_near_rank(self, rho: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """(3, B, K) int32: what each row adds at rank k to the sums in T and C, and to the overlap.

        rho: (B, K) reference rank of the neighbour whose projection rank is k.
        r: (B, K) projection rank of the neighbour whose reference rank is k.
        """
        intrusion = (rho - self.k).clamp_(min=0)
        extrusion = (r - self.k).clamp_(min=0)
        # the larger of both ranks is k: either r = k and rho <= k, or rho = k and r < k
        overlap = (rho <= self.k).to(torch.int32) + (r < self.k)
        return torch.stack([intrusion, extrusion, overlap])

    def _measures(self, counts: torch.Tensor, n_rows: int) -> torch.Tensor:
        """(4, ..., K) values of `MEASURES` from counts (3, ..., K) that sum over n_rows rows."""
        n, k = self.n_cells, self.k.double()
        intrusion, extrusion, overlap = counts.cumsum(dim=-1).double()
        alive = n_rows * k - overlap  # intruders at k, and as many extruders
        lost = alive.cumsum(dim=-1) - alive  # 1 per pair and step, up to k - 1
        scale = n_rows * k * (2 * n - 3 * k - 1) / 2
        trustworthiness = 1 - (intrusion - lost) / scale
        continuity = 1 - (extrusion - lost) / scale
        lcmc = overlap / (n_rows * k) - k / (n - 1)
        mean = (trustworthiness + continuity + lcmc) / 3
        return torch.stack([trustworthiness, continuity, lcmc, mean])

    def _add_spread(self, counts: torch.Tensor) -> None:
        """Each cell of a sample is a measurement of its own: keep what its spread needs."""
        values = self._measures(counts, n_rows=1)  # (4, B, K)
        self.squares += values.square().sum(dim=1)
        sizes = torch.as_tensor(area_sizes(self.n_cells) - 1, device=values.device)
        self.cell_areas.append(torch.trapezoid(values[:, :, sizes]))  # (4, B)

    def _add_corner(self, rho: torch.Tensor) -> None:
        """Count pairs by both ranks, given the reference ranks (B, c) of the nearest codes."""
        side = len(self.corner)
        inside = rho <= side
        r = torch.arange(side, device=rho.device).expand_as(rho)
        pairs = (rho[inside] - 1).to(torch.int64) * side + r[inside]
        self.corner += torch.bincount(pairs, minlength=side**2).view(side, side)

    def _standard_error(self, variance: torch.Tensor) -> torch.Tensor:
        """Of a mean over cells drawn without replacement, from the variance between cells."""
        left_out = 1 - self.n_ranked / self.n_cells
        return (variance.clamp(min=0) / self.n_ranked * left_out).sqrt()

    def result(self, cells: torch.Tensor) -> CoRanking:
        """All measures, once every row has been added."""
        values = self._measures(self.counts, self.n_ranked)
        if self.n_ranked < self.n_cells:
            m = self.n_ranked
            errors = self._standard_error((self.squares - m * values.square()) / (m - 1))
            area_errors = self._standard_error(torch.cat(self.cell_areas, dim=1).var(dim=1))
        else:
            errors = torch.zeros_like(values)
            area_errors = torch.zeros(len(MEASURES))
        trustworthiness, continuity, lcmc, _ = values.cpu().numpy()
        return CoRanking(
            n_cells=self.n_cells,
            n_ranked=self.n_ranked,
            n_tied=self.n_tied,
            k=self.k.cpu().numpy(),
            trustworthiness=trustworthiness,
            continuity=continuity,
            lcmc=lcmc,
            standard_errors=dict(zip(MEASURES, errors.cpu().numpy(), strict=True)),
            area_errors=dict(zip(MEASURES, area_errors.tolist(), strict=True)),
            corner=self.corner.cpu().numpy(),
            local_quality=self.local_quality.score(cells),
        )
