"""docs/verification says what the library does: which recipes hold, and by how many claims."""

from __future__ import annotations

import re

import pytest

from conftest import REPOSITORY
from latentcast.recipes import RECIPES, recipe
from latentcast.verification.audit.audit import all_checks
from latentcast.verification.claims import all_claims
from latentcast.verification.observe.twin import Twin

DOCS = REPOSITORY / "docs" / "verification"
AGAIN = "run make verification"


def rows() -> dict[str, tuple[int, int]]:
    """Claims that hold and claims, by what was verified."""
    text = (DOCS / "README.md").read_text()
    found = re.findall(r"^\| `([\w.-]+)` \| (\d+) of (\d+) \w+ \w+ \|", text, re.MULTILINE)
    return {name: (int(holding), int(measured)) for name, holding, measured in found}


def test_every_recipe_and_parity_file_is_in_the_table_and_holds() -> None:
    files = {file.name for file in (REPOSITORY / "tests" / "parity").glob("*.safetensors")}
    assert set(rows()) == {*RECIPES, *files}, AGAIN
    assert all(holding == measured > 0 for holding, measured in rows().values())


@pytest.mark.parametrize("name", ["nepa-ecg-small", "ijepa-image-digits", "hjepa-image-tiny"])
def test_the_table_counts_the_claims_that_concern_a_recipe(name: str) -> None:
    twin = Twin(recipe(name))
    concerned = sum(claim.concerns(twin) for claim in all_claims())
    twin.close()
    assert rows()[name] == (concerned, concerned), AGAIN


def test_reports_stay_out_of_the_repository() -> None:
    """One table, one page: a report is written by whoever wants to read it."""
    assert {file.name for file in DOCS.iterdir()} == {"README.md", "nepa-ecg-small.html"}
    page = (DOCS / "nepa-ecg-small.html").read_text()
    assert "claims hold" in page and not re.search(
        r"/tmp/|/home/|/work/|/root/|-verify-\w{8}/", page
    )
    assert "/build/" in (REPOSITORY / ".gitignore").read_text().split()


def test_docs_name_lines_and_files_that_exist() -> None:
    text = (REPOSITORY / "docs" / "verify.md").read_text()
    assert set(re.findall(r"`(run\.[\w-]+)`", text)) == {check.id for check in all_checks()}
    for file in (REPOSITORY / "docs" / "verify.md", DOCS / "README.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", file.read_text()):
            assert (file.parent / link).exists(), link
