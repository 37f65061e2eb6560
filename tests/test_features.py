"""Every feature of the full group against cp_measure's, which measures one cell at a time."""

from pathlib import Path

import numpy as np
import pytest
from plain_features import measure_plainly
from scipy.ndimage import gaussian_filter
from skimage.morphology import disk, erosion, opening, reconstruction

from util.cell_features import measure_features
from util.data_processing import CellSource, load_cells
from util.features.block import Block
from util.features.correlation import _mean_and_variance
from util.features.granularity import granularity

JURKAT = (
    Path(__file__).parents[2] / "shared" / "data" / "jurkat_cell_cycle" / "cells_40x40x3_uint16.npz"
)
NAMES = ["DNA", "ER", "RNA"]
SIZE = 24
ROWS, COLUMNS = np.indices((SIZE, SIZE))


def filled(outlines, levels, seed=0, dtype=np.uint8):
    """Cells of random grey levels from a range, (n, 3, SIZE, SIZE)."""
    rng = np.random.default_rng(seed)
    outlines = np.asarray(outlines, dtype=bool)[:, None]
    grey = rng.integers(*levels, (len(outlines), 3, *outlines.shape[2:]), endpoint=True)
    return (outlines * grey).astype(dtype)


def points(*places):
    outline = np.zeros((SIZE, SIZE), dtype=bool)
    outline[tuple(np.transpose(places))] = True
    return outline


TINY = [
    points((3, 3)),
    points((3, 3), (3, 4)),
    points((3, 3), (4, 3)),
    points((3, 3), (4, 4)),
    points((3, 3), (3, 4), (4, 3)),
    points((3, 3), (3, 4), (4, 3), (4, 4)),
    points((3, 3), (3, 4), (3, 5), (3, 6)),
    points((3, 3), (4, 4), (5, 5), (6, 6)),
]
AT_THE_BORDER = [
    points((0, 0)),
    points((23, 23), (23, 22), (22, 23)),
    (ROWS < 5) & (COLUMNS < 6),
    (ROWS > 15) & (COLUMNS > 10),
    (ROWS < 1) & (COLUMNS < 30),
    ROWS >= 0,
]
SYMMETRIC = [
    np.hypot(ROWS - 11, COLUMNS - 11) <= 8,
    np.hypot(ROWS - 11.5, COLUMNS - 11.5) <= 9,
    (np.abs(ROWS - 11) <= 5) & (np.abs(COLUMNS - 11) <= 5),
    np.abs(ROWS - 11) + np.abs(COLUMNS - 11) <= 9,
]


def crescent():
    return (np.hypot(ROWS - 12, COLUMNS - 12) <= 11) & (np.hypot(ROWS - 12, COLUMNS - 18) > 9)


def spiral():
    turn = np.linspace(0, 3.5 * np.pi, 2000)
    return points(
        *np.column_stack((12 + turn * np.sin(turn), 12 + turn * np.cos(turn))).astype(int)
    )


def comb():
    return (ROWS > 2) & (ROWS < 21) & (COLUMNS > 2) & ((COLUMNS % 4 < 2) | (ROWS < 6))


def flat(outline, *levels):
    return outline * np.reshape(levels, (3, 1, 1))


def both_tables(images, masked, full_scale):
    names = NAMES[: images.shape[1]]
    table, _ = measure_features(
        images, masked, channel_names=names, groups="full", n_jobs=1, progress=False
    )
    plain = measure_plainly(images, masked, names, full_scale)
    assert list(table) == list(plain)
    return table, plain


def differing(table, plain):
    """Names of the columns that differ by over 1e-6 of max(1, |value|), or in what is undefined."""
    found, expected = table.to_numpy(), plain.to_numpy()
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):  # inf - inf
        same |= np.abs(found - expected) <= 1e-6 * np.maximum(1, np.abs(expected))
    return set(table.columns[~same.all(axis=0)])


def assert_as_plain(images, masked, full_scale):
    table, plain = both_tables(images, masked, full_scale)
    assert not differing(table, plain)
    return table


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(filled(TINY, (1, 255)), id="tiny"),
        pytest.param(filled(AT_THE_BORDER, (1, 255)), id="at the border"),
        pytest.param(filled(SYMMETRIC, (1, 255)), id="symmetric"),
        pytest.param(filled([crescent(), spiral(), comb()], (1, 255)), id="not convex"),
        pytest.param(filled([*TINY, *SYMMETRIC], (1, 3)), id="few levels"),
        pytest.param(filled([*TINY, *AT_THE_BORDER, comb()], (0, 2), 1), id="black pixels"),
    ],
)
def test_every_feature_of_masked_cells(images):
    assert_as_plain(images, True, 255)


def test_every_feature_of_simulated_cells():
    images = load_cells(CellSource(simulated_cells=4)).images
    table = assert_as_plain(images, True, 255)
    assert table.shape == (4, 564)
    assert table.drop(columns=table.filter(like="Costes")).notna().all().all()


@pytest.mark.parametrize("full_scale", [4095, 65535])
def test_every_feature_of_windows(full_scale):
    """Dim cells on a noisy background, of 12 and of 16 bits, one so bright that it saturates."""
    rng = np.random.default_rng(0)
    outlines = [np.hypot((ROWS - 12) * a, COLUMNS - 11) <= 8 for a in (0.9, 1.2, 1.6, 2.0)]
    cells = (
        gaussian_filter(rng.random((4, 3, SIZE, SIZE)), (0, 0, 2, 2)) * np.stack(outlines)[:, None]
    )
    noise = rng.normal(0.1, 0.01, cells.shape)
    images = (cells + noise).clip(0, 0.7) * full_scale
    images[0] *= 2
    images = images.clip(0, full_scale).round().astype(np.uint16)
    assert images.max() == full_scale
    assert_as_plain(images, False, full_scale)


