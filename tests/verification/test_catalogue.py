"""The catalogue of faults fits the source, and its tool cannot say green by luck."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from dev.catalogue import Edit, Unreadable, all_faults, read
from dev.conditions import CONDITIONS
from dev.mutants import mutants
from dev.overlay import SOURCE, Misfit, edited, lay
from dev.signatures import FILE
from latentcast.verification.claims import all_claims

FAULTS = all_faults()


def entry(tmp_path: Path, text: str) -> Any:
    (tmp_path / "some.txt").write_text(text)
    (fault,) = read(tmp_path / "some.txt")
    return fault


def source(tmp_path: Path, text: str) -> Path:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "toy.py").write_text(text)
    return tmp_path


TOY = """def a(x):
    if x:
        y = 1
        return y
    return 0


def b(x):
    y = 1
    return x + y
"""


def test_every_fault_of_the_catalogue_fits_the_source() -> None:
    problems = []
    for fault in FAULTS:
        try:
            edited(fault.edits, fault.id)
        except Misfit as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


def test_entries_name_claims_and_conditions_that_exist() -> None:
    known = {claim.id for claim in all_claims()}
    for fault in FAULTS:
        assert set(fault.reddens) <= known, f"{fault.id}: {set(fault.reddens) - known}"
        assert {word.removeprefix("not-") for word in fault.where} <= set(CONDITIONS), fault.id
        assert fault.sentence.endswith("."), fault.id


def test_the_signatures_in_the_package_are_those_of_the_catalogue() -> None:
    known = json.loads(FILE.read_text())
    assert {n: own["sentence"] for n, own in known.items()} == {
        fault.id: fault.sentence for fault in FAULTS
    }, "run python -m dev.signatures"
    assert all(set(f.reddens) <= set(red) for f in FAULTS for red in known[f.id]["red"])


def test_every_claim_is_reddened_by_a_fault() -> None:
    proven = {name for fault in FAULTS for name in fault.reddens}
    assert {claim.id for claim in all_claims()} - proven == set()


# An edit


def test_an_edit_keeps_the_indentation_of_the_source(tmp_path: Path) -> None:
    edit = Edit("engine/toy.py", ("return y",), ("if y:", "    return y + 1", "return 2"))
    made = edited([edit], "toy.x", source(tmp_path, TOY))["engine/toy.py"]
    assert "        y = 1\n        if y:\n            return y + 1\n        return 2\n" in made


def test_a_line_that_is_gone_is_told_with_the_nearest(tmp_path: Path) -> None:
    edit = Edit("engine/toy.py", ("return x - y",), ("return x",))
    with pytest.raises(Misfit, match=r"toy\.x: engine/toy\.py has no line 'return x - y'; the "
                                     r"nearest is line 10, 'return x \+ y'"):  # fmt: skip
        edited([edit], "toy.x", source(tmp_path, TOY))
    with pytest.raises(Misfit, match=r"toy\.x: engine/gone\.py is not in the package"):
        edited([Edit("engine/gone.py", ("x",), ("y",))], "toy.x", tmp_path)


def test_a_line_that_is_there_twice_needs_its_surroundings(tmp_path: Path) -> None:
    package = source(tmp_path, TOY)
    with pytest.raises(Misfit, match=r"toy\.x: engine/toy\.py has 'y = 1' in lines 3, 9"):
        edited([Edit("engine/toy.py", ("y = 1",), ("y = 2",))], "toy.x", package)
    edit = Edit("engine/toy.py", ("y = 1", "return x + y"), ("y = 2", "return x + y"))
    assert edited([edit], "toy.x", package)["engine/toy.py"].count("y = 2") == 1
    far = Edit("engine/toy.py", ("y = 1", "return 0"), ("y = 2", "return 0"))
    with pytest.raises(Misfit, match="with the 1 that follow it"):
        edited([far], "toy.x", package)


def test_an_edit_that_leaves_no_python_is_refused(tmp_path: Path) -> None:
    edit = Edit("engine/toy.py", ("return x + y",), ("return x +",))
    with pytest.raises(Misfit, match=r"toy\.x: engine/toy\.py is no Python"):
        edited([edit], "toy.x", source(tmp_path, TOY))


# An entry


def test_an_entry_is_read_as_it_is_written(tmp_path: Path) -> None:
    fault = entry(tmp_path, """# A comment.
[toy.x] A sentence that
  goes on.
source: somebody
reddens: a.b c.d
where: jepa not-image
engine/toy.py
  if x:
-     y = 1
+     y = 2
...
+ z = 3
  return 0
