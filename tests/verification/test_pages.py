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
from latentcast.verification.report.lines import Line, Report, Section
from latentcast.verification.report.markdown import markdown
from latentcast.verification.report.page import html, write_report
from latentcast.verification.suite import verify_recipe
from verification import toys

ENVIRONMENT = {"torch": "2.x", "git": "abc-dirty", "device": "<cpu>", "nothing": None}


@pytest.fixture(scope="module")
def good() -> Report:
    return Report((verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS),), ENVIRONMENT)


@pytest.fixture(scope="module")
def bad() -> Report:
    toys.broken.add("toy.wanted")
    try:
        return Report((verify_recipe(recipe("nepa-image-tiny"), toys.CLAIMS),), ENVIRONMENT)
    finally:
        toys.broken.clear()


def test_page_needs_no_network_and_no_second_file(good: Report) -> None:
    page = html(good)
    assert not re.search(r"<script .|<link|<img|@import|url\((?!#)|src=", page)
    linked = set(re.findall(r"https?://[^\"'< ]+", page))
    assert linked <= {"http://www.w3.org/2000/svg"}
    assert page.count("<svg") == 1  # the badge


def test_page_says_all_that_a_reviewer_asks_for(bad: Report) -> None:
    page = html(bad)
    for text in ("loss.formula", "NEPA, eq. 1", "measured", "expected", "abc-dirty",
                 "It holds as long as no test breaks it.", "nothing broke it False"):  # fmt: skip
        assert text in page
    assert "&lt;formula&gt;" in page and "<formula>" not in page
    assert "&lt;cpu&gt;" in page


def test_claims_stand_by_area_with_a_search(bad: Report) -> None:
    page = html(bad)
    areas = dict(re.findall(r"<summary>(\w+) <span class=\"\w+\">([^<]*)</span>", page))
    ids = [line.id for line in bad.sections[0].lines]
    assert list(areas) == list(dict.fromkeys(id.partition(".")[0] for id in ids))
    assert areas["toy"].startswith("1 broken")
    assert page.count("<script>") == 1 and 'type="search"' in page


def test_page_is_well_formed(good: Report, bad: Report) -> None:
    for report in (good, bad):
        body = html(report).split("</head>", 1)[1].removesuffix("</html>\n")
        ET.fromstring(body.replace("&nbsp;", " "))  # every element is closed


def test_markdown_tables_have_as_many_cells_in_every_row(bad: Report) -> None:
    text = markdown(bad)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table
    assert "✗ **broken**" in text and "a \\| pipe" in text


def test_a_red_set_leads_with_the_known_fault_that_makes_it() -> None:
    red = ("ema.after-step", "ema.linear", "ema.once-per-step", "ema.refused", "loop.order")
    lines = tuple(Line(name, "?", "?", "broken", {"a": 1}) for name in red)
    report = Report((Section("nepa", "recipe", lines),), ENVIRONMENT)
    assert report.sections[0].most_like[0].fault == "ema.before-step"
    for text in (markdown(report), html(report)):
        assert "ost like" in text and "ema.before-step" in text
    assert Section("run", "run", lines).most_like == []


def test_badge_is_green_only_when_all_holds(good: Report, bad: Report) -> None:
    assert "#1a7f37" in badge(good) and "3 claims hold" in badge(good)
    assert "#c0152f" in badge(bad) and "2 of 3 hold" in badge(bad)
    for report in (good, bad):
        ET.fromstring(badge(report))


def test_json_has_no_nan(good: Report) -> None:
    written = json.loads(json.dumps(good.as_json(), allow_nan=False))
    assert written["sections"][0]["claims"][2]["numbers"]["a | pipe"] == "nan"


def test_folder_that_cannot_be_written_is_named(good: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LatentcastError, match="choose another --out"):
        write_report(good, tmp_path / "file" / "out")


def test_page_of_many_sections_has_an_overview(good: Report) -> None:
    parts = tuple(Section(f"recipe-{n}", "recipe", good.sections[0].lines) for n in range(5))
    assert "What was verified." in html(Report(parts, {}))


def test_reasons_and_bounds_read_as_sentences() -> None:
    numbers = {"x": 0.5, "x: at most": 1, "y": 2, "y: above": 1, "z": 3, "z: expected": 3,
               "w": 4, "w: expected": 5}  # fmt: skip
    line = Line("a.b", "", "", "holds", numbers)
    assert line.text() == "x 0.5 ≤ 1, y 2 > 1, z 3, w 4 (expected 5)"
    gone = Line("a.b", "", "", "not measured", {"reason": "no store"})
    assert gone.text() == "no store"
    section = Section("x", "run", (line, gone))
    assert Report((section,), {}).verdict == "Every claim holds: 1 measured, 1 not measured"
