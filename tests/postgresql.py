"""A PostgreSQL of one's own on loopback, for tests and demonstrations of grids."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name))


def found_postgresql() -> bool:
    """Whether Debian's PostgreSQL is here; as root it needs the user postgres."""
    if not BINARIES or (os.geteuid() == 0 and shutil.which("runuser") is None):
        return False
    return subprocess.run(["id", "postgres"], capture_output=True).returncode == 0


@contextmanager
def running_database() -> Iterator[str]:
    """URL of an empty database on a free loopback port; the cluster is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="grid-postgresql-"))
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_postgres:
        shutil.chown(folder, "postgres")

    def run(name: str, *arguments: str) -> None:
        command = [*as_postgres, str(BINARIES[-1] / name), *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    run("initdb", "-D", data, "-A", "trust", "-U", "grid", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "grid", "grids")
        yield f"postgresql://grid@127.0.0.1:{port}/grids"
    finally:
        if (Path(data) / "postmaster.pid").exists():
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def stop_database(url: str, mode: str = "immediate", again: bool = True) -> None:
    """Stop the server of a database as if it had crashed, and start it again."""
    import psycopg

    with psycopg.connect(url) as connection:
        (data,) = connection.execute("SHOW data_directory").fetchone()
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    control = [*as_postgres, str(BINARIES[-1] / "pg_ctl"), "-D", data, "-m", mode, "-w"]
    how = [*control, "-l", f"{data}/../log", "restart"] if again else [*control, "stop"]
    subprocess.run(how, cwd=data, check=True, stdout=subprocess.DEVNULL, timeout=60)
