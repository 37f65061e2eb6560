"""The two views of held-out cells: the same for every model, and what models make of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from models.views import baseline_views, choose_viewed, embed_views, two_views
from quantitative_metrics.view_information import view_information
from util.data_processing import Cells
from util.errors import UserError


def blobs(n, seed=0, size=32, dtype=np.uint8, padding=0):
    """Round cells of known size and brightness in the middle of the image."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    radius, bright = rng.uniform(4, 9, (2, n))
    at = np.arange(size) - (size - 1) / 2
    distance = np.hypot(*np.meshgrid(at, at))
    inside = distance < radius[:, None, None]
    levels = bright[:, None, None] / 10
    images = np.where(inside, levels, padding / top) * top
    images = np.stack([images, images], 1).astype(dtype)
    table = pd.DataFrame({"Unique_ID": [f"c{i}" for i in range(n)]})
    return Cells(
        images=images,
        table=table,
        name="blobs",
        masked=not padding,
        padding=np.full(2, padding),
        low=np.zeros(2),
        high=np.full(2, float(top)),
        channels=["A", "B"],
    )


class Means(nn.Module):
    """The brightness of each channel, and what an encoder says beside: a log-variance."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2, affine=False)

    def encode(self, x):
        self.sides = getattr(self, "sides", set()) | {x.shape[-1]}
        return self.norm(x.amax((2, 3))), torch.zeros(len(x), 2)


def test_views_follow_the_seed_alone():
    cells = blobs(600)
    rows = np.arange(0, 600, 2)
    pairs = list(two_views(cells, rows))
    assert [len(a) for a, _ in pairs] == [256, 44]
    again = list(two_views(cells, rows))
    for (a, b), (c, d) in zip(pairs, again, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d) and not torch.equal(a, b)
        assert a.dtype == torch.float32 and a.min() >= 0 and a.max() <= 1
    assert not torch.equal(pairs[0][0], next(two_views(cells, rows, seed=1))[0])


def test_views_enlarge_up_to_a_part_of_six_tenths_and_fill_with_the_padding():
    flat = blobs(50, padding=51)
    flat.images[:] = 51
    views = torch.cat([a for a, _ in two_views(flat, np.arange(50))])
    np.testing.assert_allclose(views, 0.2, atol=1e-6)  # nothing of 0 comes in from outside
    dark = blobs(400)
    views = torch.cat([a for a, _ in two_views(dark, np.arange(400))])[:, 0]
    scale = (views.sum((1, 2)) / dark.scaled(slice(None))[:, 0].sum((1, 2))).sqrt()
    assert 0.8 < scale.min() and scale.max() < 1.03 / 0.6  # a few cells lie beyond the cut
    assert 1.2 < scale.median() < 1.35 and scale.max() > 1.55


@pytest.mark.parametrize("downsample", [1, 2])
def test_a_model_embeds_the_same_views_in_evaluation_mode(downsample):
    cells = blobs(300)
    model = Means().train()
    a, b = embed_views(model, two_views(cells, np.arange(300)), downsample=downsample)
    assert a.shape == b.shape == (300, 2) and a.dtype == np.float32
    assert model.norm.running_mean.abs().max() == 0 and not model.training
    assert model.sides == {32 // downsample}
    whole = torch.cat([x for x, _ in two_views(cells, np.arange(300))])
    if downsample == 1:
        np.testing.assert_allclose(a, model.encode(whole)[0].numpy())
    assert view_information(a, b).value > 1  # the brightness survives the views


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["PCA", "UMAP"])
def test_projections_of_pixels_place_the_views(name, dtype):
    cells = blobs(400, dtype=dtype)
    learnt, rows = np.arange(250), np.arange(250, 400)
    a, b = baseline_views(name, "pixels", cells, learnt, rows, dim=2)
    assert a.shape == b.shape == (150, 2) and np.isfinite(a).all()
    found = view_information(a, b)
    assert found.value > 2.5 * found.standard_error
    shuffled = np.random.default_rng(0).permutation(150)
    assert view_information(a, b[shuffled]).value < found.value / 2


def test_features_are_measured_on_the_views():
    cells = blobs(160)
    a, b = baseline_views("PCA", "features", cells, np.arange(80), np.arange(80, 160), dim=2)
    assert a.shape == (80, 2) and view_information(a, b).value > 0.5


def test_what_places_no_new_cells_is_refused():
    cells = blobs(20)
    for name, space in (("TSNE", "pixels"), ("PCA", "codes")):
        with pytest.raises(UserError, match="view information needs a projection that places new"):
            baseline_views(name, space, cells, np.arange(10), np.arange(10, 20))


def test_many_held_out_cells_are_sampled():
    held_out = np.arange(100, 500)
    assert list(choose_viewed(held_out, 0)) == list(held_out)
    some = choose_viewed(held_out, 0, most=50)
    assert len(set(some)) == 50 and set(some) <= set(held_out) and list(some) == sorted(some)
    assert list(some) == list(choose_viewed(held_out, 0, most=50))
