"""Ranks of one machine under torchrun: does each get data and random numbers of its own?

Each rank writes down digests of what its loaders gave; rank 0 reads them. The training takes no
part in it, so nothing waits in a collective that the script does not know of.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentcast.verification.evidence import equal
from latentcast.verification.foreign.verified import Lines

WAIT = 20.0
"""Seconds that rank 0 waits for the others, which end their steps with it."""
FEWEST = 3
"""Batches of a rank that a comparison takes."""
SENTENCE = "No two ranks get the same batches, nor the same masks beside batches of their own."


class Ranks:
    """What this rank got; without torchrun there is nothing to compare."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        env = os.environ if environment is None else environment
        self.rank, self.world = int(env.get("RANK", 0)), int(env.get("WORLD_SIZE", 1))
        self.local = int(env.get("LOCAL_WORLD_SIZE", self.world))
        run = f"{os.getppid()}-{env.get('MASTER_PORT', '')}"
        self.folder = Path(tempfile.gettempdir()) / f"latentcast-ranks-{run}"
        self.batches = list[list[str]]()
        """Of each batch a digest of each of its tensors."""
        self.state = ""

    def open(self) -> None:
        """What an earlier run of this process left is no one's."""
        self._file(self.rank).unlink(missing_ok=True)

    def note(self, parts: Sequence[str]) -> None:
        """A batch, by the digests of its tensors."""
        self.batches.append(list(parts))

    def write(self) -> None:
        """For rank 0."""
        if self.world == 1:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        file = self._file(self.rank)
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps({"batches": self.batches, "state": self.state}))
        draft.replace(file)

    def add(self, lines: Lines) -> None:
        """The lines, on rank 0."""
        if self.world == 1 or self.rank or not self.batches:
            return
        others = self._read()
        if others is None:
            reason = f"not all of {self.local} ranks of this machine ended in {WAIT:g} s"
            lines.unmeasured("ranks.batches", SENTENCE, reason)
            return
        count = min(len(one["batches"]) for one in others)
        if count < FEWEST:
            lines.unmeasured("ranks.batches", SENTENCE, f"{count} batches of a loader")
            return
        alike = dict[int, int]()
        for one in others[1:]:
            for part in range(min(len(b) for o in (others[0], one) for b in o["batches"])):
                a, b = ([batch[part] for batch in o["batches"][:count]] for o in (others[0], one))
                if a == b and len(set(a)) > 1:  # what is always the same is no draw
                    alike[part] = alike.get(part, 0) + 1
        lines.add("ranks.batches", SENTENCE, equal("tensors alike on ranks", len(alike), 0),
                  ranks=len(others), batches=count,
                  **({"first": f"tensor {min(alike)} of a batch"} if alike else {}))  # fmt: skip
        same = sum(one["state"] == others[0]["state"] for one in others[1:])
        if same:
            sentence = "Ranks draw the same random numbers outside of loaders, as of dropout."
            lines.note("ranks.random", sentence, ranks=same + 1)

    def _file(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"

    def _read(self) -> list[dict[str, Any]] | None:
        """Of the ranks of this machine, which are the first ones of the world where this is 0."""
        until = time.monotonic() + WAIT
        files = [self._file(rank) for rank in range(self.local)]
        while not all(file.is_file() for file in files):
            if time.monotonic() > until:
                return None
            time.sleep(0.05)
        found = [json.loads(file.read_text()) for file in files]
        shutil.rmtree(self.folder, ignore_errors=True)
        return found
