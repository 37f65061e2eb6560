"""What `races.py` does at length, where it needs no server and no other clock."""

import pytest
from kills import jobs, undisturbed
from races import end_by_sigterm, race_for_caches, resume_what_runs


def test_processes_that_fill_caches_at_once_get_their_own_pixels(tmp_path):
    assert "24 loads" in race_for_caches(tmp_path / "sets", rounds=6)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    (job,) = (job for job in jobs(workers=1, metrics="") if job.name == "training")
    return undisturbed(job, tmp_path_factory.mktemp("training"))


def test_a_run_that_is_running_is_not_resumed(training, tmp_path):
    assert "is running; wait" in resume_what_runs(training, tmp_path / "run")


def test_sigterm_ends_a_run_that_goes_on_as_if_undisturbed(training, tmp_path):
    end_by_sigterm(training, tmp_path / "run", 0.6)
