"""Augmentation and views against scikit-image and closed forms."""

import numpy as np
import pytest
import torch
from skimage.measure import centroid, inertia_tensor
from skimage.transform import rotate

from util.augmentation import VIEWS, View, align, augment, jitter


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def _orientation(image, quarter, steps, flip_x, flip_y):
    """The same augmentation with scikit-image, one image (S, S)."""
    image = rotate(image, 90 * quarter + 5 * steps, order=1, mode="constant", cval=0.0)
    image = image[:, ::-1] if flip_x else image
    return image[::-1] if flip_y else image


def test_augmentation_agrees_with_scikit_image():
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 5:20, 8:25] = torch.rand(15, 17, generator=torch.Generator().manual_seed(0))
    seen = set()
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        chance = torch.rand(5, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
        quarter, rotated, flip_x, flip_y = (bool(c < 0.5) for c in chance[:4])
        steps = (int(17 * chance[4]) + 1) * rotated
        ours = augment(image, torch.zeros(1), generator)[0, 0].numpy()
        theirs = _orientation(image[0, 0].numpy(), quarter, steps, flip_x, flip_y)
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        seen.add((quarter, rotated, flip_x, flip_y))
    assert len(seen) >= 12


def test_augmentation_differs_between_images_and_fills_with_the_padding():
    images = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))[:1].expand(
        64, 1, 16, 16
    )
    turned = augment(images, torch.zeros(1), torch.Generator().manual_seed(1))
    assert len({t.numpy().tobytes() for t in turned}) > 20
    flat = torch.full((32, 2, 16, 16), 0.25)
    filled = augment(flat, torch.full((2,), 0.25), torch.Generator().manual_seed(1))
    np.testing.assert_allclose(filled.numpy(), 0.25, atol=1e-6)


def test_turns_only_move_pixels():
    image = torch.rand(1, 2, 8, 8, generator=seeded(0)).expand(200, 2, 8, 8)
    views = VIEWS["turns"](image, None, seeded(1))
    known = [
        torch.rot90(image[0], k, (1, 2)).flip([2] if f else []) for k in range(4) for f in (0, 1)
    ]
    distance = torch.stack([(views - k).abs().amax((1, 2, 3)) for k in known])  # (8, 200)
    assert distance.amin(0).max() < 1e-5
    counts = torch.bincount(distance.argmin(0), minlength=8)
    assert counts.min() > 8  # of 25 expected: each of the eight orientations is drawn


def test_a_strong_view_shows_a_part_from_inside():
    """A linear ramp shows where a window lies and how large it is."""
    ramp = ((2 * torch.arange(64) + 1) / 64 - 1).expand(64, 64)  # x in -1..1
    image = (torch.stack([ramp, ramp.T]) / 4 + 0.5).expand(500, 2, 64, 64)
    view = View(smallest_part=0.45)(image, None, seeded(0)) * 4 - 2
    edges = torch.stack([view[:, :, i, j] for i in (2, -3) for j in (2, -3)])  # (4, 500, 2)
    sides = (edges.amax(0) - edges.amin(0)) * 64 / 59 / 2  # of the window, share of the image
    assert sides.min() > 0.44 and sides.max() < 1.01
    assert abs(sides.mean() - 0.725) < 0.02
    assert edges.abs().max() < 1.01  # never beyond the image
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=1e-3)


def test_free_rotation_keeps_what_is_round():
    centres = (2 * torch.arange(48) + 1) / 48 - 1
    radius = (centres[:, None] ** 2 + centres**2).sqrt()
    disc = ((0.8 - radius) * 10).clamp(0, 1).expand(50, 1, 48, 48)
    views = VIEWS["free"](disc, None, seeded(0))
    assert (views - disc).abs().mean() < 5e-3
    half = disc * (centres > 0)
    assert len({v.numpy().tobytes() for v in VIEWS["free"](half, None, seeded(1))}) == 50


@pytest.mark.parametrize("name", ["turns", "free", "strong"])
def test_views_fill_with_the_padding_and_follow_the_generator(name):
    flat = torch.full((16, 2, 16, 16), 0.25)
    view = VIEWS[name](flat, torch.full((2,), 0.25), seeded(1))
    np.testing.assert_allclose(view.numpy(), 0.25, atol=1e-6)
    images = torch.rand(4, 1, 16, 16, generator=seeded(0))
    first, second = (VIEWS[name](images, None, seeded(2)) for _ in range(2))
    assert torch.equal(first, second)


