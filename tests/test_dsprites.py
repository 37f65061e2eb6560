"""dSprites: the published frames, polygons as a reference, files of the published layout."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage

from util.errors import UserError
from util.simulators import dsprites
from util.simulators.dsprites import (
    FACTOR_SIZES,
    N_IMAGES,
    classes_of,
    load_dsprites,
    render_dsprites,
    rows_of,
    save_dsprites,
    values_of,
    write_dsprites_raw,
)

FRAMES = Path(__file__).parents[2] / "shared" / "data" / "dsprites_frames"
FRAMES /= "frames_320x64x64_bool.npz"
SQUARE, ELLIPSE, HEART = range(3)

needs_frames = pytest.mark.skipif(not FRAMES.exists(), reason="no ../shared/data/dsprites_frames")


@pytest.fixture(autouse=True)
def no_published_file(monkeypatch, tmp_path):
    absent = tmp_path / "absent" / dsprites.DSPRITES_FILE.name
    monkeypatch.setattr(dsprites, "DSPRITES_FILE", absent)


def walk(shape, positions):
    """Factor indices of a run of frames of the published animation."""
    up, down = list(range(6)), list(range(5, -1, -1))
    scales = [(s, 0, 0, 0) for s in up + down + up]
    turn = [(5, o, 0, 0) for o in range(40)]
    moves = [(5, 0, x, y) for x, y in positions]
    back = [(s, 0, 0, 0) for s in down]
    return [(0, shape, *step) for step in scales + turn + moves + back]


def published_frames():
    """Real frames and their factor indices: 192 hearts, 64 ellipses, 64 squares."""
    there, back = range(32), range(31, -1, -1)
    border = (
        [(0, y) for y in there]
        + [(x, 31) for x in there]
        + [(31, y) for y in back]
        + [(x, 0) for x in back]
    )
    classes = walk(HEART, border) + walk(ELLIPSE, []) + walk(SQUARE, [])
    return np.load(FRAMES)["frames"], np.array(classes)


@pytest.fixture(scope="module")
def differences():
    frames, classes = published_frames()
    drawn = render_dsprites(classes)
    assert drawn.dtype == np.uint8 and set(np.unique(drawn)) == {0, 1}
    return frames, drawn != frames, classes[:, 1]


@needs_frames
def test_squares_are_the_published_ones(differences):
    _, wrong, shape = differences
    counts = wrong[shape == SQUARE].sum(axis=(1, 2))
    assert len(counts) == 64 and (counts == 0).sum() == 62 and counts.max() <= 4


@needs_frames
def test_ellipses_and_hearts_differ_in_two_pixels_of_the_outline_at_most(differences):
    frames, wrong, shape = differences
    for kind, n in ((ELLIPSE, 64), (HEART, 192)):
        counts = wrong[shape == kind].sum(axis=(1, 2))
        assert len(counts) == n and counts.max() <= 2 and (counts == 0).mean() > 0.75
    outline = np.stack([ndimage.binary_dilation(f) & ~ndimage.binary_erosion(f) for f in frames])
    assert not (wrong & ~outline).any()


def outline_of(shape, turn, scale, centre):
    """A polygon of the sprite from its parametric curve: (P, 2) x and y."""
    t = np.linspace(0, 2 * np.pi, 4001)
    if shape == SQUARE:
        curve = 9.6 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    elif shape == ELLIPSE:
        curve = np.stack([12.77 * np.cos(t), 7.21 * np.sin(t)], axis=1)
    else:
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        curve = np.stack([0.6 * 16 * np.sin(t) ** 3, -1.436 - 0.662 * y], axis=1)
    cos, sin = np.cos(turn), np.sin(turn)
    anticlockwise = np.array([[cos, sin], [-sin, cos]])  # with y downwards
    return scale * curve @ anticlockwise.T + centre


def test_sprites_are_filled_as_polygons():
    rng = np.random.default_rng(0)
    classes = np.stack([rng.integers(0, n, 240) for n in FACTOR_SIZES], axis=1)
    images = render_dsprites(classes)
    pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=-1).reshape(-1, 2)
    for image, (_, shape, scale, turn, x, y) in zip(images, classes, strict=True):
        angle, centre = 2 * np.pi * turn / 39, 15.5 + 32 * np.array([x, y]) / 31
        outline = outline_of(shape, angle, 0.5 + 0.1 * scale, centre)
        expected = Polygon(outline).contains_points(pixels).reshape(64, 64)
        assert (image != expected).sum() <= 1  # a pixel centre on the outline


def test_factors_are_those_of_the_published_file():
    assert N_IMAGES == 737_280
    classes = classes_of(np.array([0, 1, 32, 1024, 40 * 1024, 6 * 40 * 1024, N_IMAGES - 1]))
    expected = [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1],  # posY varies fastest
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 2, 5, 39, 31, 31],
    ]
    np.testing.assert_array_equal(classes, expected)
    values = values_of(np.array([[0, 1, 2, 13, 31, 4]]))
    np.testing.assert_allclose(values, [[1, 2, 0.7, 2 * np.pi / 3, 1, 4 / 31]])
    rows = np.random.default_rng(0).integers(0, N_IMAGES, 500)
    np.testing.assert_array_equal(rows_of(classes_of(rows)), rows)


def test_images_do_not_depend_on_their_neighbours():
    rows = np.random.default_rng(1).integers(0, N_IMAGES, 1200)  # more than two chunks
    classes = classes_of(rows)
    together = render_dsprites(classes)
    order = np.random.default_rng(2).permutation(1200)
    np.testing.assert_array_equal(render_dsprites(classes[order]), together[order])
    assert (together.sum(axis=(1, 2)) > 50).all()
    assert render_dsprites(classes[:0]).shape == (0, 64, 64)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of the published layout with 1,100 images, pickled metadata and a trap in it.

    Its images are random, so that what is read from it is not what would be drawn.
    """
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(3)
    rows = np.sort(rng.choice(N_IMAGES, 1100, replace=False))
    images = rng.integers(0, 2, (1100, 64, 64)).astype(np.uint8)
    arrays = {
        "metadata": np.array(Trap(folder / "sprung"), dtype=object),
        "imgs": images,
        "latents_classes": classes_of(rows),
        "latents_values": values_of(classes_of(rows)),
    }
    np.savez_compressed(folder / "dsprites.npz", **arrays)
    return folder / "dsprites.npz", rows, arrays


