"""Do the tests notice a small error in the program? Random mutants, and a table of what survived.

    python tests/mutants.py --seed 0 --count 300
    python tests/mutants.py --only 'models/*' --count 50

A mutant is the program with one small change: another comparison, a number plus one, a call or a
keyword left out, half of a result, an empty message. A line is drawn at random, then one of its
mutants. The tests that name the module and execute the line run in a copy of the checkout, those of
its own file first, until one fails or the time runs out (both count as killed); `mutant_runs.py`
says how.

`mutants_equivalent.txt` lists mutants that change nothing that a user could see, with the reason;
they are left out of the count. Figures are judged by eye: their numbers and keywords stay as
they are (COSMETIC). mutmut 3 and cosmic-ray 8 do not fit: neither draws a seeded sample, the first
leaves out constants of modules and rewrites functions that tests look at, and the second starts
Python and imports torch for every mutant.
"""

import argparse
import ast
import contextlib
import fnmatch
import importlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mutant_runs import Runner

ROOT = Path(__file__).parents[1]
SCOPE = ("quantitative_metrics/*.py", "models/*.py", "util/*.py", "optimization/grid*.py")
COSMETIC = ("*_figures.py", "util/style.py", "util/pages/*", "*_page.py")
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.txt")
LIBRARIES = """torch torch._dynamo torchvision pandas scipy.stats sklearn.neighbors sklearn.manifold
    sklearn.neural_network skimage.measure skimage.filters skimage.segmentation matplotlib.pyplot
    plotly.graph_objects dash optuna tyro tqdm umap tifffile imagecodecs cp_measure.bulk anndata
    multiprocessing.forkserver""".split()
MOST_SECONDS = 120  # of tests for one mutant, as a clean run took them
MOST_FILES = 3  # of tests for one mutant, the own one of the module first
STYLE = ("test_layers", "test_docstrings", "test_readme", "test_faults", "test_mutants")