""")  # fmt: skip
    assert fault.sentence == "A sentence that goes on." and fault.source == "somebody"
    assert fault.reddens == ("a.b", "c.d") and fault.where == ("jepa", "not-image")
    assert fault.edits == (
        Edit("engine/toy.py", ("if x:", "    y = 1"), ("if x:", "    y = 2")),
        Edit("engine/toy.py", ("return 0",), ("z = 3", "return 0")),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("toy.x A sentence.\n", "begins with 'toy.x A sentence.'"),
        ("[toy.x] A sentence.\nengine/toy.py\n- a\n+ b\n", "has no reddens"),
        ("[toy.x] A sentence.\nreddens: a.b\n", "has no edit"),
        ("[toy.x] A sentence.\nreddens: a.b\n- a\n+ b\n", "before the name of a file"),
        ("[toy.x] A sentence.\nreddens: a.b\nengine/toy.py\n+ b\n", "names no line"),
        ("[toy.x] A sentence.\nreddens: a.b\nwhen: now\n", "neither a field, a file, nor"),
    ],
)
def test_an_entry_that_cannot_be_read_is_told(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(Unreadable, match=rf"some\.txt:2: .*{re.escape(problem)}"):
        entry(tmp_path, "\n" + text)


def test_two_faults_of_one_id_are_refused(tmp_path: Path) -> None:
    one = "[toy.x] A sentence.\nreddens: a.b\nengine/toy.py\n- a\n+ b\n"
    (tmp_path / "some.txt").write_text(f"{one}\n{one}")
    with pytest.raises(Unreadable, match=r"toy\.x: is in the catalogue twice"):
        all_faults(tmp_path)


# The overlay


def test_the_overlay_is_the_package_but_for_its_edits(tmp_path: Path) -> None:
    lay({"engine/ema.py": "edited"}, tmp_path)
    made = tmp_path / "latentcast"
    for file in SOURCE.rglob("*.py"):
        own = made / file.relative_to(SOURCE)
        if str(file.relative_to(SOURCE)) == "engine/ema.py":
            assert own.read_text() == "edited" and file.read_text() != "edited"
        else:
            assert own.resolve() == file.resolve()


SCRIPT = """
import json, sys, time
from rich.console import Console
from dev.catalogue import Edit, Fault, all_faults
from dev.matrix import against, problems
from dev.overlay import Job, run

def fault(name, old, new):
    return Fault(name, "A sentence.", "classic", ("order.by-seed",), (),
                 (Edit("data/order.py", (old,), (new,)),))

line = 'return randomness.permutation(randomness.key(seed, "order", epoch), n)'
names = ("order.not-by-seed", "table.betas", "rope.theta-squared")
chosen = [f for f in all_faults() if f.id in names]
chosen += [
    fault("toy.silent", line, line + "  # as it was"),
    fault("toy.raises", line, 'raise ValueError("nobody measures this")'),
    fault("toy.unimportable", line, 'return 1\\nraise ValueError("at import")'),
]
matrix = against(["nepa-ecg-small"], chosen, 1, Console(quiet=True))
(hung,) = run([Job("hung", lambda: time.sleep(60))], patience=0.3)
(killed,) = run([Job("killed", lambda: sys.exit("gone"))])
print(json.dumps({**matrix.as_json(), "hung": hung.problem, "killed": killed.problem,
                  "problems": problems(matrix, False), "imported": "latentcast" in sys.modules}))
"""


@pytest.fixture(scope="module")
def matrix() -> dict[str, Any]:
    """Of a process that has not imported latentcast, as a fork needs it."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def row(matrix: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in matrix["rows"] if row["id"] == name)


def test_without_a_fault_nothing_is_red(matrix: dict[str, Any]) -> None:
    assert matrix["broken"] == [] and not matrix["imported"]
    assert "order.by-seed" in matrix["claims"]["nepa-ecg-small"]


@pytest.mark.parametrize("name", ["order.not-by-seed", "table.betas", "rope.theta-squared"])
def test_a_fault_is_caught_by_a_number(matrix: dict[str, Any], name: str) -> None:
    found = row(matrix, name)
    assert found["caught"] and not found["missed"]
    for claim in found["reddens"]:
        assert claim in found["red"] and claim not in found["raised"]


def test_what_nobody_measured_is_not_caught(matrix: dict[str, Any]) -> None:
    assert row(matrix, "toy.silent")["missed"] == "order.by-seed holds"
    assert "raised ValueError: nobody measures this" in row(matrix, "toy.raises")["missed"]
    assert "ValueError: at import" in row(matrix, "toy.unimportable")["missed"]
    told = [line.partition(" ")[0] for line in matrix["problems"]]
    assert told == ["toy.silent", "toy.raises", "toy.unimportable"]
    assert {"order.by-seed", "order.once-per-epoch"} & set(matrix["unproven"]) == {
        "order.once-per-epoch"
    }


def test_a_process_that_hangs_or_dies_is_told(matrix: dict[str, Any]) -> None:
    assert matrix["hung"].startswith("not done in 0.3 s")
    assert matrix["killed"].startswith("exit status 1")


# Mutants


def test_mutants_are_small_changes_of_what_runs(tmp_path: Path) -> None:
    toy = '''"""A docstring with 1 + 1."""

X: Literal[3] = 5


def f(a: int, b: str = "2") -> Literal[4]:
    self.x = g(a, b)
    if a < 1 and not b:
        raise ValueError(f"{a + 1}", 7 + 7)
    return a - max(a, b)
'''
    found = mutants("engine/toy.py", source(tmp_path, toy))
    assert [(mutant.line, mutant.after) for mutant in found] == [
        (3, "X: Literal[3] = 6"),
        (7, "pass"),
        (7, "self.x = g(b, a)"),
        (8, "if (not (a < 1 and not b)):"),
        (8, "if a < 1 or not b:"),
        (8, "if a <= 1 and not b:"),
        (8, "if a < 2 and not b:"),
        (8, "if a < 1 and b:"),
        (9, "pass"),
        (10, "return a + max(a, b)"),
    ]
    assert mutants("engine/toy.py", tmp_path) == found


@pytest.mark.slow
def test_every_fault_is_caught_and_every_claim_proven() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.matrix", "--jobs", "2"], cwd=REPOSITORY, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
