"""Write docs/verification: the report of every shipped recipe, and what the parity files say.

    python scripts/build_verification.py [RECIPE ...]

Every recipe has ``report.md``, ``report.json`` and ``badge.svg``; those of :data:`PAGES` also have
the page, ``report.html``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console

from latentcast.recipes import RECIPES, recipe
from latentcast.runs.new import surroundings
from latentcast.verification.claims import all_claims
from latentcast.verification.parity.compare import compare
from latentcast.verification.report.console import print_section
from latentcast.verification.report.lines import Report, Section
from latentcast.verification.report.page import write_report
from latentcast.verification.suite import parity_section, verify_recipe

REPOSITORY = Path(__file__).parents[1]
OUT = REPOSITORY / "docs" / "verification"
PAGES = ("nepa-ecg-small", "nepa-image-large", "ijepa-image-huge", "hjepa-ecg-tiny",
         "hjepa-image-tiny")  # fmt: skip
PARITY = "parity"


def main(names: list[str]) -> int:
    console, held = Console(), True
    for name in names or RECIPES:
        section = verify_recipe(recipe(name), all_claims())
        print_section(section, console)
        held &= section.holds
        _write(OUT / name, (section,), page=name in PAGES)
    if not names:
        files = sorted((REPOSITORY / "tests" / "parity").glob("*.safetensors"))
        sections = tuple(parity_section(file, compare(file)) for file in files)
        held &= all(section.holds for section in sections)
        _write(OUT / PARITY, sections, page=False)
    (OUT / "README.md").write_text(index(), encoding="utf-8")
    return 0 if held else 1


def _write(folder: Path, sections: tuple[Section, ...], page: bool) -> None:
    environment = {**surroundings(), "command": "make verification"}
    written = write_report(Report(sections, environment), folder)
    if not page:
        written.unlink()


def index() -> str:
    """A table of what lies beside it."""
    lines = [
        "# What `latentcast verify` found\n",
        "Written by `make verification`; a test compares promises and verdicts with the library",
        "as it is. [What is measured, and how](../verify.md).\n",
        "| recipe | found | parameters | time | report |",
        "|---|---|---|---|---|",
    ]
    for name in (*RECIPES, PARITY):
        file = OUT / name / "report.json"
        if not file.exists():
            continue
        sections = json.loads(file.read_text(encoding="utf-8"))["sections"]
        parameters = sections[0]["facts"].get("parameters")
        links = f"[report]({name}/report.md)"
        if (OUT / name / "report.html").exists():
            links += f", [page]({name}/report.html)"
        lines.append(
            f"| `{name}` | ![]({name}/badge.svg) | {f'{parameters:,}' if parameters else ''} "
            f"| {sum(section['seconds'] for section in sections):.0f} s | {links} |"
        )
    lines += ["", "Parameters include the teacher."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
