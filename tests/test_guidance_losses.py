"""Feedback terms against closed forms and loops, and added to any objective."""

import math

import pytest
import torch

from models.guidance_losses import (
    AnchoredObjective,
    AnchorTerm,
    AxisTerm,
    PairTerm,
    anchor_loss,
    pair_loss,
    rank_loss,
)
from models.infoMAX_VAE import InfoMaxObjective
from models.losses import ELBOObjective
from models.networks import build_vae
from util.mutual_information import InformationEstimator


def test_anchors_of_every_cell_are_the_sum_of_the_thesis():
    torch.manual_seed(0)
    mean, anchors = torch.randn(256, 2), torch.tensor([[-1.0, 0.0]]).repeat(256, 1)
    delta, one = 0.005, torch.zeros(256, dtype=torch.long)
    thesis = sum(delta * ((m - a) ** 2).sum() for m, a in zip(mean, anchors, strict=True))
    term = AnchorTerm(torch.arange(256), anchors, torch.full((256,), 256 * delta), one)
    rows, share = term.draw(256, None)
    torch.testing.assert_close(term(mean[rows], rows, share), thesis)
    losses = anchor_loss(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), torch.tensor([2.0]))
    torch.testing.assert_close(losses, torch.tensor([50.0]))


def test_pairs():
    first = torch.zeros(4, 2, requires_grad=True)
    second = torch.tensor([[3.0, 4.0], [0.6, 0.8], [3.0, 4.0], [0.0, 0.0]])
    together = torch.tensor([True, False, False, False])
    losses = pair_loss(first, second, together, torch.tensor([2.0, 3.0, 9.0, 1.0]), margin=2.0)
    torch.testing.assert_close(losses, torch.tensor([50.0, 3.0, 0.0, 4.0]), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    assert first.grad.isfinite().all()  # also of two cells of one code
    torch.testing.assert_close(first.grad[0], 2 * 2.0 * -second[0])


def test_rank_loss_against_a_loop():
    torch.manual_seed(0)
    values, ranks = torch.randn(12), torch.randint(0, 5, (12,))
    slow = [
        math.log(1 + math.exp(-(values[i] - values[j])))
        for i in range(12)
        for j in range(12)
        if ranks[i] > ranks[j]
    ]
    assert rank_loss(values, ranks).item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)
    torch.testing.assert_close(rank_loss(values, ranks), rank_loss(values, (3.0 * ranks).exp()))
    assert rank_loss(torch.zeros(12), ranks).item() == pytest.approx(math.log(2))
    assert rank_loss(50.0 * ranks, ranks) < 1e-6 < rank_loss(-50.0 * ranks, ranks)
    assert rank_loss(values, torch.ones(12)) == 0


def test_a_falling_axis_is_rewarded_for_falling():
    cells, column = torch.arange(6), torch.tensor([1.0, 5.0, 5.0, 9.0, 2.0, 3.0])
    codes = torch.stack([torch.zeros(6), -column], dim=1)
    losses = []
    for axis, direction in ((1, -1), (1, 1), (0, 1)):
        term = AxisTerm(cells, column, axis=axis, weight=10.0, direction=direction, label="axis")
        losses.append(term(codes, *term.draw(64, None)).item())
    assert losses[0] < 1 < losses[2] < losses[1]
    assert losses[2] == pytest.approx(10 * math.log(2))


def test_every_group_has_the_same_say():
    groups = torch.tensor([0] * 5000 + [1] * 20)
    anchors = torch.zeros(5020, 1)
    term = AnchorTerm(torch.arange(5020), anchors, torch.ones(5020), groups)
    rows, share = term.draw(4000, torch.Generator().manual_seed(0))
    assert len(rows) == 4000 and share.sum().item() == pytest.approx(1)
    assert abs((rows >= 5000).float().mean() - 0.5) < 0.03  # 4 standard errors
    assert set(rows[rows >= 5000].tolist()) == set(range(5000, 5020))
    # Few enough to be taken whole: the mean of the means of the groups, without sampling.
    few = AnchorTerm(torch.arange(6), torch.zeros(6, 1), torch.ones(6), torch.tensor([7] * 5 + [3]))
    codes = torch.arange(6.0)[:, None]
    expected = (0 + 1 + 4 + 9 + 16) / 5 / 2 + 25 / 2
    assert few(codes, *few.draw(64, None)).item() == pytest.approx(expected)


