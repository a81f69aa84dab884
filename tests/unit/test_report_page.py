"""The report: one file that needs nothing else, says what the intervals allow, escapes the rest."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentcast.errors import LatentcastError, printable
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tasks import ptbxl
from latentcast.report import embedding
from latentcast.report.page import write_report
from latentcast.report.pictures import FeatureMap, Surprise
from latentcast.report.style import PALETTE
from latentcast.report.templates import render
from latentcast.report.verdict import Verdict
from latentcast.report.verdict import verdict as verdict_of
from latentcast.signals.synthetic import synthetic_recording

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

EVIL = """</title></style></svg></pre><script>alert("1")</script><b onclick='x'>&amp;\x1b[3m\x00"""
VOID = {"wbr", "meta", "br", "link", "img", "input", "hr"}


def estimate(value: float, half: float = 0.02) -> dict[str, float | None]:
    return {"value": value, "low": value - half, "high": value + half}


def row(name: str, value: float, choice: str = "chosen on validation") -> dict[str, Any]:
    aurocs = [
        {"name": "MI", "positives": 40, "records": 300, "auroc": estimate(value)},
        {"name": "HYP", "positives": 8, "records": 300, "auroc": estimate(value)},
    ]
    score = {"main": estimate(value), "supported": estimate(value), "labels": aurocs, "others": {}}
    return {
        "name": name, "head": "linear", "choice": choice, "layer": "block 2", "pooling": "mean+std",
        "penalty": 0.01, "validation": value, "score": score,
    }  # fmt: skip


def difference(reference: str, value: float, half: float = 0.02, choice: str = "") -> Any:
    return {
        "name": "pretrained", "reference": reference, "head": "linear",
        "choice": choice or "chosen on validation", "estimate": estimate(value, half),
    }  # fmt: skip


def probe(to_random: float = 0.03, to_convolutions: float = 0.04) -> dict[str, Any]:
    """What ProbeReport.as_json() gives: three sources, one label of few positives, one without."""
    return {
        "protocol": "PTB-XL superdiagnostic, folds 1–8/9/10, linear probe",
        "task": "superdiagnostic", "kind": "multi-label", "modality": "ecg",
        "metric": "macro AUROC", "floors": {"macro AUROC": 0.5},
        "lower_is_better": [], "compared": 2000,
        "records": {"train": 2000, "validation": 310, "test": 300},
        "records_without_target": {"train": 0, "validation": 0, "test": 0},
        "records_without_token": {"train": 0, "validation": 0, "test": 0},
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


def verdict(plain: dict[str, Any]) -> Verdict:
    return verdict_of(ProbeReport.from_json(plain))


SURPRISE = ("recording", "patch_errors", "patch_seconds", "predicted_from")
MAP = ("features", "labels", "classes", "features_from")


def write(run: Path, inputs: dict[str, Any]) -> Path:
    """The page of flat arguments: one probe, one picture of each kind."""
    kept = {k: v for k, v in inputs.items() if k not in (*SURPRISE, *MAP, "probe")}
    return write_report(
        run,
        probes=[ProbeReport.from_json(inputs["probe"])],
        pictures=[
            Surprise(*(inputs[name] for name in SURPRISE)).picture(),
            *FeatureMap(*(inputs[name] for name in MAP)).pictures(),
        ],
        **kept,
    )


def arguments() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    rows = [
        {"step": s, "loss": -0.01 * s, "copy_last_loss": -0.2, "lr": 1e-3, "alarms": []}
        for s in range(1, 60)
    ]
    errors = rng.uniform(0, 1, 50)
    errors[7] = np.nan
    scored = probe()
    scored["rows"][0]["score"]["curves"] = [
        {"name": "MI", "sensitivity": [0, 0.7, 1], "false_positives": [0, 0.2, 1],
         "precision": [0.9, 0.5, 0.13]},
    ]  # fmt: skip
    return {
        "title": "tiny", "steps": 59, "metrics": rows, "probe": scored,
        "changes": [("train.seed", "1", "0")],
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
        return [v for _, pairs in self.elements for n, v in pairs.items() if n in names and v]

    def count(self, tag: str) -> int:
        return sum(tag == name for name, _ in self.elements)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("run"), arguments()).read_text("utf-8")


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
    assert not [name for _, pairs in page.elements for name in pairs if name.startswith("on")]


def test_whatever_comes_from_outside_is_escaped(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    outside = probe()
    outside["protocol"] = outside["task"] = outside["labels"][0]["name"] = EVIL
    outside["rows"][0] |= {"name": EVIL, "layer": EVIL, "choice": EVIL, "pooling": EVIL}
    outside["rows"][3]["name"] = outside["differences"][2]["reference"] = "floor" + EVIL
    for given_by_encoder in outside["differences"]:
        given_by_encoder["name"] = EVIL
    outside["leaks"] = [
        {"kind": EVIL, "severity": "error", "count": 3, "examples": [EVIL], "message": EVIL}
    ]
    inputs |= {
        "title": EVIL, "probe": outside, "config_yaml": EVIL, "features_from": EVIL,
        "recording": synthetic_recording(record_id=EVIL, patient_id=EVIL),
        "classes": (EVIL, "HYP"), "what_was_run": {EVIL: EVIL},
        "environment": {EVIL: {EVIL: [EVIL]}, "resumed_under": [{EVIL: EVIL}],
                        "data": {"sha256": {EVIL: EVIL}}},
        "changes": [(EVIL, EVIL, EVIL)], "remarks": [EVIL],
        "metrics": [{"step": 1, "loss": -0.1, "alarms": ["rank" + EVIL]}],
    }  # fmt: skip
    text = write(tmp_path, inputs).read_text("utf-8")
    page = Page(text)
    assert page.count("script") == 0 and not {"\x1b", "\x00"} & set(text)
    assert page.count("b") == 3  # the three cards, none of them the intruder's
    assert not [name for _, pairs in page.elements for name in pairs if name.startswith("on")]
    assert page.count("style") == 1
    assert page.text.count(printable(EVIL)) > 20


def test_pictures_have_descriptions_and_tables_captions(written: str) -> None:
    page = Page(written)
    for tag, pairs in page.elements:
        if tag == "svg":
            assert pairs.get("aria-hidden") == "true" or len(pairs.get("aria-label") or "") > 40
    assert page.count("figure") == page.count("figcaption") == 6
    assert page.count("table") == page.count("caption") == 4
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
    inputs = probe()
    inputs["differences"][0] = difference("random-initialised", value, half)
    found = verdict(inputs)
    assert found.outcome == outcome and found.headline.startswith(words)
    includes = "includes zero" if outcome == "undecided" else "excludes zero"
    assert includes in found.sentences[1]


def test_an_undefined_difference_claims_nothing() -> None:
    inputs = probe()
    inputs["differences"][0]["estimate"] = {"value": None, "low": None, "high": None}
    found = verdict(inputs)
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
    inputs = probe()
    assert len(verdict(inputs).sentences) == 3
    inputs["differences"][1] = difference("random-initialised", 0.0, choice="layer of pretrained")
    assert "gives another answer" in verdict(inputs).sentences[2]


def test_rare_labels_do_not_hide_the_average_over_the_others(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    for place, source in enumerate(inputs["probe"]["rows"]):
        source["score"]["supported"] = estimate(0.9 - 0.01 * place)
    words = (
        "macro AUROC over the one label with 10 or more positives; 2 have fewer"
        "0.900 [0.880, 0.920]0.890 [0.870, 0.910]0.870 [0.850, 0.890]"
    )
    assert words in Page(write(tmp_path, inputs).read_text("utf-8")).text
    inputs["probe"]["labels"] = inputs["probe"]["labels"][:1]
    assert "over the one" not in Page(write(tmp_path, inputs).read_text("utf-8")).text


def test_undefined_numbers_are_dashes(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    inputs["probe"]["rows"][3]["score"]["main"] = dict.fromkeys(("value", "low", "high"))
    inputs["probe"]["differences"][2]["estimate"] = dict.fromkeys(("value", "low", "high"))
    inputs["metrics"] = [{"step": 1, "loss": None}]
    inputs["patch_errors"] = np.full(50, np.nan)
    page = Page(write(tmp_path, inputs).read_text("utf-8"))
    body = page.text[page.text.index("}\n\n") :]
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", body)
    assert "no patch was predicted" in body
    assert "RARE * (no positive in test)" in body


def test_a_run_with_levels_is_told_by_its_levels(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    assert "3 training curves" in write(tmp_path, inputs).read_text("utf-8")
    inputs["metrics"] = [
        {"step": s, "loss": 0.25, "level0_target_rank": 33.6, "level1_target_rank": 8.2,
         "momentum": 0.99, "teacher_distance": 0.1, "alarms": []}
        for s in (1, 2)
    ]  # fmt: skip
    page = write(tmp_path, inputs).read_text("utf-8")
    words = "the effective rank at 34 (level 0), 8 (level 1)."
    assert f"The loss ended at 0.250, {words}" in Page(page).text and "copy" not in Page(page).text
    assert "10 training curves" in page and "EMA momentum" in page


def test_collapse_that_was_not_watched_is_not_called_absent(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    assert "Alarms: none in 59 logged rows" in (write(tmp_path, inputs).read_text("utf-8"))
    inputs["metrics"] = [{"step": 1, "loss": 0.1}]
    page = write(tmp_path, inputs).read_text("utf-8")
    assert "collapse was not watched" in page and "Alarms: none" not in page


def test_what_the_interval_is_about_and_what_is_not_in_it_is_said(
    tmp_path: Path, quick: None
) -> None:
    inputs = arguments()
    text = Page(write(tmp_path, inputs).read_text("utf-8")).text
    assert "1,000 bootstrap resamples of the 280 test patients" in text
    assert "left out (" not in text
    inputs["probe"]["records_without_token"] = {"train": 1, "validation": 0, "test": 2}
    inputs["probe"]["bootstrap"] |= {"unit": "record", "units": 300}
    text = Page(write(tmp_path, inputs).read_text("utf-8")).text
    assert "resamples of the 300 test records" in text
    assert "3 records without a valid token left out (train 1, test 2). Layer" in text


@pytest.mark.parametrize("name", ptbxl.NAMES)
def test_every_task_has_a_page_and_says_which_classes_its_map_shows(
    tmp_path: Path, quick: None, name: str
) -> None:
    rng = np.random.default_rng(0)
    inputs = arguments()
    classes = ptbxl.statements(name).classes
    inputs |= {"classes": classes, "labels": rng.random((30, len(classes))) < 0.2}
    inputs["probe"]["labels"] = [
        {"name": c, "positives": {"train": 9, "validation": 9, "test": 9}, "left_out": None}
        for c in classes
    ]
    page = Page(write(tmp_path, inputs).read_text("utf-8"))
    words = f"Shown are the 8 most frequent of {len(classes)} classes."
    assert (words in page.text) == (len(classes) > 8)
    (described,) = [a for a in page.attributes("aria-label") if "coloured by" in a]
    coloured = described.split("coloured by ")[1].split(", and one small")[0].split(", ")
    assert len(coloured) == min(len(classes), 8) and set(coloured) <= set(classes)


def test_a_label_of_one_positive_has_no_interval_in_an_older_file(
    tmp_path: Path, quick: None
) -> None:
    inputs = arguments()
    rates = {name: estimate(0.97) for name in ("sensitivity", "ppv", "f1")}
    score = inputs["probe"]["rows"][0]["score"]
    score["points"] = [{"name": "HYP", "threshold": 0.4, "specificity": estimate(0.7), **rates}]
    score["labels"][1] |= {"positives": 1, "auroc": estimate(0.97)}
    text = Page(write(tmp_path, inputs).read_text("utf-8")).text
    assert text.count("0.970 (1 positive: no interval)") == 4 and "0.970 [" not in text


def test_leaks_stand_above_the_result(tmp_path: Path, quick: None) -> None:
    inputs = arguments()
    inputs["probe"]["leaks"] = [
        {"kind": "patients in common", "severity": "error", "count": 3, "examples": ["17"],
         "message": "pretrain without them"}
    ]  # fmt: skip
    page = write(tmp_path, inputs).read_text("utf-8")
    assert page.index("patients in common") < page.index('class="cards"')


def test_the_page_is_the_same_in_every_run(tmp_path: Path, quick: None) -> None:
    one = write(tmp_path, arguments()).read_bytes()
    assert one == write(tmp_path, copy.deepcopy(arguments())).read_bytes()


def test_a_report_that_fails_half_way_leaves_the_old_one_whole(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(tmp_path, arguments()).read_bytes()
    with pytest.raises(LatentcastError):
        write(tmp_path, arguments() | {"patch_errors": np.zeros(999)})

    def full_disk(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text.encode()[:1000])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(LatentcastError, match=r"report\.html: cannot be written.*no space.*again"):
        write(tmp_path, arguments())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == old


def test_a_large_run_stays_under_three_megabytes(tmp_path: Path, quick: None) -> None:
    rng = np.random.default_rng(0)
    inputs = arguments() | {
        "features": rng.normal(size=(3000, 4)), "labels": rng.random((3000, 2)) < 0.5,
        "metrics": [{"step": s, "loss": rng.normal(), "alarms": []} for s in range(20_000)],
        "patch_errors": rng.uniform(size=200), "patch_seconds": 0.05,
        "predicted_from": "what came before",
    }  # fmt: skip
    assert write(tmp_path, inputs).stat().st_size < 3_000_000


def test_charts_follow_the_readers_colour_setting_and_paper_does_not(written: str) -> None:
    charts = re.findall(r'<figure class="chart">.*?</svg>', written, re.DOTALL)
    assert len(charts) == 2
    for chart in charts:
        # What is left is white that matplotlib gives to invisible patches, or nothing.
        assert not set(re.findall(r"#[0-9a-f]{6}\b", chart)) - {"#ffffff"}
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", chart)) <= set(PALETTE)
    (paper,) = re.findall(r'<figure class="paper">.*?</svg>', written, re.DOTALL)
    assert "var(--" not in paper


def images() -> dict[str, Any]:
    """Classes under two heads, next to two floors."""

    def read(name: str, head: str, value: float) -> Any:
        score = {"main": estimate(value), "supported": None, "labels": [], "others": {}}
        return row(name, value) | {
            "head": head, "penalty": None if head == "kNN" else 1.0, "score": score,
        }  # fmt: skip

    def against(reference: str, head: str, value: float) -> Any:
        return difference(reference, value) | {"head": head}

    return probe() | {
        "protocol": "kNN (k = 20) and linear probe", "task": "classes", "kind": "multi-class",
        "modality": "image", "metric": "accuracy", "floors": {"accuracy": 0.5}, "compared": 80,
        "records": {"train": 100, "validation": 20, "test": 40},
        "records_without_target": {"train": 0, "validation": 0, "test": 1},
        "labels": [
            {"name": name, "positives": {"train": 50, "validation": 10, "test": 20},
             "left_out": None}
            for name in ("cat", EVIL)
        ],
        "rows": [
            read("pretrained", "kNN", 0.7), read("pretrained", "linear", 0.8),
            read("random-initialised", "kNN", 0.6), read("random-initialised", "linear", 0.61),
            read("pixels", "kNN", 0.9), read("pixels", "linear", 0.79),
        ],
        "differences": [
            against("random-initialised", "kNN", 0.1),
            against("random-initialised", "linear", 0.19),
            against("pixels", "kNN", -0.2), against("pixels", "linear", 0.01),
        ],
        "bootstrap": {"resamples": 1000, "level": 0.95, "seed": 0, "unit": "image", "units": 40},
        "provenance": {"weights": "tiny, teacher, step 9"},
    }  # fmt: skip


def plain(run: Path, **changes: Any) -> Page:
    """The page of a run without a store: no picture but the curves."""
    inputs = arguments()
    kept = {k: v for k, v in inputs.items() if k not in (*SURPRISE, *MAP, "probe")}
    text = write_report(run, **(kept | {"probes": []} | changes)).read_text("utf-8")
    assert "<script" not in text and not re.search(r"(src|href)=\"(?!#)", text)
    return Page(text)


def test_a_run_without_a_probe_says_where_it_stands_and_claims_nothing(tmp_path: Path) -> None:
    page = plain(tmp_path, steps=100)
    assert "Stands at step 59 of 100" in page.text and "Not probed" in page.text
    assert "Trained for 59 steps" in plain(tmp_path).text
    one = plain(tmp_path, metrics=[{"step": 1, "loss": 0.1}], steps=1).text
    assert "Trained for 1 step" in one
    assert "1 logged row, the last" in one and "1 steps" not in one
    assert page.count("figure") == 1 and "Caveats" not in page.text
    for claim in ("beats", "AUROC", "accuracy", "surprised", "t-SNE"):
        assert claim not in page.text
    nothing = plain(tmp_path, metrics=[], changes=None, environment={}, what_was_run={})
    assert "No step has been logged" in nothing.text
    assert "no recipe of that name" in nothing.text
    assert "The recipe as it is" in plain(tmp_path, changes=[]).text


def test_a_probe_of_images_is_told_by_its_linear_head_and_where_knn_disagrees(
    tmp_path: Path,
) -> None:
    page = plain(tmp_path, probes=[ProbeReport.from_json(images())])
    assert "Pretrained beats random-initialised, but not pixels" in page.text
    assert "0.800 [0.780, 0.820] (linear) and 0.700 [0.680, 0.720] (kNN)" in page.text
    assert "Pixels, kNN, gives another answer: −0.200" in page.text
    assert "Random-initialised, kNN, gives another" not in page.text
    assert "Always the most frequent class: accuracy 0.500" in page.text
    assert "1 image without a label of the task left out (test 1)" in page.text
    assert "Layers compared on 80 training images" in page.text
    assert page.text.count("tiny, teacher, step 9") == 1 and printable(EVIL) in page.text
    assert page.count("script") == 0 and page.count("b") == 3
    rows = page.text[page.text.index("Probe: classes") :]
    assert rows.index("+0.190 [+0.170, +0.210]") < rows.index("+0.010 [−0.010, +0.030]")


def test_a_regression_has_its_error_beside_what_it_explains(tmp_path: Path) -> None:
    plain_probe = probe() | {
        "task": "metadata:age", "kind": "regression", "metric": "R²", "labels": [],
        "floors": {"R²": -0.01, "MAE": 14.5}, "lower_is_better": ["MAE"],
    }  # fmt: skip
    for source in plain_probe["rows"]:
        source["score"] |= {
            "labels": [],
            "supported": None,
            "others": {"MAE": estimate(9.0)},
        }
    page = plain(tmp_path, probes=[ProbeReport.from_json(plain_probe)])
    assert "reach an R² of 0.830 [0.810, 0.850]" in page.text
    assert "Always the mean of the training records: R² −0.010, MAE 14.500" in page.text
    assert "MAE, lower is better9.000 [8.980, 9.020]" in page.text
    assert "AUROC" not in page.text and "label" not in page.text.lower().replace("labelled", "")


def test_several_probes_have_a_section_each_and_the_first_the_headline(tmp_path: Path) -> None:
    other = probe(to_random=-0.03) | {"task": "form"}
    page = plain(tmp_path, probes=[ProbeReport.from_json(each) for each in (probe(), other)])
    assert "Probe: superdiagnostic" in page.text and "Probe: form" in page.text
    first, second = page.text.split("Probes side by side")[1].split("form", 1)
    assert "+0.030 [+0.010, +0.050] (random-initialised)" in first
    assert second.index("−0.030 [−0.050, −0.010]") < second.index("Probe:")
    assert "Pretrained beats random" in page.text and "is worse than" not in page.text
    assert page.count("b") == 3


def test_alarms_and_skipped_updates_are_shown_where_they_were(tmp_path: Path) -> None:
    def row(step: int, **values: Any) -> dict[str, Any]:
        return {"step": step, "loss": 1.0, "alarms": [], "skipped": 0} | values

    rows = [
        row(10), row(20, alarms=["rank-collapse"]), row(30, alarms=["rank-collapse"], skipped=2),
        row(40, skipped=2), row(50, alarms=["rank-collapse"], skipped=5),
    ]  # fmt: skip
    page = plain(tmp_path, metrics=rows)
    assert "2 in steps 20 to 30, 3 in steps 40 to 50" in page.text
    assert "3 of 5" in page.text and "Skipped updates: none" not in page.text
    bars = [float(rect["x"] or 0) for tag, rect in page.elements if tag == "rect" and "x" in rect]
    wide = [float(rect["width"] or 0) for tag, rect in page.elements
            if tag == "rect" and rect.get("height") == "8"]  # fmt: skip
    # 152 units are 50 steps: raised from 20 to 40 and at the last row, skipped in two stretches.
    assert wide == [60.8, 1.5, 30.4, 30.4] and bars[-4:] == [64.8, 156.0, 64.8, 125.6]
    assert "Skipped updates: none" in plain(tmp_path, metrics=[row(1), row(2)]).text
    assert "Skipped updates" not in plain(tmp_path).text  # an old run did not count them


def test_resumes_under_another_machine_and_checksums_are_on_the_page(tmp_path: Path) -> None:
    page = plain(
        tmp_path,
        environment={
            "git": "abc-dirty", "data": {"store": "here", "sha256": {"shard-0.npy": "f00d"}},
            "resumed_under": [{"torch": "9.9"}, {"git": None, "threads": 3}],
        },
        remarks=["metrics.jsonl: line 3 is no row"],
    )  # fmt: skip
    for words in ("abc-dirty", "shard-0.npy", "f00d", "1.torch9.9", "2.threads3", "line 3 is no"):
        assert words in page.text.replace("\n", "")
    assert page.text.index("line 3 is no row") < page.text.index("Training")


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two hex colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_can_be_read_on_light_and_on_dark() -> None:
    pages = re.findall(r"--page:(#\w+)", render("style.css"))
    for background, which in zip(pages, (0, 1), strict=True):
        for role, colours in PALETTE.items():
            if role in ("rule", "faint"):
                continue
            least = 4.5 if role in ("ink", "muted", "model", "other", "alarm") else 3.0
            assert contrast(colours[which], background) >= least, (role, which)