COMPARISONS = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
}
COMPARISONS |= {ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
ARITHMETIC = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/"}
ARITHMETIC |= {ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.MatMult: "*"}
OPPOSITES = (
    "min max any all minimum maximum floor ceil argmin argmax amin amax nanmin nanmax log exp"
)
OPPOSITES = dict(zip(OPPOSITES.split()[::2], OPPOSITES.split()[1::2], strict=True))
OPPOSITES |= {opposite: name for name, opposite in OPPOSITES.items()}
GUARDS = ("strict", "frozen", "repr")  # against mistakes of programmers; no user sees them
NUMERIC = re.compile(r"(float|np\.ndarray|Array|(torch\.)?Tensor)$")


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the characters from `start` to `end` become `text`."""

    file: str
    start: int
    end: int
    text: str
    lines: tuple[int, int]  # of the statement, first and last
    function: tuple[int, int] | None  # of the body whose tests run, none at the level of a module

    def changed(self, source: str) -> str:
        """The mutated source; it has as many lines as the source."""
        lost = source.count("\n", self.start, self.end) - self.text.count("\n")
        return source[: self.start] + self.text + "\n" * lost + source[self.end :]

    def difference(self, source: str) -> tuple[int, str, str]:
        """The first line that differs, as it was and as it is."""
        pairs = zip(source.split("\n"), self.changed(source).split("\n"), strict=True)
        place, (old, new) = next((i, pair) for i, pair in enumerate(pairs, 1) if len({*pair}) > 1)
        return place, old.strip(), new.strip()


class Changes(ast.NodeVisitor):
    """All mutants of a file."""

    def __init__(self, file: str, source: str):
        """Find them; none inside annotations, docstrings and `if __name__ == ...`."""
        self.file, self.source, self.found = file, source, []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line.encode()))
        self.bytes, self.lines, self.function = source.encode(), (1, 1), None
        self.cosmetic = any(fnmatch.fnmatch(file, pattern) for pattern in COSMETIC)
        self.visit(ast.parse(source))

    def at(self, line: int, column: int) -> int:
        """The place of a character in the source; ast counts bytes."""
        return len(self.bytes[: self.starts[line - 1] + column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First and last place of a node."""
        first = self.at(node.lineno, node.col_offset)
        return first, self.at(node.end_lineno, node.end_col_offset)

    def add(self, start: int, end: int, text: str) -> None:
        """Keep a mutant."""
        self.found.append(Mutant(self.file, start, end, text, self.lines, self.function))

    def swap(self, left: ast.AST, right: ast.AST, text: str) -> None:
        """Another operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        between = re.search(r"[^\s()#\\]+( (in|not)\b)?", self.source[start:end])
        if "#" not in self.source[start:end]:
            self.add(start + between.start(), start + between.end(), text)

    def visit(self, node: ast.AST) -> None:
        """Remember statement and function on the way down."""
        kept = self.lines, self.function
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno
            self.lines = node.lineno, max(last, node.lineno)
            if isinstance(node, ast.FunctionDef) and self.function is None:
                self.function = node.body[0].lineno, node.end_lineno
        super().visit(node)
        self.lines, self.function = kept

    def visit_If(self, node: ast.If) -> None:
        if not ast.unparse(node.test).startswith(("__name__", "TYPE_CHECKING")):
            start, end = self.span(node.test)
            self.add(start, end, f"not ({self.source[start:end]})")
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        returns = ast.unparse(node.returns) if node.returns else ""
        own = [part for part in ast.walk(node) if isinstance(part, ast.Return) and part.value]
        for part in own:
            kept, self.lines = self.lines, (part.lineno, part.end_lineno)
            start, end = self.span(part.value)
            self.add(start, end, "None")
            if NUMERIC.match(returns):
                self.add(start, end, f"({self.source[start:end]}) / 2")
            self.lines = kept
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults, *node.body):
            if part is not None:
                self.visit(part)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.add(*self.span(node), "pass")
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(*self.span(node), "pass")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        for part in getattr(node.exc, "args", ()):
            if isinstance(part, (ast.JoinedStr, ast.Constant, ast.BinOp)):
                self.add(*self.span(part), '""')
        self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Its parts have no reliable places in Python 3.11, and its numbers are widths."""
        self.add(*self.span(node), '""')

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right, operator in zip(operands, operands[1:], node.ops, strict=False):
            self.swap(left, right, COMPARISONS[type(operator)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not self.cosmetic:
            self.swap(node.left, node.right, ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        other = "or" if isinstance(node.op, ast.And) else "and"
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap(left, right, other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.add(*self.span(node), self.source[slice(*self.span(node.operand))])
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if self.cosmetic or not isinstance(node.value, int | float):
            return
        if isinstance(node.value, bool):
            self.add(*self.span(node), str(not node.value))
        else:
            self.add(*self.span(node), repr(node.value + 1))
            if node.value:
                self.add(*self.span(node), repr(node.value * 2))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        if name in OPPOSITES:
            end = self.span(node.func)[1]
            self.add(end - len(name), end, OPPOSITES[name])
        for keyword in node.keywords if not self.cosmetic else ():
            if keyword.arg and keyword.arg not in GUARDS:
                start, end = self.span(keyword)
                comma = re.match(r"\s*,", self.source[end:])
                self.add(start, end + (comma.end() if comma else 0), "")
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in GUARDS:
            self.visit(node.value)


def sample(files: dict[str, str], count: int, seed: int) -> list[Mutant]:
    """At most `count` mutants that compile: a random line each, then one of its mutants."""
    lines: dict[tuple[str, int], list[Mutant]] = {}
    for file, source in files.items():
        for mutant in Changes(file, source).found:
            lines.setdefault((file, source.count("\n", 0, mutant.start)), []).append(mutant)
    draw, taken = random.Random(seed), []
    for line in draw.sample(sorted(lines), len(lines)):
        mutant = draw.choice(lines[line])
        with contextlib.suppress(SyntaxError):
            compile(mutant.changed(files[mutant.file]), mutant.file, "exec", dont_inherit=True)
            if mutant.changed(files[mutant.file]) != files[mutant.file]:
                taken.append(mutant)
        if len(taken) == count:
            break
    return taken


def tests_of(file: str, program: Mapping[str, str], depth: int = 2) -> list[str]:
    """The test files that import a module or start it as a script, its own first.

    Of a module without tests of its own also those of the modules that import it.
    """
    stem, dotted = Path(file).stem, file.removesuffix(".py").replace("/", ".")
    package = dotted.rpartition(".")[0]
    named = re.compile(
        rf"\b{re.escape(dotted)}\b|{re.escape(file)}"
        rf"|from {re.escape(package)} import [\w, ]*\b{stem}\b"
    )
    paths = [path for path in sorted(Path("tests").glob("test_*.py")) if path.stem not in STYLE]
    folder = Path(file).parent.name  # features share a file, simulators have its name in theirs
    names = {f"test_{name.lower()}" for name in (stem, folder, f"{folder}_{stem}")}
    own = [str(path) for path in paths if path.stem.lower() in names]
    found = [*own, *(str(path) for path in paths if named.search(path.read_text()))]
    if not own and depth:
        for other, text in program.items():
            if other != file and named.search(text):
                found += tests_of(other, program, depth - 1)
    return list(dict.fromkeys(found))


def chosen(mutant: Mutant, tests: dict[str, dict]) -> dict[str, float]:
    """Seconds of the tests of one file that execute the statement, quick ones first."""
    first, last = mutant.lines
    if mutant.function and last < mutant.function[0]:  # defaults and decorators: any line of it
        first, last = mutant.function
    met = {
        name: test["seconds"]
        for name, test in tests.items()
        if any(file == mutant.file and first <= line <= last for file, line in test["lines"])
    }
    return dict(sorted(met.items(), key=lambda pair: pair[1]))


def judge(mutant: Mutant, program: Mapping[str, str], runner: Runner) -> str:
    """What became of a mutant: the test that killed it, "time", "import", "" or "no test"."""
    left, tested, mutated = MOST_SECONDS, False, mutant.changed(program[mutant.file])
    in_body = mutant.function is not None and mutant.lines[0] >= mutant.function[0]
    for test_file in tests_of(mutant.file, program)[:MOST_FILES]:
        watched = runner.watched(test_file)
        tests = {} if mutant.function is None else chosen(mutant, watched)
        if not tests:  # executed when the tests import the module, if at all
            tests = {name: test["seconds"] for name, test in watched.items()}
            in_body = False
        clean = sum(tests.values())
        if clean > left and tested:
            continue
        tested, left = True, left - clean
        killer = runner.killer(mutant.file, mutated, [*tests], clean, anew=not in_body)
        if killer:
            return killer
    return "" if tested else "no test"


def equivalents() -> dict[tuple[str, str, str], str]:
    """Reasons by file, line as it was, line as it is."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    rows = [[part.strip() for part in line.split(" | ")] for line in lines if " | " in line]
    return {(file, old, new): reason for file, old, new, reason in rows}


def copied(folder: Path) -> None:
    """The tracked and new files of this checkout, and go there."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:0] = [str(folder), str(folder / "tests")]
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests")]


def main() -> None:
    """Draw, test, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", nargs="+", default=SCOPE, help="patterns of files")
    parser.add_argument("--again", type=Path, help="an earlier table: only its survivors are tried")
    args = parser.parse_args()
    commit = subprocess.check_output(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True
    )
    print(f"# commit {commit.strip()}, seed {args.seed}, {args.count} mutants of", *args.only)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    sys.dont_write_bytecode = True
    # Not a TemporaryDirectory: the scripts that tests start would remove it when they end.
    temporary = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        tree, notes = temporary / "tree", temporary / "notes"
        notes.mkdir()
        copied(tree)
        for library in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(library)
        paths = [str(path) for path in sorted(Path().rglob("*.py"))]
        program = {path: Path(path).read_text() for path in paths if not path.startswith("tests")}
        sources = {
            path: text
            for path, text in program.items()
            if any(fnmatch.fnmatch(path, pattern) for pattern in args.only)
        }
        runner = Runner("".join(program.values()), notes)
        known = args.again.read_text() if args.again else ""
        table(sample(sources, args.count, args.seed), program, runner, known)
        runner.close()
    finally:
        os.chdir(ROOT)
        shutil.rmtree(temporary)


def table(
    mutants: list[Mutant], program: Mapping[str, str], runner: Runner, known: str = ""
) -> None:
    """Judge mutants and print a row each, and the counts; those killed in a known table stay."""
    reasons, counts = equivalents(), Counter()
    rows = re.findall(r"^killed +(\S+?):\d+  (.*)\n    - (.*)\n    \+ (.*)$", known, re.MULTILINE)
    killers = {(file, old.strip(), new.strip()): killer for file, killer, old, new in rows}
    for mutant in sorted(mutants, key=lambda mutant: (mutant.file, mutant.start)):
        line, *change = mutant.difference(program[mutant.file])
        key = (mutant.file, *change)
        killer = reasons.get(key) or killers.get(key)
        if killer is None:
            killer = judge(mutant, program, runner)
        state = "survived" if killer in ("", "no test") else "killed"
        state = "equivalent" if key in reasons else state
        counts[state] += 1
        print(f"{state:10} {mutant.file}:{line}  {killer}")
        print(f"    - {change[0]}\n    + {change[1]}", flush=True)
    judged = counts["killed"] + counts["survived"]
    print(
        f"# {counts['killed']} of {judged} killed ({counts['killed'] / max(judged, 1):.1%})", end=""
    )
    print(f", {counts['equivalent']} equivalent")


if __name__ == "__main__":
    main()
