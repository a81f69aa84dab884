"""The shape of the package: imports point down, rooms say what they hold, words name one thing.

Exceptions are listed and must be true, so that the lists can only shrink.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from conftest import REPOSITORY

SOURCE = REPOSITORY / "src"
PACKAGE = "latentcast"
Imports = Mapping[str, frozenset[str]]

ROOMS = (
    ("errors",),
    ("signatures",),
    ("terminal", "files", "locks", "notebook", "markdown"),
    ("archives", "npy", "pretrained", "walk"),
    ("places",),
    ("randomness",),
    ("batch", "source"),
    ("signals", "images"),
    ("config",),
    ("data", "nn"),
    ("objectives",),
    ("recipes",),
    ("engine",),
    ("artifacts",),
    ("evaluation",),
    ("monitors",),
    ("runs",),
    ("report",),
    ("serving",),
    ("workflows",),
    ("verification",),
    ("cli",),
    ("", "__main__"),  # the package itself: the public names
)
"""From the bottom up. A room imports from rooms of lower lines, and from none of its own line."""
UPWARDS: set[tuple[str, str]] = set()
CIRCLES: set[frozenset[str]] = set()
LONGEST = 450
LONGER: set[str] = set()
FOREIGN = {"torchvision", "timm", "transformers"}
"""Stacks that break beside a CPU build of torch: on no path, and in no extra."""
NO_NAMES = {"told", "asked", "whole", "known", "held", "seen", "wanted"}
"""Participles that say nothing of the data they are bound to."""


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    """Each module, by its name without the package's."""
    found = {}
    for file in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = file.relative_to(SOURCE / PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = (file, ast.parse(file.read_text()))
    return found


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """What runs, functions included; not what stands under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from (other, *executed(other))
        else:
            yield from (child, *executed(child))


def imported(name: str, file: Path, tree: ast.Module) -> Iterator[str]:
    """Full names of the modules, or of what may be one, that a module imports."""
    folder = f"{PACKAGE}.{name}".rstrip(".").split(".")
    if file.name != "__init__.py":
        folder.pop()
    for node in executed(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def imports() -> Imports:
    """The modules of the package that each of its modules imports."""
    found = defaultdict[str, set[str]](set)
    for name, (file, tree) in sources().items():
        for target in imported(name, file, tree):
            root, _, inside = target.partition(".")
            if root == PACKAGE:
                while inside not in sources():  # a name that its module defines
                    inside = inside.rpartition(".")[0]
                found[name] |= {inside} - {name}
    return {name: frozenset(targets) for name, targets in found.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def circles(edges: Imports) -> set[frozenset[str]]:
    """Sets of modules that reach each other."""
    reached = {start: reachable(start, edges) for start in edges}
    return {
        frozenset(other for other in found if start in reached.get(other, ()))
        for start, found in reached.items()
        if start in found
    }


def reachable(start: str, edges: Imports) -> set[str]:
    found, ahead = set[str](), list(edges[start])
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            ahead += edges.get(module, ())
    return found


def test_imports_point_down() -> None:
    line = {name: number for number, names in enumerate(ROOMS) for name in names}
    rooms = {room(name) for name in sources()}
    assert rooms <= set(line), f"no line of ROOMS has {rooms - set(line)}"
    upwards = {
        (name, target)
        for name, targets in imports().items()
        for target in targets
        if room(name) != room(target) and line[room(target)] >= line[room(name)]
    }
    assert upwards == UPWARDS


def test_the_page_about_the_rooms_lists_them_in_this_order() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", page, re.MULTILINE)
    assert [tuple(re.findall(r"\w+", row)) for row in rows] == list(ROOMS[:-1])


def test_no_modules_import_each_other_in_a_circle_not_even_inside_of_functions() -> None:
    assert circles(imports()) == CIRCLES


def test_files_of_claims_do_not_lean_on_each_other() -> None:
    claims = {name for name in sources() if name.startswith("verification.claims.")}
    assert {name: imports()[name] & claims for name in claims if imports()[name] & claims} == {}


def test_rooms_form_no_circle() -> None:
    edges = defaultdict[str, set[str]](set)
    for name, targets in imports().items():
        edges[room(name)] |= {room(target) for target in targets} - {room(name)}
    assert circles({name: frozenset(targets) for name, targets in edges.items()}) == set()


def test_every_folder_says_in_one_sentence_what_it_holds() -> None:
    folders = {file.parent for file, _ in sources().values()}
    for folder in folders:
        name = ".".join(folder.relative_to(SOURCE / PACKAGE).parts)
        assert (folder / "__init__.py").exists(), folder
        sentence = (ast.get_docstring(sources()[name][1]) or "").partition("\n\n")[0]
        assert re.fullmatch(r"\S[^.]*(\.\w[^.]*)*\.", sentence), f"{folder}: {sentence!r}"


def test_no_file_is_longer_than_a_concept() -> None:
    lines = {name: len(file.read_text().splitlines()) for name, (file, _) in sources().items()}
    assert {name for name, count in lines.items() if count > LONGEST} == LONGER


def test_nothing_imports_the_vision_stacks() -> None:
    for name, (file, tree) in sources().items():
        roots = {target.partition(".")[0] for target in imported(name, file, tree)}
        assert not roots & FOREIGN, f"{name} imports {roots & FOREIGN}"


def bound(tree: ast.Module) -> Iterator[str]:
    """Names that a module binds: variables, parameters, attributes, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name


def test_names_say_what_the_data_is() -> None:
    counts = defaultdict[str, int](int)
    for name, (_, tree) in sources().items():
        counts[room(name)] += sum(word.strip("_") in NO_NAMES for word in bound(tree))
    assert {name: count for name, count in counts.items() if count} == {}
