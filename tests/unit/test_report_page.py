"""The report: one file that needs nothing else, says what the intervals allow, escapes the rest."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.evaluation.tasks import TASKS, task
from latentcast.report import embedding
from latentcast.report.page import write_report
from latentcast.report.style import PALETTE, stylesheet
from latentcast.report.verdict import verdict
from latentcast.signals.synthetic import synthetic_recording

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

EVIL = """</title></style></svg></pre><script>alert("1")</script><b onclick='x'>&amp;"""
VOID = {"meta", "br", "link", "img", "input", "hr"}


def estimate(value: float, half: float = 0.02) -> dict[str, float | None]:
    return {"value": value, "low": value - half, "high": value + half}


def row(name: str, value: float, choice: str = "chosen on validation") -> dict[str, Any]:
    aurocs = [
        {"name": "MI", "positives": 40, "records": 300, "auroc": estimate(value)},
        {"name": "HYP", "positives": 8, "records": 300, "auroc": estimate(value)},
    ]
    score = {"macro": estimate(value), "supported": estimate(value), "labels": aurocs}
    return {
        "name": name, "choice": choice, "layer": "block 2", "pooling": "mean+std",
        "penalty": 0.01, "validation": value, "score": score,
    }  # fmt: skip


def difference(reference: str, value: float, half: float = 0.02, choice: str = "") -> Any:
    return {
        "name": "pretrained", "reference": reference, "choice": choice or "chosen on validation",
        "estimate": estimate(value, half),
    }  # fmt: skip


def probe(to_random: float = 0.03, to_convolutions: float = 0.04) -> dict[str, Any]:
    """What ProbeReport.as_json() gives: three sources, one label of few positives, one without."""
    return {
        "protocol": "PTB-XL superdiagnostic, folds 1–8/9/10, linear probe",
        "task": "superdiagnostic",
        "records": {"train": 2000, "validation": 310, "test": 300},
        "records_left_out": {"train": 0, "validation": 0, "test": 0},
        "labels": [
            {"name": "MI", "positives": {"train": 200, "validation": 41, "test": 40},
             "left_out": None},
            {"name": "HYP", "positives": {"train": 60, "validation": 9, "test": 8},
             "left_out": None},
            {"name": "RARE", "positives": {"train": 3, "validation": 0, "test": 0},
             "left_out": "no positive in test"},
        ],
        "rows": [
            row("pretrained", 0.83),
            row("random-initialised", 0.80),
            row("random-initialised", 0.79, "layer of pretrained"),
            row("random convolutions", 0.79),
        ],
        "differences": [
            difference("random-initialised", to_random),
            difference("random-initialised", to_random, choice="layer of pretrained"),
            difference("random convolutions", to_convolutions),
        ],
        "leaks": [],
        "data": {},
        "bootstrap": {
            "resamples": 1000, "level": 0.95, "seed": 0, "unit": "patient", "units": 280,
        },
        "windows": "strided",
        "provenance": {},
    }  # fmt: skip


def arguments() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = [
        {"step": s, "loss": -0.01 * s, "copy_last_loss": -0.2, "lr": 1e-3, "alarms": []}
        for s in range(1, 60)
    ]
    errors = rng.uniform(0, 1, 50)
    errors[7] = np.nan
    return {
        "title": "tiny", "metrics": rows, "probe": probe(),
        "recording": synthetic_recording(record_id="00017", patient_id="4711"),
        "patch_errors": errors, "patch_seconds": 0.2, "predicted_from": "what came before",
        "features": rng.normal(size=(30, 8)), "labels": rng.random((30, 2)) < 0.4,
        "classes": ("MI", "HYP"), "features_from": "layer block 2",
        "what_was_run": {"command": "latentcast pretrain", "seed": 0},
        "environment": {"python": "3.11", "packages": {"torch": "2.9"}},
        "config_yaml": "recipe: tiny\n",
    }  # fmt: skip


class Page(HTMLParser):
    """Elements, attributes and text of a page; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def attributes(self, *names: str) -> list[str]:
        return [v for _, held in self.elements for n, v in held.items() if n in names and v]

    def count(self, tag: str) -> int:
        return sum(tag == name for name, _ in self.elements)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(tmp_path_factory.mktemp("run"), **arguments()).read_text("utf-8")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No t-SNE: these tests are about the page."""
    monkeypatch.setattr(embedding, "project", lambda x, seed: (x[:, :2], 0.5, x[:, :2]))


def test_the_page_needs_no_other_file_no_network_and_no_script(written: str) -> None:
    page = Page(written)
    identifiers = page.attributes("id")
    assert len(identifiers) == len(set(identifiers)) > 10
    links = page.attributes("src", "href", "xlink:href", "data", "action", "srcset", "poster")
    assert links and all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(identifiers)
    inside = re.findall(r"url\(\s*['\"]?([^)'\"]*)", written)
    assert {target.removeprefix("#") for target in inside} <= set(identifiers)
    assert page.count("script") == page.count("link") == page.count("iframe") == 0
    assert "@import" not in written
    assert not [name for _, held in page.elements for name in held if name.startswith("on")]


def test_whatever_comes_from_outside_is_escaped(tmp_path: Path, quick: None) -> None:
    given = arguments()
    outside = probe()
    outside["protocol"] = outside["task"] = outside["labels"][0]["name"] = EVIL
    outside["rows"][0] |= {"name": EVIL, "layer": EVIL, "choice": EVIL, "pooling": EVIL}
    outside["rows"][3]["name"] = outside["differences"][2]["reference"] = "floor" + EVIL
    for given_by_encoder in outside["differences"]:
        given_by_encoder["name"] = EVIL
    outside["leaks"] = [
        {"kind": EVIL, "severity": EVIL, "count": 3, "examples": [EVIL], "message": EVIL}
    ]
    given |= {
        "title": EVIL, "probe": outside, "config_yaml": EVIL, "features_from": EVIL,
        "recording": synthetic_recording(record_id=EVIL, patient_id=EVIL),
        "classes": (EVIL, "HYP"), "what_was_run": {EVIL: EVIL},
        "environment": {EVIL: {EVIL: [EVIL]}},
        "metrics": [{"step": 1, "loss": -0.1, "alarms": ["rank" + EVIL]}],
    }  # fmt: skip
    page = Page(write_report(tmp_path, **given).read_text("utf-8"))
    assert page.count("script") == 0
    assert page.count("b") == 3  # the three cards, none of them the intruder's
    assert not [name for _, held in page.elements for name in held if name.startswith("on")]
    assert page.count("style") == 1
    assert page.text.count(EVIL) > 20


def test_pictures_have_descriptions_and_tables_captions(written: str) -> None:
    page = Page(written)
    for tag, held in page.elements:
        if tag == "svg":
            assert held.get("aria-hidden") == "true" or len(held.get("aria-label") or "") > 40
    assert page.count("figure") == page.count("figcaption") == 3
    assert page.count("table") == page.count("caption") == 2
    assert page.count("h1") == page.count("main") == page.count("title") == 1
    assert page.elements[0] == ("html", {"lang": "en"})


@pytest.mark.parametrize(
    ("value", "half", "outcome", "words"),
    [
        (0.03, 0.02, "better", "Pretrained beats random-initialised"),
        (0.03, 0.04, "undecided", "No difference shown between pretrained and random-initialised"),
        (0.02, 0.02, "undecided", "No difference shown"),
        (-0.03, 0.02, "worse", "Pretrained is worse than random-initialised"),
    ],
)
def test_the_headline_follows_the_interval(
    value: float, half: float, outcome: str, words: str
) -> None:
    given = probe()
    given["differences"][0] = difference("random-initialised", value, half)
    found = verdict(given)
    assert found.outcome == outcome and found.headline.startswith(words)
    includes = "includes zero" if outcome == "undecided" else "excludes zero"
    assert includes in found.sentences[1]


def test_an_undefined_difference_claims_nothing() -> None:
    given = probe()
    given["differences"][0]["estimate"] = {"value": None, "low": None, "high": None}
    found = verdict(given)
    assert found.outcome == "undefined" and "undefined" in found.headline
    assert "nothing is claimed" in found.sentences[1] and "None" not in "".join(found.sentences)


@pytest.mark.parametrize(
    ("to_convolutions", "words"), [(-0.05, "but is worse than"), (0.0, "but not")]
)
def test_a_win_over_one_floor_does_not_hide_that_another_was_missed(
    to_convolutions: float, words: str
) -> None:
    found = verdict(probe(to_convolutions=to_convolutions))
    assert found.headline == f"Pretrained beats random-initialised, {words} random convolutions"
    assert verdict(probe()).headline == "Pretrained beats random-initialised"


def test_another_reading_of_the_floor_that_decides_otherwise_is_told() -> None:
    given = probe()
    assert len(verdict(given).sentences) == 3
    given["differences"][1] = difference("random-initialised", 0.0, choice="layer of pretrained")
    assert "gives another answer" in verdict(given).sentences[2]


def test_rare_labels_do_not_hide_the_average_over_the_others(tmp_path: Path, quick: None) -> None:
    given = arguments()
    for place, held in enumerate(given["probe"]["rows"]):
        held["score"]["supported"] = estimate(0.9 - 0.01 * place)
    words = (
        "Over the one label with 10 or more positives: pretrained 0.900 [0.880, 0.920], "
        "random-initialised 0.890 [0.870, 0.910], random convolutions 0.870 [0.850, 0.890]."
    )
    assert words in Page(write_report(tmp_path, **given).read_text("utf-8")).text
    given["probe"]["labels"] = given["probe"]["labels"][:1]
    assert "Over the" not in Page(write_report(tmp_path, **given).read_text("utf-8")).text


def test_undefined_numbers_are_dashes(tmp_path: Path, quick: None) -> None:
    given = arguments()
    given["probe"]["rows"][3]["score"]["macro"] = dict.fromkeys(("value", "low", "high"))
    given["probe"]["differences"][2]["estimate"] = dict.fromkeys(("value", "low", "high"))
    given["metrics"] = [{"step": 1, "loss": None}]
    given["patch_errors"] = np.full(50, np.nan)
    page = Page(write_report(tmp_path, **given).read_text("utf-8"))
    body = page.text[page.text.index("}\n\n") :]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", body)
    assert "no patch was predicted" in body
    assert "RARE * (no positive in test)" in body


def test_a_run_with_levels_is_told_by_its_levels(tmp_path: Path, quick: None) -> None:
    given = arguments()
    assert "6 training curves" in write_report(tmp_path, **given).read_text("utf-8")
    given["metrics"] = [
        {"step": s, "loss": 0.25, "level0_target_rank": 33.6, "level1_target_rank": 8.2,
         "momentum": 0.99, "teacher_distance": 0.1, "alarms": []}
        for s in (1, 2)
    ]  # fmt: skip
    page = write_report(tmp_path, **given).read_text("utf-8")
    words = "the effective rank of the targets at 34 (level 0), 8 (level 1)."
    assert f"The loss ended at 0.250, {words}" in Page(page).text and "copy" not in Page(page).text
    assert "10 training curves" in page and "EMA momentum" in page


def test_collapse_that_was_not_watched_is_not_called_absent(tmp_path: Path, quick: None) -> None:
    given = arguments()
    assert "Collapse alarms: none in 59 logged rows" in (
        write_report(tmp_path, **given).read_text("utf-8")
    )
    given["metrics"] = [{"step": 1, "loss": 0.1}]
    page = write_report(tmp_path, **given).read_text("utf-8")
    assert "collapse was not watched" in page and "alarms: none" not in page


def test_what_the_interval_is_about_and_what_is_not_in_it_is_said(
    tmp_path: Path, quick: None
) -> None:
    given = arguments()
    text = Page(write_report(tmp_path, **given).read_text("utf-8")).text
    assert "1,000 bootstrap resamples of the 280 test patients" in text
    assert "left out (" not in text
    given["probe"]["records_left_out"] = {"train": 1, "validation": 0, "test": 2}
    given["probe"]["bootstrap"] |= {"unit": "record", "units": 300}
    text = Page(write_report(tmp_path, **given).read_text("utf-8")).text
    assert "resamples of the 300 test records" in text
    assert "3 records without a valid token left out (train 1, test 2). Layer" in text


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_page_and_says_which_classes_its_map_shows(
    tmp_path: Path, quick: None, name: str
) -> None:
    rng = np.random.default_rng(0)
    given = arguments()
    classes = task(name).classes
    given |= {"classes": classes, "labels": rng.random((30, len(classes))) < 0.2}
    given["probe"]["labels"] = [
        {"name": c, "positives": {"train": 9, "validation": 9, "test": 9}, "left_out": None}
        for c in classes
    ]
    page = Page(write_report(tmp_path, **given).read_text("utf-8"))
    words = f"Shown are the 8 most frequent of {len(classes)} classes."
    assert (words in page.text) == (len(classes) > 8)
    (described,) = [a for a in page.attributes("aria-label") if "coloured by" in a]
    told = described.split("coloured by ")[1].split(", and one small")[0].split(", ")
    assert len(told) == min(len(classes), 8) and set(told) <= set(classes)


def test_leaks_stand_above_the_result(tmp_path: Path, quick: None) -> None:
    given = arguments()
    given["probe"]["leaks"] = [
        {"kind": "patients in common", "severity": "error", "count": 3, "examples": ["17"],
         "message": "pretrain without them"}
    ]  # fmt: skip
    page = write_report(tmp_path, **given).read_text("utf-8")
    assert page.index("patients in common") < page.index('class="cards"')


def test_the_page_is_the_same_in_every_run(tmp_path: Path, quick: None) -> None:
    one = write_report(tmp_path, **arguments()).read_bytes()
    assert one == write_report(tmp_path, **copy.deepcopy(arguments())).read_bytes()


def test_a_report_that_fails_half_way_leaves_the_old_one_whole(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write_report(tmp_path, **arguments()).read_bytes()
    with pytest.raises(LatentcastError):
        write_report(tmp_path, **(arguments() | {"patch_errors": np.zeros(999)}))

    def full_disk(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text.encode()[:1000])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(LatentcastError, match=r"report\.html: cannot be written.*no space.*again"):
        write_report(tmp_path, **arguments())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == old


def test_a_large_run_stays_under_three_megabytes(tmp_path: Path, quick: None) -> None:
    rng = np.random.default_rng(0)
    given = arguments() | {
        "features": rng.normal(size=(3000, 4)), "labels": rng.random((3000, 2)) < 0.5,
        "metrics": [{"step": s, "loss": rng.normal(), "alarms": []} for s in range(20_000)],
        "patch_errors": rng.uniform(size=200), "patch_seconds": 0.05,
        "predicted_from": "what came before",
    }  # fmt: skip
    assert write_report(tmp_path, **given).stat().st_size < 3_000_000


def test_charts_follow_the_readers_colour_setting_and_paper_does_not(written: str) -> None:
    charts = re.findall(r'<figure class="chart">.*?</svg>', written, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        # What is left is white that matplotlib gives to invisible patches, or nothing.
        assert not set(re.findall(r"#[0-9a-f]{6}\b", chart)) - {"#ffffff"}
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", chart)) <= set(PALETTE)
    (paper,) = re.findall(r'<figure class="paper">.*?</svg>', written, re.DOTALL)
    assert "var(--" not in paper


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two hex colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_can_be_read_on_light_and_on_dark() -> None:
    pages = re.findall(r"--page:(#\w+)", stylesheet())
    for background, which in zip(pages, (0, 1), strict=True):
        for role, colours in PALETTE.items():
            if role in ("rule", "faint"):
                continue
            least = 4.5 if role in ("ink", "muted", "model", "other", "alarm") else 3.0
            assert contrast(colours[which], background) >= least, (role, which)
