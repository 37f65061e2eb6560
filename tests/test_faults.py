"""Every damaged input of `faults.py` ends in one clear line, exit code 2 and nothing lost."""

import shutil

import pytest
from faults import FAULTS, check, make_sound


@pytest.fixture(scope="session")
def sound(tmp_path_factory):
    return make_sound(tmp_path_factory.mktemp("faults") / "sound")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_damaged_input_ends_in_one_clear_line(fault, sound, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    check(fault, folder)
    assert not (folder / "owned").exists()  # nothing was executed


def test_there_are_enough_of_them():
    assert len({(fault.script, fault.name) for fault in FAULTS}) == len(FAULTS) >= 100