def test_jitter_shifts_by_whole_pixels_up_to_its_reach():
    images = torch.zeros(400, 1, 32, 32)
    images[:, 0, 16, 20] = 1
    shifted = jitter(images, None, 3, seeded(0))
    places = shifted[:, 0].flatten(1).argmax(1)
    rows, columns = places // 32 - 16, places % 32 - 20
    torch.testing.assert_close(shifted.amax((1, 2, 3)), torch.ones(400))  # nothing is blurred
    assert set(rows.tolist()) == set(columns.tolist()) == set(range(-3, 4))
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.15
    flat = torch.full((4, 2, 8, 8), 0.25)
    assert torch.equal(jitter(flat, torch.full((2,), 0.25), 2), flat)
    assert torch.equal(jitter(images, None, 0), images)


def lopsided_cell(size=48):
    """(1, 2, S, S): an ellipse off the middle with a heavy end and a heavy side."""
    x, y = (2 * torch.arange(size) + 1) / size - 1, (2 * torch.arange(size)[:, None] + 1) / size - 1
    along, across = 0.8 * (x - 0.1) + 0.6 * (y + 0.15), 0.8 * (y + 0.15) - 0.6 * (x - 0.1)
    inside = ((1 - (along / 0.5) ** 2 - (across / 0.25) ** 2) * 5).clamp(0, 1)
    return torch.stack([0.3 * inside, inside * (0.3 + 0.3 * along + 0.5 * across)])[None]


def test_an_aligned_cell_lies_along_the_rows_in_the_middle():
    """Moments by scikit-image."""
    aligned = align(lopsided_cell(), None)[0].sum(0).numpy().astype(np.float64)
    np.testing.assert_allclose(centroid(aligned), 23.5, atol=0.1)
    of_rows, of_columns = np.diag(inertia_tensor(aligned))  # about these axes
    assert of_rows > 3 * of_columns or of_columns > 3 * of_rows
    assert abs(inertia_tensor(aligned)[0, 1]) < 0.01 * max(of_rows, of_columns)
    rows, columns = np.nonzero(aligned > 0.1)
    assert np.ptp(columns) > 1.8 * np.ptp(rows)
    weight, place = aligned / aligned.sum(), np.arange(48) - 23.5
    assert (weight.sum(0) * place**3).sum() > 0 and (weight.sum(1) * place**3).sum() > 0


def test_aligned_a_cell_is_the_same_however_it_lies():
    cell = lopsided_cell()
    known = align(cell, None)
    turned = torch.cat([torch.rot90(cell, k, (2, 3)) for k in range(4)])
    lying = torch.cat([turned, turned.flip(2), turned.flip(3), turned.roll((3, -2), (2, 3))])
    assert (lying - cell).abs().mean((1, 2, 3))[1:].min() > 0.01
    torch.testing.assert_close(align(lying, None), known.expand(16, -1, -1, -1), atol=1e-4, rtol=0)
    free = torch.from_numpy(rotate(cell[0].permute(1, 2, 0).numpy(), 37, order=3)).permute(2, 0, 1)
    assert (align(free[None].float(), None) - known).abs().mean() < 0.005


def test_alignment_takes_cells_darker_than_their_surroundings_and_empty_images():
    fill = torch.tensor([0.75, 0.5])
    dark = fill[:, None, None] - 0.5 * lopsided_cell()
    expected = fill[:, None, None] - 0.5 * align(lopsided_cell(), None)
    torch.testing.assert_close(align(dark, fill), expected, atol=1e-5, rtol=0)
    empty = torch.zeros(2, 2, 16, 16)
    assert torch.equal(align(empty, None), empty)
    assert torch.equal(align(empty + 0.25, torch.full((2,), 0.25)), empty + 0.25)


def test_a_generator_draws_the_same_views_whatever_torch_has_drawn():
    images = torch.rand(4, 1, 16, 16, generator=seeded(0))
    first = VIEWS["strong"](images, None, seeded(3))
    torch.rand(7)
    assert torch.equal(first, VIEWS["strong"](images, None, seeded(3)))
