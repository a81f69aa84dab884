"""Verify every shipped recipe and the parity files: reports, and the table of docs/verification.

    python scripts/build_verification.py [RECIPE ...]

Full reports (page, Markdown, JSON, badge) go to ``build/verification``, which git ignores. Measured
without names, all of them, the table and the one example page of ``docs/verification`` are written
anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from latentcast.recipes import RECIPES
from latentcast.verification.report.lines import Section
from latentcast.verification.verify import verify

REPOSITORY = Path(__file__).parents[1]
BUILD = REPOSITORY / "build" / "verification"
DOCS = REPOSITORY / "docs" / "verification"
EXAMPLE = "nepa-ecg-small"
HEAD = """\
# What `latentcast verify` found

Written by `make verification`, which leaves the full reports in `build/verification/`; a test
compares the verdicts with the library as it is. [What is measured, and how](../verify.md);
[the report of one recipe](nepa-ecg-small.html).

| verified | found | parameters |
|---|---|---:|
"""


def main(names: Sequence[str]) -> int:
    sections: list[Section] = []
    for name in names or RECIPES:
        sections += verify(name, out=BUILD / name).sections
    if not names:
        files = sorted((REPOSITORY / "tests" / "parity").glob("*.safetensors"))
        sections += verify(parity=files, out=BUILD / "parity").sections
        DOCS.mkdir(exist_ok=True)
        (DOCS / "README.md").write_text(HEAD + "".join(map(row, sections)), encoding="utf-8")
        shutil.copy(BUILD / EXAMPLE / "report.html", DOCS / f"{EXAMPLE}.html")
    return 0 if all(section.holds for section in sections) else 1


def row(section: Section) -> str:
    parameters = section.facts.get("parameters", "")
    shown = f"{parameters:,}" if isinstance(parameters, int) else ""
    return f"| `{section.name}` | {section.summary} | {shown} |\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