def guided(base, n_cells=8):
    """An objective with all three kinds of feedback, and the images that it looks up."""
    torch.manual_seed(0)
    images = torch.rand(n_cells, 3, 32, 32)
    cells = torch.arange(n_cells)
    terms = [
        AnchorTerm(cells, torch.ones(n_cells, 3), torch.ones(n_cells), cells % 2),
        PairTerm(torch.tensor([[0, 1], [2, 3]]), torch.tensor([True, False]), torch.ones(2), 2.0),
        AxisTerm(cells, cells.float(), axis=2, weight=1.0, direction=1, label="axis z ~ size"),
    ]
    return AnchoredObjective(
        base, terms, lambda cells, training: images[cells], cells_per_step=48
    ), images


def bases():
    yield ELBOObjective(2.0)
    yield InfoMaxObjective(
        InformationEstimator((3, 32, 32), 3), alpha=5.0, beta=1.0, critic_learning_rate=5e-4
    )
    # Of a constant view, as another one would be drawn for each of the objectives compared.
    yield InfoMaxObjective(
        InformationEstimator((3,), 3),
        alpha=5.0,
        beta=1.0,
        critic_learning_rate=5e-4,
        view=lambda x, fill: x.flip(3),
        critic_input="code",
    )


@pytest.mark.parametrize("base", list(bases()), ids=lambda base: type(base).__name__)
@pytest.mark.parametrize("architecture", ["vanilla", "sc", "simple"])
def test_feedback_is_added_to_any_objective(base, architecture):
    objective, images = guided(base)
    model = build_vae(architecture, 32, base=2).eval()
    x = torch.rand(5, 3, 32, 32)
    objective.eval()
    terms, alone = objective(model, x), base(model, x)
    for name, value in alone.items():
        if name != "loss":
            torch.testing.assert_close(terms[name], value, atol=1e-3, rtol=1e-5)
    mean = model.encode(images)[0]
    squared = (mean - 1).square().sum(1)
    anchors = (squared[::2].mean() + squared[1::2].mean()) / 2
    torch.testing.assert_close(terms["anchors"], anchors, atol=1e-4, rtol=1e-4)
    pairs = pair_loss(mean[[0, 2]], mean[[1, 3]], torch.tensor([True, False]), torch.ones(2), 2.0)
    torch.testing.assert_close(terms["pairs"], pairs.mean(), atol=1e-4, rtol=1e-4)
    ranks = rank_loss(mean[:, 2], torch.arange(8))
    torch.testing.assert_close(terms["axis z ~ size"], ranks, atol=1e-4, rtol=1e-4)
    total = alone["loss"] + anchors + pairs.mean() + ranks
    torch.testing.assert_close(terms["loss"], total, atol=1e-3, rtol=1e-5)
    assert len(objective.parameter_groups(model, 1e-4)) == len(base.parameter_groups(model, 1e-4))


def test_firm_feedback_weighs_more_in_the_first_training_steps_only():
    objective, _ = guided(ELBOObjective())
    objective.anchor_warmup, objective.warmup_steps = 5.0, 2
    model, x = build_vae("vanilla", 32, base=2).eval(), torch.rand(4, 3, 32, 32)
    factors = []
    for training in (True, False, True, True, True):
        objective.train(training)
        terms = objective(model, x)
        feedback = sum(terms[name] for name in ("anchors", "pairs", "axis z ~ size"))
        base = terms["reconstruction"] + terms["kl"]
        factors.append(((terms["loss"] - base) / feedback).item())
    assert factors == pytest.approx([5, 1, 5, 1, 1], rel=1e-3)


def test_guided_cells_share_the_batch_norm_of_the_batch_and_are_not_decoded():
    objective, images = guided(ELBOObjective())
    model, x = build_vae("vanilla", 32, base=2), torch.rand(5, 3, 32, 32)
    decoded = []
    model.decoder.register_forward_hook(lambda module, given, made: decoded.append(len(made)))
    objective(model, x)["loss"].backward()
    assert decoded == [5]
    first = model.encoder.down[0]
    norm = next(m for m in first.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked == 1  # one pass, so one statistic, of both
    assert all(p.grad is not None for p in model.parameters())


def test_the_draw_of_the_validation_is_always_the_same():
    torch.manual_seed(3)
    objective, _ = guided(ELBOObjective(), n_cells=60)
    model, x = build_vae("vanilla", 32, base=2).eval(), torch.rand(4, 3, 32, 32)
    objective.eval()
    assert objective(model, x)["anchors"] == objective(model, x)["anchors"]
    objective.train()
    assert objective(model, x)["anchors"] != objective(model, x)["anchors"]