def test_a_published_file_is_read_and_its_pickle_left_alone(published, monkeypatch):
    path, rows, arrays = published
    for data in (load_dsprites(path), load_dsprites(path, rows)):
        for name, array in data._asdict().items():
            np.testing.assert_array_equal(array, arrays[name])
    monkeypatch.setattr(dsprites, "DSPRITES_FILE", path)  # taken instead of drawing
    np.testing.assert_array_equal(load_dsprites(rows=rows[:3]).imgs, arrays["imgs"][:3])
    assert not (path.parent / "sprung").exists()
    np.load(path, allow_pickle=True)["metadata"]
    assert (path.parent / "sprung").exists()


def test_rows_of_a_file_come_in_the_order_asked_for(published):
    path, rows, arrays = published
    asked = np.random.default_rng(4).choice(1100, 300)  # some of them twice
    data = load_dsprites(path, rows[asked])
    for name, array in data._asdict().items():
        np.testing.assert_array_equal(array, arrays[name][asked])


def test_without_a_file_the_rows_are_drawn():
    rows = np.array([700_000, 5, 123_456])
    data = load_dsprites(rows=rows)
    np.testing.assert_array_equal(data.latents_classes, classes_of(rows))
    np.testing.assert_array_equal(data.latents_values, values_of(classes_of(rows)))
    np.testing.assert_array_equal(data.imgs, render_dsprites(classes_of(rows)))


