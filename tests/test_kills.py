"""What `kills.py` does fifty times of each and at more length, three times."""

import numpy as np
import pytest
from kills import jobs, kill_once, undisturbed


@pytest.mark.parametrize("job", jobs(workers=1, metrics=""), ids=lambda job: job.name)
def test_killed_at_random_it_goes_on_and_ends_as_if_undisturbed(job, tmp_path, blank_figures):
    known = undisturbed(job, tmp_path)
    shares = np.random.default_rng(1).uniform(0.3, 0.95, 3)
    fates = [kill_once(known, tmp_path / f"{i}", share) for i, share in enumerate(shares)]
    assert "killed" in fates
