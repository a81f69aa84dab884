"""Examples of a document that add to the package: applied to a copy of it, and used there.

In a section, the first line of a Python block says what to do with the rest of it:

- ``# file: PATH`` makes a new file of it;
- ``# add to: NAME in PATH`` puts it into the list, tuple, set, dictionary or ``A | B`` called NAME,
  imports to the other imports;
- ``# add to: PATH`` puts it at the end of the file, imports to the other imports.

What has no such line, Python or bash, uses what was added.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from documents import Block, blocks

from conftest import REPOSITORY

FILE = re.compile(r"# file: (\S+)")
ADD = re.compile(r"# add to: (?:(\w+) in )?(\S+)")

USE = """
import json, sys
import latentcast
from latentcast import cli

assert latentcast.__file__.startswith(sys.argv[1]), latentcast.__file__
names = {"__name__": "__main__"}
for place, language, code in json.load(sys.stdin):
    print(f"-- {place}", flush=True)
    if language == "python":
        exec(compile(code, place, "exec"), names)
        continue
    sys.argv = code
    try:
        cli.main()
    except SystemExit as end:
        if end.code:
            sys.exit(end.code)
"""


def sections(document: str, text: str, heading: str) -> dict[str, list[Block]]:
    """The blocks of each section whose title matches."""
    found: dict[str, list[Block]] = {}
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    line = parts[0].count("\n")
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if re.search(heading, title):
            own = blocks(document, body)
            found[title] = [
                Block(document, line + b.line, b.language, b.text, b.reason) for b in own
            ]
        line += body.count("\n")
    return found


def added(source: str, name: str | None, lines: Sequence[str]) -> str:
    """The source of a module with some lines more.

    Raises:
        LookupError: the module binds no such list.
    """
    imports = [line for line in lines if re.match(r"(from|import) ", line)]
    entry = "\n".join(line for line in lines if line not in imports).strip().rstrip(",")
    if entry and name is None:
        source = f"{source}\n\n{entry}\n"
    elif entry and name is not None:
        place, before, after = _place(source, name)
        raw = source.encode()
        source = b"".join(
            [raw[:place], before, entry.lstrip("| ").encode(), after, raw[place:]]
        ).decode()
    rows = source.splitlines(keepends=True)
    tops = [n for n in ast.parse(source).body if isinstance(n, ast.Import | ast.ImportFrom)]
    last = tops[-1].end_lineno or 0 if tops else 0
    return "".join([*rows[:last], *(f"{line}\n" for line in imports), *rows[last:]])


def _place(source: str, name: str) -> tuple[int, bytes, bytes]:
    """Where the next item of a list goes, in bytes, and what stands before and after it."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else (
            [node.target] if isinstance(node, ast.AnnAssign) else []
        )  # fmt: skip
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            break
    else:
        raise LookupError(f"nothing is called {name} there")
    for value in ast.walk(node.value):  # type: ignore[attr-defined]
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
            return _end(source, value), b" | ", b""
        if isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Set) and not _annotated(node):
            items = value.values if isinstance(value, ast.Dict) else value.elts
            if items:
                return _end(source, items[-1]), b",\n    ", b""
            return _end(source, value) - 1, b"", b","
    raise LookupError(f"{name} is no list, tuple, set, dictionary or union")


def _annotated(node: ast.stmt) -> bool:
    """Whether it is a type with something said about it: its list is that of the arguments."""
    value = getattr(node, "value", None)
    return isinstance(value, ast.Subscript)


def _end(source: str, node: ast.expr) -> int:
    assert node.end_lineno is not None and node.end_col_offset is not None
    rows = source.encode().splitlines(keepends=True)
    return sum(map(len, rows[: node.end_lineno - 1])) + node.end_col_offset


def apply(section: Sequence[Block], repository: Path) -> list[Block]:
    """Make the files and the additions of a section; what is left uses them."""
    uses = []
    for block in section:
        first, _, rest = block.text.partition("\n")
        if found := FILE.fullmatch(first):
            file = repository / found[1]
            assert not file.exists(), f"{block}: {found[1]} exists"
            file.write_text(rest.strip("\n") + "\n")
        elif found := ADD.fullmatch(first):
            file = repository / found[2]
            lines = [line for line in rest.splitlines() if line.strip()]
            file.write_text(added(file.read_text(), found[1], lines))
        elif block.language in ("python", "bash") and block.reason is None:
            uses.append(block)
    return uses


def use(uses: Sequence[Block], repository: Path, folder: Path) -> str:
    """Run blocks in one process on the copy; what it printed. Fails when one does."""
    steps = []
    for block in uses:
        if block.language == "python":
            steps.append((str(block), "python", block.text))
            continue
        for line in block.commands:
            words = shlex.split(line, comments=True)
            assert words[0] == "latentcast", f"{block}: runs {words[0]}"
            steps.append((str(block), "bash", words))
    paths = [str(repository / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", USE, str(repository)], cwd=folder, input=json.dumps(steps),
        capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_package(folder: Path) -> Path:
    """A repository with nothing but the source of the package; compiled files stay valid."""
    shutil.copytree(REPOSITORY / "src" / "latentcast", folder / "src" / "latentcast")
    return folder
