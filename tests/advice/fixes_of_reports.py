"""What errors of reports, and of lists and comparisons of runs, say to type."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from terminal import ECG, Terminal, fixes, write_labelled

from latentcast.report.embedding import plot_embedding
from latentcast.report.pictures import MAP, shows_pictures

AGAIN = r"run latentcast (probe \S+ --data \S+ --task \S+)"


Spoil = Callable[[Terminal, Path], Path]


def reprobed(start: str) -> Callable[[Spoil], Spoil]:
    """Register what makes a probe's file unfit for a report with pictures, until it is made anew.

    What is registered spoils the run folder, and gives the store.
    """

    def register(spoil: Spoil) -> Spoil:
        @fixes("report/run.py", start, "run latentcast probe {}")
        def _(t: Terminal) -> None:
            run = t.run
            store = spoil(t, run)
            # The pictures of another store are drawn in no fix, since that takes seconds.
            with patch("latentcast.report.run._write", lambda run, *_, **__: run):
                report = f"report {run} --data {store} --task labels"
                t.works(t.refused(report).typed(AGAIN))
                t.works(report)

        return spoil

    return register


@reprobed("{}: does not exist")
def _(t: Terminal, run: Path) -> Path:
    return t.at.probed


@reprobed("{}: cannot be read")
def _(t: Terminal, run: Path) -> Path:
    (run / "probe-labels.json").write_text("{")
    return t.at.probed


@reprobed("{}: is about the weights")
@reprobed("{}: is about the samples")
def _(t: Terminal, run: Path) -> Path:
    t.works(f"probe {run} --task labels")
    if "samples" in t.messages[0].text:
        return write_labelled(t.new("other"), 44, labels=["a", "b"] * 22)
    file = run / "probe-labels.json"
    earlier = {k: v for k, v in json.loads(file.read_text()).items() if k != "sha256"}
    file.write_text(json.dumps(earlier).replace("step 2", "step 1"))
    return t.at.probed


@fixes("report/embedding.py", "embedding map: {} records")
def _(t: Terminal) -> None:
    x = np.random.default_rng(0).normal(size=(9, 2))
    few = t.refused(lambda: plot_embedding(x[:3], np.ones((3, 1)), ["a"]))
    records = int(few.typed(r"give (\d+) or more"))
    t.works(lambda: plot_embedding(x[:records], np.ones((records, 1)), ["a"]))


@fixes("evaluation/results.py", "another version")
@fixes("evaluation/results.py", "has no score")
@fixes("evaluation/results.py", "{}: cannot be read")
@fixes("evaluation/results.py", "was edited or damaged")
def _(t: Terminal) -> None:
    run, file = t.run, t.run / "probe-labels.json"
    t.works(f"probe {run} --task labels")
    whole = json.loads(file.read_text())
    bad = {"another": {}, "has no": whole | {"rows": []}, "holds no": [], "was edited": whole}
    start = next((start for start in bad if start in t.messages[0].text), "")
    if start == "has no":
        del bad[start]["sha256"]
    elif start == "was edited":
        whole["compared"] += 1
    file.write_text(json.dumps(bad[start]) if start else "{")
    report = f"report {run} --data {t.at.probed} --task labels"
    with patch("latentcast.report.run._write", lambda run, *_, **__: run):
        assert t.refused(report).typed("probe again")
        t.works(f"probe {run} --task labels")
        t.works(report)


@fixes("report/page.py", "Not probed: latentcast probe")
def _(t: Terminal) -> None:
    run = t.run
    t.works(f"report {run}")
    verb = t.holding((run / "report.html").read_text()).typed("latentcast (probe) scores")
    t.works(f"{verb} {run}")
    t.works(f"report {run}")
    page = (run / "report.html").read_text()
    assert "Not probed" not in page and "test records are too few" in page


@fixes("report/picture.py", "{}: cannot be written")
def _(t: Terminal) -> None:
    (t.new("taken") / "captions.md").mkdir(parents=True)
    with patch("latentcast.report.run._at_hand", return_value=None):  # drawing it takes seconds
        error = t.refused(f"report {t.run} --figures {t.new('taken')}")
        t.works(f"report {t.run} {error.typed('--figures')} {t.new('other')}")


@fixes("report/run.py", "without pictures of a store")
def _(t: Terminal) -> None:
    page = t.run / "report.html"
    t.works(f"probe {t.run} --task labels")
    page.write_text(f"<h2>{MAP}</h2>")
    with patch("latentcast.report.run._at_hand", return_value=None):
        t.works(f"report {t.run}")
    printed = t.holding(page.read_text())
    assert shows_pictures(Path(printed.typed(r"is (\S+); name a store")))
    t.works(f"report {t.run} {printed.typed('--data')} {t.at.probed} --task labels")
    assert shows_pictures(page)


@fixes("runs/summary.py", "{}: no run below")
def _(t: Terminal) -> None:
    t.new("empty").mkdir()
    verb = t.refused(f"runs {t.new('empty')}").typed("latentcast (train --out) wrote")
    t.works(f"{verb} {t.new('empty') / 'run'} {ECG} --config {t.at.small} --data {t.at.bare}")
    t.works(f"runs {t.new('empty')}")


@fixes("runs/comparison.py", "{}: is all there is")
def _(t: Terminal) -> None:
    flag = t.refused(f"runs {t.at.run} --compare").typed("--compare")
    t.works(f"runs {t.at.run} {t.at.image_run} {flag}")


@fixes("runs/comparison.py", "Last metrics (--json")
@fixes("runs/listing.py", "too narrow for")
def _(t: Terminal) -> None:
    runs = f"runs {t.at.run} {t.at.image_run} --compare"
    if "narrow" in t.messages[0].text:
        runs = f"runs {t.run.rename(t.new('n' * 150))}"
    assert json.loads(t.works(f"{runs} {t.prints(runs).typed('--json')}"))
