"""Every message in the source that tells its reader something to type."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import latentcast
from latentcast import cli
from latentcast.config import Config

SOURCE = Path(latentcast.__file__).parent
VERBS = [
    n for n, v in vars(cli).items() if getattr(v, "__module__", "").startswith("latentcast.cli.")
]

COMMANDS = [
    r"(?<![\w-])--[a-z{][a-z0-9-]*",  # a flag
    rf"\blatentcast (?:{'|'.join(VERBS)})\b",  # a verb
    rf"\b(?:{'|'.join(Config.model_fields)})\.(?!py\b)[\w{{][\w.{{}}]*",  # a setting
    r"\b[a-z]\w*(?:\.\w+)*=(?:\w|[\[{'\"])",  # a setting, or an argument, with its value
    r"pip install",
    r"\b[A-Z]{3,}(?:_[A-Z]+)+\b",  # an environment variable
    r"^(?:delete|remove|name) .*\{",  # a path, as part of an error
    r"same (?:command|ingest|call)|an earlier checkpoint",
]
# In an error, also: a call, or a value or a file that is printed for its reader to type.
VALUES = [
    r"\b\w+\([^ )]|\.\w+\(",
    r"\b(?:name|remove|delete|put|ingest|give|like)\b[^;{]*\{",
    r"; (?:\{|use (?!a larger|longer|the )|try |write |set |leave |choose a recipe)",
    r"known: \{|re-ingest|; probe again|; export the run|train the run first|name a \.png",
]
# Whole parts of the source whose strings are no messages: the wording of claims, and pages.
ELSEWHERE = re.compile(r"verification/(claims|observe|foreign)/|report/svg.py")
PAGE = re.compile(r"</|<\w+ |\{color|\{box")


@dataclass(frozen=True)
class Message:
    """A string of a source file, with ``{}`` where a value is put in.

    ``error`` is whether it is part of an error where it stands, ``advice`` whether its reader can
    type what it says.
    """

    file: str
    text: str
    error: bool
    advice: bool

    def stands_in(self, printed: str) -> bool:
        """Whether a text that was printed holds this message, however its lines are broken."""
        parts = [r"\s+".join(map(re.escape, part.split(" "))) for part in self.text.split("{}")]
        return re.search(".*?".join(parts), printed, re.DOTALL) is not None


@cache
def messages() -> tuple[Message, ...]:
    """All strings of more than one word that are no docstrings."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        file = path.relative_to(SOURCE).as_posix()
        if not ELSEWHERE.match(file):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [_message(file, text, error) for text, error in _strings(tree, False)]
    return tuple(dict.fromkeys(found))


def advice(file: str, start: str) -> Message:
    """The one message of a file that begins so, or is just that."""
    found = [m for m in messages() if m.file == file and m.text.startswith(start)]
    found = [m for m in found if m.text == start] or found
    assert len(found) == 1, f"{file}: {len(found)} messages begin with {start!r}; name one"
    return found[0]


def _message(file: str, text: str, error: bool) -> Message:
    patterns = COMMANDS + VALUES if error else COMMANDS
    typed = not PAGE.search(text) and any(re.search(pattern, text) for pattern in patterns)
    return Message(file, text, error, typed)


def _strings(node: ast.AST, error: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue  # a docstring, of a module, function, class or attribute
        text = _text(child)
        if text is None:
            yield from _strings(child, error or isinstance(child, ast.Raise) or _is_error(child))
        elif " " in text:
            yield " ".join(text.split()), error
            for part in ast.iter_child_nodes(child):
                if isinstance(part, ast.FormattedValue):
                    yield from _strings(part, error)


def _is_error(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id.endswith(("Error", "BadRecord"))
    )


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            value.value if isinstance(value, ast.Constant) else "{}" for value in node.values
        )
    return None
