"""A disk that fills up: one clear line, and with room again everything goes on as if undisturbed.

    python tests/full_disk.py                                # disks of nine sizes for each job
    python tests/full_disk.py --shares 0.5 --jobs training

The jobs are those of `kills.py`. Each runs on a small tmpfs, of a size drawn as a share of what the
undisturbed job needs; it must end with exit code 2 and one line. Then the disk grows, the job is
taken up, and what it leaves must be what the undisturbed one left, byte for byte. Mounting needs
root or user namespaces (`unshare`), into which this script puts itself.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from kills import Undisturbed, digests, finish, jobs, start, undisturbed

SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95)
INSIDE = "IN_OWN_NAMESPACE"


def used_kib(folder: Path) -> int:
    """Space of all files, in the pages of 4 KiB that a tmpfs gives out."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4 for path in files)


def fill_once(known: Undisturbed, folder: Path, share: float) -> str:
    """Run a job on a disk of a share of the room that it needs, and take it up with more.

    Returns:
        what it said when the disk was full.

    Raises:
        AssertionError: it says more than a line, leaves something that cannot be taken up, or ends
            otherwise than undisturbed.
    """
    job, before = known.job, used_kib(known.before)
    size = before + int(share * (used_kib(known.whole) - before))
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
    subprocess.run(mount, check=True)
    try:
        shutil.copytree(known.before, folder, dirs_exist_ok=True)
        log = folder.with_suffix(".txt")
        code = start(folder, job.script, job.options, log).wait(timeout=600)
        said = log.read_text()
        assert code in (0, 2), said[-3000:]
        assert "Traceback" not in said, said[-3000:]
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code == 2), said[-3000:]
        if code == 2:
            subprocess.run(["mount", "-o", "remount,size=1g", folder], check=True)
            options = job.resume(folder)
            if options is not None:
                finish(folder, job.script, options, log)
        left = digests(job.left(folder))
        assert left == known.left, sorted(left.items() ^ known.left.items())
        return errors[0] if errors else "had room enough"
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def main() -> int:
    """Fill the disk of each job, print a table; returns how many went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES)
    parser.add_argument("--jobs", nargs="*", help="all, if none is named")
    parser.add_argument("--metrics", default="neighbours axes", help="of the jobs that score")
    options = parser.parse_args()
    if INSIDE not in os.environ:
        command = ["unshare", "--map-root-user", "--mount", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {INSIDE: "1"}).returncode
    wrong = 0
    for job in jobs(workers=2, metrics=options.metrics):
        if options.jobs and job.name not in options.jobs:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            known = undisturbed(job, Path(scratch))
            for number, share in enumerate(options.shares):
                try:
                    said = fill_once(known, Path(scratch) / f"{number}", share)
                except AssertionError as error:
                    said, wrong = f"WRONG: {error}", wrong + 1
                print(f"{job.name:10} {share:4.0%}  {said}", flush=True)
    print(f"{wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 100))
