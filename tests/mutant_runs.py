"""How `mutants.py` runs tests against a mutant: forks of a process that has collected them.

A server per test file imports and collects once. For a mutant inside a function it forks, exchanges
the code of the functions that have changed, and runs the tests that execute the line. A mutant at
the level of a module needs the import anew, so the tests are collected again for it.
"""

import atexit
import contextlib
import gc
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

PATIENCE = (
    6  # times the seconds of a clean run, and a minute, after which a mutant counts as killed
)
SERVERS = 12  # at once
QUIET = ("-p", "no:cacheprovider", "-p", "no:xdist", "--tb=no", "--maxfail=1")


class Watch:
    """A plugin of pytest: seconds, outcome and executed lines of the program of each test."""

    def __init__(self, folder: Path):
        """`folder` takes the lines that started scripts executed, and in the end everything."""
        self.folder, self.root, self.hit = folder, f"{Path.cwd()}/", set()
        self.tests: dict[str, dict] = {}
        self.process = os.getpid()
        atexit.register(self.write)  # tests/starting.py calls it at the end of a script

    def write(self) -> None:
        """Leave the lines of this process to the one that runs the tests."""
        if os.getpid() != self.process:
            (self.folder / f"{os.getpid()}.json").write_text(json.dumps(sorted(self.hit)))

    def trace(self, frame, event, argument):
        """For sys.settrace: only functions of the program are followed line by line."""
        name = frame.f_code.co_filename
        if not name.startswith(self.root) or name.startswith(f"{self.root}tests"):
            return None
        file, hit = name[len(self.root) :], self.hit

        def line(frame, event, argument):
            hit.add((file, frame.f_lineno))
            return line

        return line(frame, event, argument)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        """Trace a test with its fixtures."""
        self.hit.clear()
        began = time.monotonic()
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        yield
        sys.settrace(None)
        threading.settrace(None)
        lines = set(self.hit)
        for path in self.folder.glob("*.json"):
            lines |= {(file, line) for file, line in json.loads(path.read_text())}
            path.unlink()
        test = self.tests.setdefault(item.nodeid, {"passed": True})
        test |= {"seconds": time.monotonic() - began, "lines": sorted(lines)}

    def pytest_runtest_logreport(self, report):
        """Note what did not pass."""
        if report.failed or report.skipped:
            self.tests.setdefault(report.nodeid, {})["passed"] = False

    def pytest_sessionfinish(self):
        """Write what was seen."""
        (self.folder / "tests.txt").write_text(json.dumps(self.tests))


