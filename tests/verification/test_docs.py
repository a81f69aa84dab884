"""docs/verification says what the library does: promises, verdicts, and who caught what."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from latentcast.verification.faults import all_faults

from conftest import REPOSITORY
from latentcast.recipes import RECIPES, recipe
from latentcast.verification.claims import all_claims
from latentcast.verification.report.lines import Report, stable
from latentcast.verification.suite import verify_recipe

DOCS = REPOSITORY / "docs" / "verification"
MATRIX = re.findall(
    r'"([\w-]+)"',
    re.search(  # type: ignore[union-attr]
        r"^MATRIX = \((.*?)\)",
        (REPOSITORY / "scripts" / "build_verification.py").read_text(),
        re.MULTILINE | re.DOTALL,
    )[1],
)
AGAIN = "run make verification"
REPORTED = [name for name in RECIPES if (DOCS / name / "report.json").exists()]
MATRICES = [name for name in MATRIX if (DOCS / name / "report.html").exists()]


def told(name: str) -> dict[str, Any]:
    (section,) = json.loads((DOCS / name / "report.json").read_text())["sections"]
    return dict(section)


def test_every_recipe_has_its_report_and_every_fault_its_matrix() -> None:
    assert set(REPORTED) == set(RECIPES) and set(MATRICES) == set(MATRIX)
    assert {c["id"] for name in REPORTED for c in told(name)["claims"]} == {
        claim.id for claim in all_claims()
    }
    assert {row["id"] for name in MATRICES for row in told(name)["faults"]["rows"]} == {
        fault.id for fault in all_faults()
    }


def test_every_report_is_whole_and_green() -> None:
    assert REPORTED and MATRICES
    for name in REPORTED:
        for file in ("report.md", "report.json", "badge.svg"):
            assert (DOCS / name / file).exists(), f"{name}/{file}: {AGAIN}"
        assert told(name)["holds"], name
    for name in MATRICES:
        assert told(name)["faults"], name
    parity = json.loads((DOCS / "parity" / "report.json").read_text())
    assert parity["holds"] and len(parity["sections"]) == 6


def test_promises_and_sources_are_those_of_the_catalogue() -> None:
    known = {claim.id: (claim.sentence, claim.source) for claim in all_claims()}
    for name in REPORTED:
        for claim in told(name)["claims"]:
            assert known.get(claim["id"]) == (claim["sentence"], claim["source"]), AGAIN


def test_every_fault_is_in_a_matrix_and_caught_by_its_claims() -> None:
    known = {fault.id: fault for fault in all_faults()}
    for name in MATRICES:
        for row in told(name)["faults"]["rows"]:
            fault = known.get(row["id"])
            assert fault is not None, f"{row['id']}: {AGAIN}"
            assert (fault.sentence, fault.source) == (row["sentence"], row["source"]), AGAIN
            assert row["caught"] and set(row["reddens"]) <= set(row["caught_by"]), row["id"]
            assert set(row["reddens"]) <= set(fault.reddens), f"{row['id']}: {AGAIN}"


def test_nothing_of_the_machine_that_wrote_them_is_in_the_reports() -> None:
    for file in DOCS.rglob("*.*"):
        text = file.read_text()
        assert not re.search(r"/tmp/|/home/|/work/|/root/", text), file


def test_the_index_links_to_what_is_there() -> None:
    text = (DOCS / "README.md").read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert len(links) >= 2 * len(REPORTED)
    for link in links:
        assert (DOCS / link).exists(), link


@pytest.mark.parametrize("name", ["nepa-image-tiny", "ijepa-image-digits"])
def test_claims_measured_again_are_those_of_the_report(name: str) -> None:
    assert _again(name) == stable({"sections": [told(name)]}), AGAIN


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTED)
def test_measured_again_the_report_is_the_same(name: str) -> None:
    assert _again(name) == stable({"sections": [told(name)]}), AGAIN


def _again(name: str) -> list[dict[str, Any]]:
    """What the report of a recipe would say now, with faults if it has any."""
    faults = all_faults() if told(name)["faults"] else None
    section = verify_recipe(recipe(name), all_claims(), faults)
    return stable(json.loads(json.dumps(Report((section,), {}).as_json())))


def test_docs_name_lines_and_files_that_exist() -> None:
    from latentcast.verification.audit import checks as audit
    from latentcast.verification.audit import replay

    text = (REPOSITORY / "docs" / "verify.md").read_text()
    known = {check.id for check in (*audit.CHECKS, *replay.CHECKS)}
    assert set(re.findall(r"`(run\.[\w-]+)`", text)) == known
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (REPOSITORY / "docs" / link).exists(), link
