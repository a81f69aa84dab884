"""Blocks of code in a document, and how a reader's hands run them: in order, in one folder."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY, Command

PROGRAMS = ("latentcast", "torchrun", "python", "make", "sbatch", "curl")
MARKER = re.compile(r"<!-- not run: (.+) -->")
STOPPED_BY_HAND = "Ctrl-C"
"""In the comment of a command: it is stopped when it has saved, and need not end well."""


@dataclass(frozen=True)
class Block:
    """A fenced or indented block.

    Attributes:
        document: path in the repository.
        line: of its first line of code, counted from 1.
        language: as the fence says; empty without one.
        text: the code.
        reason: why it is not run, as the marker before it says; None when it is.
    """

    document: str
    line: int
    language: str
    text: str
    reason: str | None = None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Lines of a shell, with those that a backslash continues joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def blocks(document: str, text: str) -> list[Block]:
    """All blocks of a document in their order."""
    found, lines, number, reason = [], text.splitlines(), 0, None
    while number < len(lines):
        line = lines[number]
        indented = line.startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if line.startswith("```") or indented:
            first = number if indented else number + 1
            end = first
            while end < len(lines) and (
                lines[end].startswith("    ") if indented else not lines[end].startswith("```")
            ):
                end += 1
            code = [text[4:] if indented else text for text in lines[first:end]]
            language = "" if indented else line[3:].strip()
            found.append(Block(document, first + 1, language, "\n".join(code), reason))
            number, reason = end, None
        elif marker := MARKER.fullmatch(line.strip()):
            reason = marker[1]
        elif line.strip():
            reason = None
        number += 1
    return found


class Reader:
    """Runs commands and snippets in a folder, all in this process but for what needs several.

    Args:
        folder: where they run.
        command: of the fixtures; runs ``latentcast``.
        names: what Python snippets find defined; those of a document share their names.

    Attributes:
        printed: by each ``latentcast`` command so far.
    """

    def __init__(self, folder: Path, command: Command, names: dict[str, Any]) -> None:
        self.folder, self.command, self.names = folder, command, names
        self.printed: list[str] = []
        self.programs: dict[str, Callable[[list[str]], None]] = {
            "latentcast": self._latentcast,
            "python": self._script,
            "torchrun": self._torchrun,
            "make": self._make,
            "curl": self._curl,
        }
        self._server: subprocess.Popen[str] | None = None
        self._address = ""

    def run(self, block: Block) -> None:
        """Fails with the command and what it printed when it does not exit with 0."""
        if block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, block.document, "exec")
            exec(code, self.names)
            return
        for line in block.commands:
            words = shlex.split(line, comments=True)
            spread = [found for word in words[1:] for found in self._globbed(word)]
            if STOPPED_BY_HAND in line:
                self._stopped(words[0], spread)
            else:
                self.programs[words[0]](spread)

    def _globbed(self, word: str) -> list[str]:
        if "*" not in word:
            return [word]
        return sorted(str(file.relative_to(self.folder)) for file in self.folder.glob(word))

    def close(self) -> None:
        """Stop the server that a document has started."""
        if self._server is not None:
            self._server.terminate()
            self._server.communicate(timeout=60)

    def _serve(self, words: list[str]) -> None:
        """In the background, at a free port; the first line that it prints is its address."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "latentcast", *words, "--port", "0"], cwd=self.folder,
            text=True, stdout=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self._server.stdout is not None
        self._address = self._server.stdout.readline().split("/ ")[0]
        assert self._address.startswith("http://127.0.0.1:"), self._address

    def _curl(self, words: list[str]) -> None:
        words = [word.replace("http://127.0.0.1:8000", self._address) for word in words]
        words = ["curl", "--fail-with-body", "--retry", "30", "--retry-connrefused", *words]
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"

    def _latentcast(self, words: list[str]) -> None:
        if words[-1] == "&":
            return self._serve(words[:-1])
        answer = self.command(*words)
        assert answer.status == 0, f"latentcast {shlex.join(words)}\n{answer.out}{answer.err}"
        self.printed.append(answer.out)

    def _script(self, words: list[str]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            try:
                runpy.run_path(words[0], run_name="__main__")
            except SystemExit as end:
                assert not end.code, f"python {shlex.join(words)}: exit status {end.code}"

    def _torchrun(self, words: list[str]) -> None:
        done = subprocess.run(_torchrun(words), cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, f"torchrun {shlex.join(words)}\n{done.stdout}{done.stderr}"

    def _make(self, words: list[str]) -> None:
        """That there is such a target, and what it would do; the demos take minutes."""
        dry = ["make", "--dry-run", *words]
        done = subprocess.run(dry, cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _stopped(self, program: str, words: list[str]) -> None:
        """A training of several ranks, stopped as by a hand once it has a checkpoint."""
        assert program == "torchrun"
        saved = self.folder / words[words.index("--out") + 1] / "checkpoints"
        process = subprocess.Popen(
            _torchrun(words), cwd=self.folder, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        while not list(saved.glob("step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode != 0, f"it ended before it was stopped\n{printed}"


def _torchrun(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *words]


def inline(text: str) -> Iterator[list[str]]:
    """What stands between single backticks, as words."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        yield span.split()
