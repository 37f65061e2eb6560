"""When a training has learnt what it can, on curves whose answer is plain."""

import math

import pytest

from models.learning_curve import is_due, plateaus, steps_of, still_improving


def history_of(losses, information=(), every=5, batch_size=64):
    """Epochs with these validation losses; view information after every few of them."""
    history = [
        {"valid": {"loss": loss}, "batch_size": batch_size, "seconds": 1.0} for loss in losses
    ]
    for place, value in enumerate(information, start=1):
        history[place * every - 1]["view_information"] = value
    return history


def falling(n, towards=100.0, scale=10.0):
    return [towards + 900 * math.exp(-epoch / scale) for epoch in range(n)]


@pytest.mark.parametrize(
    ("cells", "batch", "epochs", "steps"), [(250, 64, 3, 12), (64, 64, 2, 2), (65, 64, 1, 2)]
)
def test_steps_count_the_last_incomplete_batch(cells, batch, epochs, steps):
    assert steps_of(history_of([1.0] * epochs, batch_size=batch), cells) == steps


def test_information_is_measured_every_250_steps_whatever_the_size_of_an_epoch():
    small = history_of([1.0] * 63)
    assert not is_due(small[:62], 250)  # 248 steps
    assert is_due(small, 250)  # 252 steps
    assert is_due(history_of([1.0]), 20_000)  # 313 steps in one epoch
    small[40]["view_information"] = 1.0
    assert not is_due(small, 250)  # 22 epochs since


def test_a_plateau_needs_both_curves_to_stand_still():
    flat, still = [1000.0] + [100.0] * 39, [3.0] * 8
    assert plateaus(history_of(flat, still)) == 1
    assert plateaus(history_of(falling(40, scale=40), still)) == 0  # the loss still falls
    assert plateaus(history_of(flat, [1 + 0.2 * i for i in range(8)])) == 0  # information grows
    assert plateaus(history_of(flat, still[:5])) == 0  # not yet measured often enough


def test_after_a_plateau_the_comparison_starts_anew():
    flat = [1000.0] + [100.0] * 59
    assert plateaus(history_of(flat, [3.0] * 11)) == 1
    assert plateaus(history_of(flat, [3.0] * 12)) == 2
    assert plateaus(history_of(flat, [3.0] * 6 + [4.0, 4.5, 5.0, 5.5, 6.0, 6.5])) == 1


def test_information_that_falls_stands_still_too():
    assert plateaus(history_of([1000.0] + [100.0] * 39, [3.0, 2.9, 2.8, 2.7, 2.6, 2.5])) == 1


def test_plateaus_only_grow_with_the_history():
    history = history_of(falling(120), [4 - 3 * math.exp(-i / 6) for i in range(24)])
    counted = [plateaus(history[:n]) for n in range(len(history) + 1)]
    assert counted == sorted(counted) and counted[-1] >= 1


@pytest.mark.parametrize(
    ("losses", "improving"),
    [
        (falling(20, scale=20), True),
        (falling(200), False),
        ([5.0, 4.0, 3.0], True),  # too few epochs to tell
        ([1000.0] + [100.0, 101.0] * 12, False),
        ([1000.0] + [100.0 + i for i in range(24)], False),  # rises
        ([-100.0 - 10 * i for i in range(20)], True),  # a density: below 0
    ],
)
def test_a_training_of_fixed_length_says_whether_it_was_too_short(losses, improving):
    assert still_improving(history_of(losses)) is improving
