"""The mutants of a small source, and that functions take over the code of a mutant."""

import ast
import types

import mutants
from mutant_runs import exchange
from mutants import ROOT, Changes, sample

SOURCE = '''"""A docstring stays."""
LIMIT = 10


def share(part: int, whole: int = 4, strict: bool = True) -> float:
    """So does this one."""
    if part < 0 and strict:
        raise ValueError(
            f"part {part}: "
            "not below 0"
        )
    print("x", end="")
    return min(part, LIMIT) / whole


if __name__ == "__main__":
    share(1)
'''


def test_every_kind_of_mutant_is_found_where_it_should_be():
    found = Changes("a.py", SOURCE).found
    lines = {mutant.difference(SOURCE)[::2] for mutant in found}
    assert lines >= {
        (2, "LIMIT = 11"),
        (2, "LIMIT = 20"),
        (5, "def share(part: int, whole: int = 5, strict: bool = True) -> float:"),
        (5, "def share(part: int, whole: int = 4, strict: bool = False) -> float:"),
        (7, "if not (part < 0 and strict):"),
        (7, "if part <= 0 and strict:"),
        (7, "if part < 0 or strict:"),
        (9, '""'),
        (12, "pass"),
        (12, 'print("x", )'),
        (13, "return None"),
        (13, "return (min(part, LIMIT) / whole) / 2"),
        (13, "return max(part, LIMIT) / whole"),
        (13, "return min(part, LIMIT) * whole"),
    }
    assert {line for line, _ in lines} == {2, 5, 7, 9, 12, 13}
    for mutant in found:
        changed = mutant.changed(SOURCE)
        ast.parse(changed)
        assert changed.count("\n") == SOURCE.count("\n")  # lines keep their numbers


def test_a_seed_draws_the_same_mutants_of_different_lines():
    files = {"a.py": SOURCE, "b.py": SOURCE.replace("10", "30")}
    first, again, other = (sample(files, 6, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({(m.file, m.difference(files[m.file])[0]) for m in first}) == 6


def test_functions_take_over_the_code_of_a_mutant():
    module = types.ModuleType("a")
    exec(compile(SOURCE, "a.py", "exec"), module.__dict__)
    assert module.share(20) == 2.5
    exchange([module.share], compile(SOURCE.replace("min(", "max("), "a.py", "exec"))
    assert module.share(20) == 5


def test_the_tests_of_a_module_are_those_that_name_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    program = {"util/crops.py": "", "util/errors.py": "", "util/none.py": "import util.crops"}
    assert mutants.tests_of("util/crops.py", program) == ["tests/test_crops.py"]
    assert mutants.tests_of("util/errors.py", program)[0] == "tests/test_errors.py"
    assert mutants.tests_of("util/none.py", program) == []
    used = program | {"models/losses.py": "from util.none import x"}
    assert mutants.tests_of("util/none.py", used)[0] == "tests/test_losses.py"
