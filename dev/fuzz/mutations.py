"""What happens to a file of a sample: one small change, drawn from a generator."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

EXTREMES = (
    "0", "-1", "1e999", "-1e999", "nan", "inf", "-inf", "1e-320", "1_0", "1.9", "٣", "2147483648",
    "-2147483649", "9223372036854775807", "9223372036854775808", "99999999999999999999999",
    "1" * 5000, "0x10", "1e18", "",
)  # fmt: skip
"""Numbers at and beyond the edges of what a field may hold."""
PLACES = (
    "../outside.txt", "../../../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", ".", "..", "", "a\0b", "x" * 5000, "folder/../../outside.txt",
)  # fmt: skip
"""Names that lead out of a folder, or to nothing that is a file."""
TEXTS = (
    "[/x]", "[bold]", "[link=http://example.org]", "\x1b[31m", "\x07", "\0", "<script>", "\ud7ff",
    "\ufeff", "=1+1", '"', "'", "\\", "%s", "{}", "\r", "\u202e", "e\u0301",
)  # fmt: skip
"""What a console, a page or a table could take for more than text."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 1.5, float("nan"), float("inf"), 1e-320, "", "text", [], {},
    [[]], [None], {"": None}, *PLACES[:4],
)  # fmt: skip
DEPTH = 50_000
"""Brackets in brackets: deeper than any recursion goes."""
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_FILE_NAME = re.compile(rb"[\w.-]*[\w-](?:/[\w.-]+)*\.[A-Za-z]\w{1,10}")

Change = Callable[[Random, bytes], bytes]


def flip_bits(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 3, 30))):
        changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(random: Random, data: bytes) -> bytes:
    begin, end = _span(random, data)
    return data[:begin] + random.randbytes(end - begin) + data[end:]


def fill(random: Random, data: bytes) -> bytes:
    begin, end = _span(random, data)
    return data[:begin] + random.choice((b"\0", b"\xff")) * (end - begin) + data[end:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.choice((0, random.randrange(len(data)), len(data) - 1))]


def insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.randbytes(random.choice((1, 2, 8, 300))) + data[at:]


def remove(random: Random, data: bytes) -> bytes:
    begin, end = _span(random, data)
    return data[:begin] + data[end:]


def duplicate(random: Random, data: bytes) -> bytes:
    begin, end = _span(random, data)
    return data[:end] + data[begin:end] * random.choice((1, 1, 50)) + data[end:]


def exchange(random: Random, data: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(random, data), _span(random, data)))
    return data if c < b else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def extreme_number(random: Random, data: bytes) -> bytes:
    return _replace(random, data, _NUMBER, random.choice(EXTREMES))


def another_place(random: Random, data: bytes) -> bytes:
    return _replace(random, data, _FILE_NAME, random.choice(PLACES))


def exchange_lines(random: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def drop_or_repeat_line(random: Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    at = random.randrange(len(lines))
    return b"".join(lines[:at] + lines[at : at + 1] * random.choice((0, 2)) + lines[at + 1 :])


def strange_text(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(TEXTS).encode() + data[at:]


def change_key(random: Random, data: bytes) -> bytes:
    """In a file of JSON, JSON lines or YAML: a value dropped, replaced, renamed or nested."""
    text = data.decode()
    lines = text.splitlines()
    for at in [random.randrange(len(lines))] if lines else []:
        try:
            line = json.loads(lines[at])
        except ValueError:
            break
        if isinstance(line, dict):
            lines[at] = _changed_tree(random, line, json.dumps)
            return ("\n".join(lines) + "\n").encode()
    try:
        return _changed_tree(
            random, json.loads(text), lambda tree: json.dumps(tree, indent=1)
        ).encode()
    except ValueError:
        return _changed_tree(random, yaml.safe_load(text), yaml.safe_dump).encode()


def _changed_tree(random: Random, tree: Any, dump: Callable[[Any], str]) -> str:
    inner = list(_containers(tree))
    if not inner:
        return dump(random.choice(VALUES))
    node = random.choice(inner)
    key = random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))
    kind = random.randrange(5)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[random.choice(TEXTS) + str(key)] = node.pop(key)
    elif kind == 2:
        node[key] = "deep-nesting"
        opened, closed = random.choice((("[", "]"), ('{"a":', "}")))
        deep = opened * DEPTH + "1" + closed * DEPTH
        text = dump(tree)
        return text.replace('"deep-nesting"', deep).replace("deep-nesting", deep)
    elif kind == 3 and isinstance(node[key], list) and node[key]:
        node[key] = node[key] * random.choice((0, 2, 300))
    else:
        node[key] = random.choice(VALUES)
    return dump(tree)


def _containers(tree: Any) -> list[Any]:
    """All dictionaries and lists that are not empty, outermost first."""
    found, pending = [], [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict | list) and node:
            found.append(node)
            pending += node.values() if isinstance(node, dict) else node
    return found


BYTES: tuple[Change, ...] = (
    flip_bits, overwrite, fill, truncate, insert, remove, duplicate, exchange, extreme_number,
    another_place,
)  # fmt: skip
TEXT: tuple[Change, ...] = (
    exchange_lines, drop_or_repeat_line, strange_text, extreme_number, another_place,
)  # fmt: skip
TREES = (".json", ".jsonl", ".yaml")


def change(random: Random, file: Path) -> str:
    """Change a file, or what lies in its place; the name of the change."""
    if random.random() < 0.03:
        return replace_file(random, file)
    data = file.read_bytes()
    changes = BYTES
    try:
        data.decode()
        changes += TEXT * 2 + (change_key,) * 10 * (file.suffix in TREES)
    except UnicodeDecodeError:
        pass
    for _ in range(100):
        operator = random.choice(changes)
        changed = operator(random, data) if data else random.randbytes(8)
        if changed != data:
            # A new file: the sample may share this one with its neighbours.
            file.unlink()
            file.write_bytes(changed)
            return operator.__name__
    raise ValueError(f"{file}: no change was found")


def replace_file(random: Random, file: Path) -> str:
    """Something that is no file of this folder, under the name of one."""
    kind = random.choice(("missing", "folder", "pipe", "device", "outside", "itself", "empty"))
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind in ("device", "outside", "itself"):
        targets = {"device": "/dev/zero", "outside": "/etc/passwd", "itself": file.name}
        file.symlink_to(targets[kind])
    elif kind == "empty":
        file.write_bytes(b"")
    return f"replaced by {kind}"


def _span(random: Random, data: bytes) -> tuple[int, int]:
    length = min(len(data), random.choice((1, 4, 16, 100, max(1, len(data) // 3))))
    begin = random.randrange(len(data) - length + 1)
    return begin, begin + length


def _replace(random: Random, data: bytes, pattern: re.Pattern[bytes], text: str) -> bytes:
    found = list(pattern.finditer(data[:100_000]))
    if not found:
        return data
    match = random.choice(found)
    return data[: match.start()] + text.encode() + data[match.end() :]
