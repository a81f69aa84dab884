"""Generated bugs: one small change of one line each, and which of them no claim names.

    python -m dev.mutants FILE ... [--recipes R ...] [--sample N] [--seed S] [--jobs N] [--json F]

FILE is named as in the package (``engine/ema.py``). Operators, comparisons, constants, conditions,
arguments and statements are changed one at a time; with ``--sample`` as many of them as that,
chosen by the seed. A mutant is named as soon as one claim is red by a number on one recipe.
Survivors are changes without effect, or holes in the claims: read them.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from dev.catalogue import all_faults
from dev.measuring import area, healthy, reds, under
from dev.overlay import SOURCE, preload, run

RECIPES = ("nepa-ecg-small", "hjepa-ecg-tiny")
PATIENCE = 120.0
SYMMETRIC = ("max", "min", "isinstance", "torch.equal", "torch.maximum", "torch.minimum")
OTHER = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "//",
    ast.Pow: "*", ast.MatMult: "+", ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "|",
    ast.LShift: ">>", ast.RShift: "<<",
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
    ast.And: "or", ast.Or: "and",
}  # fmt: skip
TEXT = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^",
    ast.LShift: "<<", ast.RShift: ">>",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in",
    ast.And: "and", ast.Or: "or",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A file with one change: the line before and after it."""

    file: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"


def mutants(file: str, source: Path = SOURCE) -> list[Mutant]:
    """All mutants of a file of the package, in the order of its lines."""
    raw = (source / file).read_bytes()
    starts = [0]  # of the lines, in bytes, as ast counts columns
    for row in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found: dict[bytes, Mutant] = {}
    for begin, end, new in _changes(ast.parse(raw), raw, starts):
        changed = raw[:begin] + new.encode() + raw[end:]
        try:
            ast.parse(changed)
        except SyntaxError:
            continue
        if changed == raw:
            continue
        line = raw[:begin].count(b"\n") + 1
        lines = raw[begin:end].count(b"\n") + 1
        before = raw.decode().splitlines()[line - 1 : line - 1 + lines]
        after = changed.decode().splitlines()[line - 1 : line + new.count("\n")]
        told = [" ".join(part.strip() for part in parts) for parts in (before, after)]
        found.setdefault(changed, Mutant(file, line, told[0], told[1], changed.decode()))
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _changes(tree: ast.AST, raw: bytes, starts: list[int]) -> Iterator[tuple[int, int, str]]:
    """Spans of the source, in bytes, and what to put in their place."""

    def span(node: ast.AST) -> tuple[int, int]:
        at: tuple[int, int, int, int] = (node.lineno, node.col_offset, node.end_lineno,  # type: ignore[attr-defined]
                                         node.end_col_offset)  # type: ignore[attr-defined]  # fmt: skip
        return starts[at[0] - 1] + at[1], starts[at[2] - 1] + at[3]

    def text(node: ast.AST) -> str:
        begin, end = span(node)
        return raw[begin:end].decode()

    def between(left: ast.AST, op: ast.AST, right: ast.AST) -> Iterator[tuple[int, int, str]]:
        begin, end = span(left)[1], span(right)[0]
        gap, own = raw[begin:end].decode(), TEXT.get(type(op), "\0")
        if own in gap:
            yield begin, end, gap.replace(own, OTHER[type(op)], 1)

    for node in _code(tree):
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                yield from between(left, op, right)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                for a, sign, b in zip([left, *rights], ops, rights, strict=False):
                    yield from between(a, sign, b)
            case ast.BoolOp(op=op, values=values):
                for a, b in pairwise(values):
                    yield from between(a, op, b)
            case ast.UnaryOp(operand=operand):
                yield span(node)[0], span(operand)[0], ""
            case ast.Constant(value=bool(value)):
                yield *span(node), str(not value)
            case ast.Constant(value=int(value)):
                yield *span(node), str(value + 1)
            case ast.Constant(value=float(value)):
                yield *span(node), repr(value * 2 if value else 1.0)
            case ast.Call(func=func, args=[first, second, *_]):
                starred = isinstance(first, ast.Starred) or isinstance(second, ast.Starred)
                if not starred and ast.unparse(func) not in SYMMETRIC:
                    gap = raw[span(first)[1] : span(second)[0]].decode()
                    begin, end = span(first)[0], span(second)[1]
                    yield begin, end, text(second) + gap + text(first)
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if not isinstance(test, ast.UnaryOp) and not _is_pairwise(test):
                    yield *span(test), f"(not ({text(test)}))"
            case (
                ast.Expr()
                | ast.AugAssign()
                | ast.Assign(targets=[ast.Attribute() | ast.Subscript()])
                | ast.Break()
                | ast.Continue()
                | ast.Raise()
            ):
                yield *span(node), "pass"


