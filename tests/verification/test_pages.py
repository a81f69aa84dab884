"""The report's files: whole in themselves, escaped, and the same on every machine where told so."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.verification.report.badge import badge
from latentcast.verification.report.lines import Line, Report, Section, stable
from latentcast.verification.report.markdown import markdown
from latentcast.verification.report.page import html, write_report
from latentcast.verification.suite import verify_recipe
from verification import toys

ENVIRONMENT = {"torch": "2.x", "git": "abc-dirty", "device": "<cpu>", "nothing": None}


@pytest.fixture(scope="module")
def report() -> Report:
    section = verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS, (toys.SIGN, toys.SILENT))
    return Report((section,), ENVIRONMENT)


@pytest.fixture(scope="module")
def good() -> Report:
    section = verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS, (toys.SIGN,), full=True)
    return Report((section,), ENVIRONMENT)


def test_page_needs_no_network_no_script_and_no_second_file(report: Report) -> None:
    page = html(report)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)|src=", page)
    linked = set(re.findall(r"https?://[^\"'< ]+", page))
    assert linked <= {"http://www.w3.org/2000/svg"}
    assert page.count("<svg") == 1  # the badge


def test_page_says_all_that_a_reviewer_asks_for(report: Report) -> None:
    page = html(report)
    for told in ("loss.formula", "NEPA, eq. 1", "measured", "expected", "abc-dirty",
                 "loss.silent", "overlooked by loss.formula", "data.batch"):  # fmt: skip
        assert told in page
    assert "<td><b>loss.formula</b></td>" in page  # who caught the sign
    assert "&lt;formula&gt;" in page and "<formula>" not in page
    assert "&lt;cpu&gt;" in page


def test_page_is_well_formed(good: Report, report: Report) -> None:
    for made in (good, report):
        body = html(made).split("</head>", 1)[1].removesuffix("</html>\n")
        ET.fromstring(body.replace("&nbsp;", " "))  # every element is closed


def test_markdown_tables_have_as_many_cells_in_every_row(report: Report) -> None:
    text = markdown(report)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table
    assert "✗ **overlooked by loss.formula**" in text and "Unproven" in text


def test_badge_is_green_only_when_all_holds(good: Report, report: Report) -> None:
    assert "#1a7f37" in badge(good) and "3 claims hold · 1/1 faults caught" in badge(good)
    assert "#c0152f" in badge(report) and "1/2 faults caught" in badge(report)
    for made in (good, report):
        ET.fromstring(badge(made))


def test_json_has_no_nan_and_is_stable_over_machines(good: Report) -> None:
    told = json.loads(json.dumps(good.as_json(), allow_nan=False))
    again = verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS, (toys.SIGN,), full=True)
    other = Report((again,), {"device": "elsewhere"})
    assert stable(told) == stable(json.loads(json.dumps(other.as_json())))
    assert "seconds" not in json.dumps(stable(told)) and "numbers" not in json.dumps(stable(told))


def test_stable_part_differs_when_a_verdict_or_a_catch_does(good: Report, report: Report) -> None:
    assert stable(good.as_json()) != stable(report.as_json())
    toys.broken.add("toy.wanted")
    try:
        broken = verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS)
    finally:
        toys.broken.clear()
    healthy = verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS)
    parts = [stable(Report((part,), {}).as_json()) for part in (broken, healthy)]
    assert parts[0][0]["claims"] != parts[1][0]["claims"]


def test_folder_that_cannot_be_written_is_named(good: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LatentcastError, match="choose another --out"):
        write_report(good, tmp_path / "file" / "out")


def test_page_of_many_sections_has_an_overview(good: Report) -> None:
    parts = tuple(Section(f"recipe-{n}", "recipe", good.sections[0].lines) for n in range(5))
    assert "What was verified." in html(Report(parts, {}))


def test_reasons_and_bounds_read_as_sentences() -> None:
    line = Line("a.b", "", "", "holds", {"x": 0.5, "x: at most": 1, "y": 2, "y: at least": 1})
    assert line.told() == "x 0.5 ≤ 1, y 2 ≥ 1"
    gone = Line("a.b", "", "", "not measured", {"reason": "no store"})
    assert gone.told() == "no store"
    held = Section("x", "run", (line, gone))
    assert Report((held,), {}).verdict == "Every claim holds: 1 measured, 1 not measured"