@pytest.mark.skipif(not JURKAT.exists(), reason="needs the Jurkat cells")
def test_every_feature_of_real_windows():
    images = np.load(JURKAT)["images"].transpose(0, 3, 1, 2)[::1500]
    assert_as_plain(images, False, 2 ** int(images.max()).bit_length() - 1)


def test_channels_that_depend_on_each_other():
    """Thresholds of Costes that fall on grey levels: equal, double and opposite channels."""
    rng = np.random.default_rng(0)
    outlines = np.stack([*SYMMETRIC, crescent()])
    grey = rng.integers(10, 110, outlines.shape)
    double = np.stack((grey, 2 * grey, 250 - 2 * grey), axis=1) * outlines[:, None]
    same = np.stack((grey, grey, grey // 8), axis=1) * outlines[:, None]
    table = assert_as_plain(np.concatenate((double, same)).astype(np.uint8), True, 255)
    np.testing.assert_allclose(table["Correlation_Slope_DNA_ER"], [2] * 5 + [1] * 5)
    np.testing.assert_allclose(table["Correlation_Pearson_DNA_RNA"][:5], -1)


def test_thresholds_of_many_small_cells():
    """Backgrounds of a few pixels, whose correlation is often 0 up to rounding."""
    rng = np.random.default_rng(1)
    outlines = np.zeros((150, 8, 8), dtype=bool)
    for outline, (height, width) in zip(outlines, rng.integers(2, 7, (150, 2)), strict=True):
        outline[:height, :width] = True
    images = filled(outlines, (1, 6), seed=2)
    images[::2, 1] += images[::2, 0]
    images[1::2, 2] += (images[1::2, 0] > 3) * np.uint8(8)
    table = assert_as_plain(images, True, 255)
    assert 0.3 < table["Correlation_Costes_1_DNA_ER"].notna().mean() < 1


def test_flat_channels():
    """They correlate with nothing; cp_measure divides the rounding of their mean by itself."""
    outlines = [TINY[0], TINY[5], SYMMETRIC[0], crescent()]
    images = filled(outlines, (1, 255))
    images[:, 0] = 77 * (images[:, 0] > 0)
    images[:, 1] = 0
    table, plain = both_tables(images, True, 255)
    undefined = [f"Correlation_{name}_DNA_RNA" for name in ("Pearson", "Slope")]
    assert differing(table, plain) <= set(undefined) | {"Correlation_Slope_DNA_ER"}
    assert table[[*undefined, "Correlation_Pearson_DNA_ER"]].isna().all().all()
    assert (table.filter(regex="Granularity.*ER|Std.*(DNA|ER)") == 0).all().all()
    assert table.filter(regex="Texture.*ER|FracAtD.*ER").isna().all().all()


def test_granularity_is_an_opening_by_reconstruction():
    """Without cp_measure: by scikit-image, on a cell larger than the disc of the background."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((48, 48))
    mask = np.hypot(rows - 24, columns - 23) <= 21
    image = (gaussian_filter(rng.random((48, 48)), 1.5) * 4000 * mask).astype(np.uint16)
    features = granularity(Block(mask[None], image[None, None], 4095))[0]
    eroded = top_hat = image - opening(image, disk(10))
    left = [image.sum()]
    for _ in range(8):
        eroded = erosion(eroded, disk(1))
        left.append(reconstruction(eroded, top_hat, footprint=disk(1)).sum())
    expected = -100 * np.diff(left) / left[0]
    assert (expected[:5] > 0.1).all()
    np.testing.assert_allclose([*features.values()], expected[:, None], atol=1e-9)


def test_grey_levels_beyond_the_largest_sum_of_32_bits():
    """White cells of 16 bits: n Σ x² of a 128 x 128 cell is 1e18."""
    images = np.full((2, 2, 128, 128), 65535, np.uint16)
    images[0, 0, :64] -= 1
    images[1, 0, 5, 5] -= 3
    images[:, 1] = images[:, 0]
    table, _ = measure_features(images, True, channel_names=["a", "b"], n_jobs=1, progress=False)
    np.testing.assert_allclose(table["Correlation_Pearson_a_b"], 1, rtol=1e-12)
    expected = images[:, 0].reshape(2, -1).astype(np.longdouble).std(axis=1) / 65535
    np.testing.assert_allclose(table["Intensity_StdIntensity_a"], expected.astype(float), rtol=1e-9)


def test_the_line_of_costes_is_numpys_to_the_last_bit():
    """A threshold may fall on a grey level: then the last bit says which pixels are below it."""
    rng = np.random.default_rng(0)
    count = rng.integers(2, 3000, 40)
    values = rng.integers(0, 65536, count.sum()) / 65535
    mean, variance = _mean_and_variance(values, np.repeat(np.arange(40), count), count)
    stretches = np.split(values, np.cumsum(count)[:-1])
    np.testing.assert_array_equal(mean, [np.mean(stretch) for stretch in stretches])
    np.testing.assert_array_equal(variance, [np.var(stretch, ddof=1) for stretch in stretches])