class Chosen:
    """A plugin of pytest: only some tests, in a given order; notes the first that fails."""

    def __init__(self, order: Sequence[str], note: Path):
        """The name of the failed test is written to `note`."""
        self.place, self.note = {name: place for place, name in enumerate(order)}, note

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        """Choose and sort."""
        items[:] = [item for item in items if item.nodeid in self.place]
        items.sort(key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logreport(self, report):
        """Note what fails."""
        if report.failed:
            self.note.write_text(report.nodeid)


class Server:
    """A plugin of pytest that collects tests, and runs them in a fork for each mutant asked for."""

    def __init__(self, connection: Connection, note: Path):
        """Requests and answers go through `connection`, names of failed tests to `note`."""
        self.connection, self.note = connection, note

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        """Answer requests (file, source, tests, seconds) by exit statuses until None comes."""
        gc.unfreeze()
        functions: dict[str, list[types.FunctionType]] = {}
        for function in gc.get_objects():
            if isinstance(function, types.FunctionType):
                functions.setdefault(function.__code__.co_filename, []).append(function)
        while (request := self.connection.recv()) is not None:
            file, source, order, seconds = request

            def run(file=file, source=source, order=order) -> int:
                chosen = Chosen(order, self.note)
                session.config.pluginmanager.register(chosen)
                chosen.pytest_collection_modifyitems(session.items)
                path = f"{Path.cwd()}/{file}"
                exchange(functions.get(path, []), compile(source, path, "exec"))
                for item, after in zip(session.items, [*session.items[1:], None], strict=True):
                    session.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                    if session.shouldfail:
                        return 1
                return 0

            self.connection.send(forked(run, seconds))
        return True


def exchange(functions: Sequence[types.FunctionType], module: types.CodeType) -> None:
    """Give functions the code that they have in another version of their module."""
    codes, waiting = {}, [module]
    while waiting:
        for code in waiting.pop().co_consts:
            if isinstance(code, types.CodeType):
                codes[code.co_qualname, code.co_firstlineno] = code
                waiting.append(code)
    for function in functions:
        code = codes.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if code is not None and code != function.__code__:
            function.__code__ = code


def fork_scripts() -> None:
    """Let tests start scripts as forks of their own process, which has imported everything."""
    import starting

    become = starting._become

    def _become(*args):
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        become(*args)

    starting.CONTEXT, starting._become = multiprocessing.get_context("fork"), _become


def descendants(process: int) -> Iterator[int]:
    """All processes that a process started and that still run."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    waiting = [process]
    while waiting:
        found = children.get(waiting.pop(), [])
        waiting += found
        yield from found


def silent_fork(work) -> int:
    """Start work() in a fork that says nothing; the number of its process."""
    child = os.fork()
    if not child:
        code = 3
        try:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            code = int(work())
        finally:
            os._exit(code)
    return child


def forked(work, seconds: float) -> int:
    """Run work() in a fork; its exit status, -9 where the time ran out."""
    child, end = silent_fork(work), time.monotonic() + seconds
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
        time.sleep(0.01)
    if done[0]:
        return os.waitstatus_to_exitcode(done[1])
    for process in [*descendants(child), child]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


class Runner:
    """Runs tests of this folder against mutants of its program."""

    def __init__(self, program: str, folder: Path):
        """`program` is all of its source; `folder` takes notes and temporary files."""
        self.program, self.folder, self.note = program, folder, folder / "failed.txt"
        self.servers: dict[str, Connection] = {}
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
        fork_scripts()

    def watched(self, test_file: str) -> dict[str, dict]:
        """Seconds and lines of each passing test of a file, kept for the next time."""
        text = self.program + "".join(Path(f).read_text() for f in (test_file, "tests/conftest.py"))
        name = f"mutants-{hashlib.sha256(text.encode()).hexdigest()}.json"
        kept = Path(tempfile.gettempdir()) / name
        if not kept.exists():
            watch = Watch(Path(tempfile.mkdtemp(dir=self.folder)))
            forked(lambda: watching(watch, test_file), 3600)
            tests = json.loads((watch.folder / "tests.txt").read_text())
            bad = [name for name, test in tests.items() if not test["passed"]]
            print(f"# {test_file}: {len(tests)} tests; left out", *bad or ["none"], flush=True)
            kept.write_text(json.dumps({n: test for n, test in tests.items() if test["passed"]}))
        return json.loads(kept.read_text())

    def killer(
        self, file: str, mutated: str, order: Sequence[str], clean: float, anew: bool
    ) -> str:
        """The first of these tests of one file that fails; "" if none does.

        Args:
            file: of the mutant, which holds its source meanwhile.
            mutated: its source.
            order: names of the tests.
            clean: seconds that they take.
            anew: import and collect for this mutant.
        """
        test_file, seconds = order[0].split("::")[0], 60 + PATIENCE * clean
        self.note.unlink(missing_ok=True)
        path, before, source = Path(file), os.stat(file), Path(file).read_text()
        path.write_text(mutated)
        os.utime(path, (before.st_atime, before.st_mtime - 1))  # no compiled file fits
        try:
            if not anew:
                server = self._server(test_file, clean_source=(path, before, source, mutated))
                server.send((file, mutated, order, seconds))
                code = server.recv()
                # Neither passed, failed nor late: the code could not be exchanged, or worse.
                anew = code not in (0, 1, -9)
            if anew:
                chosen = Chosen(order, self.note)
                code = forked(lambda: pytest.main([*QUIET, test_file], plugins=[chosen]), seconds)
        finally:
            path.write_text(source)
            os.utime(path, (before.st_atime, before.st_mtime))
        if code in (0, 5):
            return ""
        return "time" if code == -9 else self.note.read_text() if self.note.exists() else "import"

    def close(self) -> None:
        """End the servers."""
        for server in self.servers.values():
            server.send(None)

    def _server(self, test_file: str, clean_source: tuple) -> Connection:
        """The server of a test file; it imports the clean program."""
        if test_file not in self.servers:
            if len(self.servers) == SERVERS:
                self.servers.pop(next(iter(self.servers))).send(None)
            path, before, source, mutated = clean_source
            path.write_text(source)
            os.utime(path, (before.st_atime, before.st_mtime))
            here, there = multiprocessing.Pipe()
            server = Server(there, self.note)
            silent_fork(lambda: pytest.main([*QUIET, test_file], plugins=[server]))
            there.close()
            self.servers[test_file] = here
            here.send(("tests/conftest.py", "", [], 60))  # answered once it has collected
            here.recv()
            path.write_text(mutated)
            os.utime(path, (before.st_atime, before.st_mtime - 1))
        return self.servers[test_file]


def watching(watch: Watch, test_file: str) -> int:
    """Run a test file with a `Watch`, to the end."""
    watch.process = os.getpid()
    return pytest.main([*QUIET[:-1], test_file], plugins=[watch])
