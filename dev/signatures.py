"""What each fault turned red, for ``verify`` to compare with: written into the package.

    python -m dev.signatures [MATRIX.json]

MATRIX.json is what ``make faults`` wrote. Without it, or for a fault that it does not have, what
was known of a fault is kept, and one that is new has the claims that it must redden.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dev.catalogue import Fault, all_faults
from dev.overlay import SOURCE

FILE = SOURCE / "verification" / "report" / "signatures.json"
Signatures = dict[str, dict[str, Any]]


def signatures(
    faults: Iterable[Fault], rows: Iterable[Mapping[str, Any]], before: Signatures
) -> Signatures:
    """Of each fault its sentence and the sets of claims that it turned red, a recipe each."""
    red: dict[str, set[tuple[str, ...]]] = {}
    for row in rows:
        if row["caught"]:
            red.setdefault(row["id"], set()).add(tuple(sorted({*row["red"], *row["raised"]})))
    return {
        fault.id: {"sentence": fault.sentence, "red": _sets(fault, red, before)}
        for fault in sorted(faults, key=lambda fault: fault.id)
    }


def _sets(
    fault: Fault, red: Mapping[str, set[tuple[str, ...]]], before: Signatures
) -> list[list[str]]:
    known = before.get(fault.id, {"red": []})["red"]
    measured = [list(one) for one in sorted(red.get(fault.id, ()))] or known
    return [one for one in measured if set(fault.reddens) <= set(one)] or [sorted(fault.reddens)]


def main(arguments: list[str]) -> int:
    rows = json.loads(Path(arguments[0]).read_text())["rows"] if arguments else []
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    found = signatures(all_faults(), rows, before)
    lines = (f"{json.dumps(name)}: {json.dumps(own)}" for name, own in found.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