def _is_pairwise(test: ast.AST) -> bool:
    """A comparison whose other operator is its negation already."""
    exact = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], exact)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What runs: no annotations, docstrings, messages of errors, f-strings, decorators."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            if not isinstance(child, ast.Raise):
                yield from _code(child)


def outcomes(
    chosen: Sequence[Mutant], recipes: Sequence[str], workers: int, console: Console
) -> dict[Mutant, str]:
    """``named by ...``, ``raised``, ``timed out`` or ``not noticed``, for each.

    Raises:
        SystemExit: a claim is red without a mutant.
    """
    preload()
    ids = dict[str, list[str]]()
    for done in run([healthy(recipe, None, ()) for recipe in recipes], workers):
        if done.answer is None or done.answer["red"]:
            sys.exit(f"{done.job.key} is red as it is: {done.problem or done.answer['red']}")
        ids[done.job.key] = done.answer["ids"]
    near = {m.file: _near(m.file) for m in chosen}
    found = dict.fromkeys(chosen, "not noticed")
    for recipe in recipes:
        left = [m for m in chosen if found[m] in ("not noticed", "timed out")]
        jobs = (
            under(m, {m.file: m.text}, recipe,
                  sorted(ids[recipe], key=lambda name: area(name) not in near[m.file]), True)
            for m in left
        )  # fmt: skip
        for done in run(jobs, workers, PATIENCE):
            red = reds(done)
            named = [name for name, raised, _ in red if not raised]
            if named:
                found[done.job.key] = f"named by {named[0]}"
            elif "not done" in done.problem:
                found[done.job.key] = "timed out"
            elif (red or done.problem) and found[done.job.key] == "not noticed":
                found[done.job.key] = "raised"
            told = f"{found[done.job.key]}, {done.seconds:.1f} s: {done.job.key}"
            console.out(told, highlight=False)
    return found


def _near(file: str) -> set[str]:
    """Areas whose claims are measured first: those that faults in the file redden."""
    return {
        area(name)
        for fault in all_faults()
        if any(edit.file == file for edit in fault.edits)
        for name in fault.reddens
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dev.mutants", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--sample", type=int, help="so many, drawn from all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--list", action="store_true", help="only say what they are")
    given = parser.parse_args(arguments)
    for file in given.files:
        if not (SOURCE / file).is_file():
            parser.error(f"{file}: is no file of {SOURCE}")
    every = [mutant for file in given.files for mutant in mutants(file)]
    chosen = every
    if given.sample is not None and given.sample < len(every):
        kept = random.Random(given.seed).sample(range(len(every)), given.sample)
        chosen = [every[n] for n in sorted(kept)]
    console = Console()
    if given.list:
        for mutant in chosen:
            console.out(str(mutant), highlight=False)
        return 0
    found = outcomes(chosen, given.recipes, given.jobs, console)
    console.print(f"\n{len(chosen)} of {len(every)} mutants:")
    for outcome, count in Counter(told.partition(" by ")[0] for told in found.values()).items():
        console.print(f"{count:5d} {outcome}")
    for mutant, outcome in found.items():
        if outcome in ("not noticed", "timed out"):
            console.out(f"{outcome}: {mutant}", highlight=False)
    if given.json:
        rows = [{"file": m.file, "line": m.line, "before": m.before, "after": m.after, "outcome": o}
                for m, o in found.items()]  # fmt: skip
        given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
