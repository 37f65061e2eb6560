"""Run folders, atomic files, seeds and checkpoints."""

import errno
import os
import threading

import numpy as np
import pytest
import torch

import VAE_framework
from util.errors import UserError
from util.files import write_atomically
from util.runs import (
    create_run_folder,
    describe_run,
    differences,
    file_names,
    load_checkpoint,
    read_description,
    save_checkpoint,
    seed_everything,
    slug,
    write_json,
)


def test_what_differs_from_another_run_is_said():
    now = describe_run(VAE_framework.SETTINGS, data={"fingerprint": "a"})
    assert differences(now, now) == []
    before = now | {"data": {"fingerprint": "b"}, "machine": {"system": "plan9"}}
    before |= {"versions": now["versions"] | {"torch": "1.0"}}
    images, versions, machine = differences(before, now)
    assert "images" in images and "plan9 then" not in versions and "plan9" in machine
    assert versions == f"other versions: torch 1.0 then, {now['versions']['torch']} now"


def test_numbers_are_never_shared(tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda i=i: made.append(create_run_folder(tmp_path, f"set {i}")))
        for i in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(p.name[:4]) for p in made) == list(range(1, 17))
    assert made[0].name[4:].startswith("-set-") and not list(tmp_path.glob(".*"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="no space left"):
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_checkpoint_is_plain_data_and_refuses_code(tmp_path):
    state = {"weights": torch.arange(3.0), "history": [{"epoch": 1}], "scale": [0.5]}
    save_checkpoint(tmp_path / "a.pt", state)
    assert load_checkpoint(tmp_path / "a.pt")["history"] == [{"epoch": 1}]

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="evil.pt is damaged, or holds more than numbers"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:100])
    with pytest.raises(UserError, match="cut.pt"):
        load_checkpoint(tmp_path / "cut.pt")
    with pytest.raises(UserError, match="missing"):
        load_checkpoint(tmp_path / "none.pt")


def test_seeds_differ_by_epoch_and_repeat():
    def draw(seed, epoch):
        seed_everything(seed, epoch)
        return float(torch.rand(())), float(np.random.rand())

    assert draw(0, 1) == draw(0, 1) != draw(0, 2) != draw(1, 1)


@pytest.mark.parametrize(
    "kind, settings, command, script",
    [
        ("Settings", {"architecture": "sc", "latent_dim": 3}, "x.py", "VAE_framework"),
        ("InfoMaxSettings", {}, "InfoMAX_VAE_framework.py", "InfoMAX_VAE_framework"),
        ("Settings", {"columns": []}, "performance_metrics.py a.csv", "performance_metrics"),
        ("WidthSettings", {"architecture": "sc", "latent_dim": 3}, "x.py", "hyper_optimization"),
    ],
)
def test_script_of_an_older_run(tmp_path, kind, settings, command, script):
    described = {"kind": kind, "settings": settings, "command": command}
    write_json(tmp_path / "settings.json", described)
    assert read_description(tmp_path)["script"] == script


@pytest.mark.parametrize(
    "names",
    [["dose a", "dose/a"], ["-1", "1"], ["10%", "10"], ["Drug", "drug", "DRUG"], ["x" * 300],
     ["x" * 300, "x" * 301], ["µ" * 200, "α" * 200], ["con", "NUL.txt", "com1"],
     ["", ".", "..", "/"], ["../../etc", "~"], ["e\u0301", "é"]],
)  # fmt: skip
def test_names_of_files_are_unique_short_and_safe(tmp_path, names):
    files = file_names(names)
    assert set(files) == set(names)
    assert len({name.casefold() for name in files.values()}) == len(names)
    for file in files.values():
        (tmp_path / f"projections_{file}.png").touch()
        assert len(file.encode()) <= 100 and not set(file) & set('/\\:*?"<>|% ')
        assert file.split(".")[0].upper() not in ("CON", "NUL", "COM1", "")
    assert len(list(tmp_path.iterdir())) == len(names)


def test_an_ordinary_name_stays_as_it_is():
    for name in ("dose", "G1", "VAE_before", "a.b", "µM", "class-2"):
        assert slug(name) == name and file_names([name]) == {name: name}
    assert file_names(["10%", "10"])["10"] == "10" == file_names(["10", "10%"])["10"]
