"""Caches of images: complete or absent, checked by content, apart for what was chosen otherwise."""

import json

import numpy as np
import pytest

from util.cell_cache import CellCache, cache_name
from util.data_processing import load_cells


def write(path, seed=0, crops=32):
    images = np.random.default_rng(seed).integers(1, 255, (12, crops, crops, 3), dtype=np.uint8)
    np.savez(path, images=images)
    return np.moveaxis(images, -1, 1)


def load(path, **more):
    return load_cells(path, image_size=32, progress=False, **more)


@pytest.mark.parametrize("cells", [slice(None), slice(3, 4)], ids=["all", "one"])
@pytest.mark.parametrize("crops", [32, 40])
def test_black_cells_in_a_cache_are_found(tmp_path, cells, crops):
    path = tmp_path / "cells.npz"
    write(path, crops=crops)
    before = load(path)
    (file,) = before.cache.glob("*/images.npy")
    stored = np.load(file, mmap_mode="r+")
    stored[cells] = 0
    stored.flush()
    again = load(path)
    assert np.array_equal(again.images, before.images) is False  # that map shows the edited file
    assert (np.asarray(again.images) > 0).all() and again.fingerprint == before.fingerprint
    assert len(list(before.cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["images.npy", "facts.json", "originals.bin", "shapes.npy"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_made_again(tmp_path, name, damage):
    path = tmp_path / "cells.npz"
    write(path, crops=40)
    before = load(path)
    pixels = np.array(before.images)
    (file,) = before.cache.glob(f"*/{name}")
    whole = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    again = load(path)
    assert np.array_equal(again.images, pixels) and again.originals is not None


def test_a_cache_of_an_older_version_is_used_and_checked(tmp_path, monkeypatch):
    path = tmp_path / "cells.npz"
    pixels = write(path)
    cache = load(path).cache
    (place,) = cache.iterdir()
    for file in place.iterdir():
        file.rename(cache / file.name)
    place.rmdir()
    facts = json.loads((cache / "facts.json").read_text())
    del facts["digests"]
    (cache / "facts.json").write_text(json.dumps(facts))
    with monkeypatch.context() as context:
        context.setattr("util.data_processing._build_array_cache", None)  # a rebuild would fail
        assert np.array_equal(load(path).images, pixels)
    stored = np.load(cache / "images.npy", mmap_mode="r+")
    stored[2] = 0
    stored.flush()
    assert np.array_equal(load(path).images, pixels)
    assert not (cache / "images.npy").exists()


def test_two_files_of_one_stem_and_two_choices_stand_apart(tmp_path):
    expected = {name: write(tmp_path / f"{name}.npz", n) for n, name in enumerate("ab")}
    (tmp_path / "a.npz").rename(tmp_path / "cells.npz")
    np.save(tmp_path / "cells.npy", np.moveaxis(expected["b"], 1, -1))
    loaded = [load(tmp_path / "cells.npz"), load(tmp_path / "cells.npy")]
    loaded += [load(tmp_path / "cells.npz", fit="squeeze"), load(tmp_path / "cells.npz")]
    assert len({cells.cache for cells in loaded}) == 3
    for cells, name in zip(loaded, "abaa", strict=True):
        assert np.array_equal(cells.images, expected[name])


def test_the_usual_choices_keep_the_name_of_older_versions():
    assert cache_name(64, None, None) == "cells_64" != cache_name(64, "CYX", None)
    assert cache_name(64, "a", None) != cache_name(64, None, "a")


def test_images_that_another_process_replaces_stay_open(tmp_path):
    path = tmp_path / "cells.npz"
    first = write(path)
    opened = load(path)
    second = write(path, 1)
    assert np.array_equal(load(path).images, second)
    assert np.array_equal(opened.images, first)
    assert not CellCache(opened.cache, "0" * 64).fresh()


@pytest.mark.parametrize("crops", [32, 40])
def test_what_was_just_written_can_be_sent_to_another_process(tmp_path, crops):
    """joblib sends a memory map as the name of its file, which must be the final one."""
    path = tmp_path / "cells.npz"
    write(path, crops=crops)
    cells = load(path)
    maps = [cells.images] if cells.originals is None else [cells.images, cells.originals.pixels]
    for pixels in maps:
        assert np.array_equal(np.memmap(pixels.filename)[-1000:], pixels.reshape(-1)[-1000:])