def test_a_written_file_has_the_published_arrays(tmp_path):
    write_dsprites_raw(tmp_path / "raw", 700, seed=1)
    (path,) = (tmp_path / "raw").iterdir()
    assert path.name == "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file) == ["imgs", "latents_classes", "latents_values"]
        assert file["imgs"].dtype == np.uint8 and file["latents_classes"].dtype == np.int64
        assert file["latents_values"].dtype == np.float64
        rows = rows_of(file["latents_classes"])
        assert len(set(rows)) == 700 and (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(file["imgs"], render_dsprites(file["latents_classes"]))
        np.testing.assert_array_equal(file["latents_values"], values_of(file["latents_classes"]))
    assert path.stat().st_size < 700 * 500  # compressed
    write_dsprites_raw(tmp_path / "again", 700, seed=1)
    assert next((tmp_path / "again").iterdir()).read_bytes() == path.read_bytes()


def damage(path, published, kind):
    good, _, arrays = published
    if kind == "truncated":
        path.write_bytes(good.read_bytes()[:-1000])
    elif kind == "no zip":
        path.write_bytes(b"<html>404</html>")
    elif kind == "rotten":
        content = bytearray(good.read_bytes())
        with zipfile.ZipFile(good) as archive:
            start = archive.getinfo("imgs.npy").header_offset
        content[start + 5000 : start + 9000] = b"\0" * 4000
        path.write_bytes(content)
    elif kind == "no images":
        np.savez(path, latents_classes=arrays["latents_classes"])
    elif kind == "other shape":
        np.savez(path, **{**arrays, "imgs": arrays["imgs"][:, :32], "metadata": 0})
    elif kind == "other length":
        np.savez(path, **{**arrays, "latents_values": np.ones((3, 6)), "metadata": 0})
    elif kind == "pickled":
        np.savez(path, **{**arrays, "latents_classes": arrays["metadata"], "metadata": 0})


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("absent", "there is no such file"),
        ("truncated", "damaged or no npz"),
        ("no zip", "damaged or no npz"),
        ("rotten", "damaged or no npz"),
        ("no images", "has no array imgs"),
        ("other shape", "not dSprites"),
        ("other length", "1100 latents_classes but 3"),
        ("pickled", "damaged or no npz"),
    ],
)
def test_damaged_files_are_named(tmp_path, published, kind, said):
    path = tmp_path / "mine.npz"
    damage(path, published, kind)
    with pytest.raises(UserError, match=said) as error:
        load_dsprites(path)
    assert "mine.npz" in str(error.value) and "\n" not in str(error.value)


def test_a_row_that_the_file_lacks_is_named(published):
    path, rows, _ = published
    absent = next(row for row in range(N_IMAGES) if row not in rows)
    with pytest.raises(UserError, match=f"lacks 1 of the images.*row {absent}"):
        load_dsprites(path, np.array([rows[0], absent]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: classes_of(np.array([N_IMAGES])), "row 737280"),
        (lambda: load_dsprites(rows=np.array([0.5])), "integers"),
        (lambda: load_dsprites(rows=np.array([[1]])), "one list of integers"),
        (lambda: render_dsprites(np.array([[0, 3, 0, 0, 0, 0]])), "shape index 3: 0 to 2"),
        (lambda: render_dsprites(np.zeros((2, 5), int)), r"\(N, 6\)"),
        (lambda: save_dsprites(Path("x.npz"), np.array([-1])), "row -1"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(UserError, match=said):
        call()


@pytest.mark.parametrize("n_cells", [0, N_IMAGES + 1, True])
def test_bad_sizes_leave_nothing(tmp_path, n_cells):
    with pytest.raises(UserError, match="n_cells"):
        write_dsprites_raw(tmp_path / "raw", n_cells)
    assert not (tmp_path / "raw").exists()
