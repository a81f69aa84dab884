"""Text from data is data: on a terminal, in XML, HTML, JSON and Markdown."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report_page import probe
from test_runs import write_run

from conftest import REPOSITORY, Command
from latentcast.config import Config
from latentcast.data.inspect import Description, Kind, print_description
from latentcast.evaluation.results import ProbeReport
from latentcast.evaluation.tables import print_probe
from latentcast.monitors.journal import Journal
from latentcast.report import embedding
from latentcast.report.embedding import plot_embedding
from latentcast.report.svg import of_figure
from latentcast.runs import compare, print_comparison, print_runs, summarise
from latentcast.signals.recording import from_signal
from latentcast.terminal import Terminal
from latentcast.verification.report.console import print_section
from latentcast.verification.report.lines import Line, Report, Section
from latentcast.verification.report.page import write_report

EVIL = "[/x][bold]b[/][link=x]:smile:\x1b[31m\x07\x00\x9b\x7f\u202e\udcff\ufffe"
SHOWN = r"[/x][bold]b[/][link=x]:smile:\x1b[31m\x07\x00\x9b\x7f\u202e\udcff\ufffe"
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff\ufffe]")
SECTION = Section(EVIL, "run", (Line("run.x", EVIL, EVIL, "broken", {EVIL: EVIL}),), {EVIL: EVIL})


def described(console: Terminal, config: Config, folder: Path) -> None:
    kinds = {EVIL: Kind(1, [EVIL])}
    contents = Description(EVIL, {EVIL: EVIL}, (EVIL, (EVIL,), [(EVIL,)]), {EVIL: 1}, kinds, kinds)
    print_description(contents, console)


def probed(console: Terminal, config: Config, folder: Path) -> None:
    plain = probe()
    plain["protocol"] = plain["labels"][0]["name"] = plain["labels"][2]["name"] = EVIL
    plain["rows"][0] |= {"layer": EVIL, "choice": EVIL}
    plain["leaks"] = [
        {"kind": EVIL, "severity": "error", "count": 3, "examples": [EVIL], "message": EVIL}
    ]
    print_probe(ProbeReport.from_json(plain), console)


def listed(console: Terminal, config: Config, folder: Path) -> None:
    run = dataclasses.replace(
        summarise(write_run(folder / "a", config)), name=EVIL, recipe=EVIL, problems=(EVIL,)
    )
    print_runs([run], console)
    other = dataclasses.replace(summarise(write_run(folder / "b", config, loss=2.0)), name="b")
    print_comparison(
        dataclasses.replace(compare([run, other]), configuration={EVIL: (EVIL, "b")}), console
    )


def verified(console: Terminal, config: Config, folder: Path) -> None:
    print_section(SECTION, console)
    with console.status(EVIL):
        pass


@pytest.mark.parametrize("printer", [described, probed, listed, verified])
def test_a_name_from_data_is_printed_as_it_is(
    printer: Callable[[Terminal, Config, Path], None], small_config: Config, tmp_path: Path
) -> None:
    console = Terminal(file=io.StringIO(), width=1000)
    printer(console, small_config, tmp_path)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count(SHOWN) >= 3 and not UNPRINTABLE.search(text)


def test_a_name_in_an_error_or_in_the_log_commands_no_terminal(
    command: Command, small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = command("inspect", "\x1b[31m\udcff")
    assert answer.err.startswith(r"latentcast: \x1b[31m\udcff: ")
    Journal(tmp_path, small_config, 1).say(EVIL)
    assert SHOWN in capsys.readouterr().out


def test_every_console_is_the_one_that_takes_strings_for_data() -> None:
    for file in (REPOSITORY / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Console"):
                pytest.fail(f"{file}: a Console of rich's own; use latentcast.terminal")


def test_pages_of_verify_hold_no_control_character(tmp_path: Path) -> None:
    write_report(Report((SECTION,), {EVIL: EVIL}), tmp_path)
    for name in ("report.html", "report.md", "badge.svg"):
        assert not UNPRINTABLE.search((tmp_path / name).read_text("utf-8").replace("\n", ""))
    assert json.loads((tmp_path / "report.json").read_text())["sections"][0]["name"] == EVIL


def test_a_label_in_a_picture_is_no_mathematics_no_id_and_not_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from xml.etree import ElementTree

    monkeypatch.setattr(embedding, "project", lambda x, seed: (x[:, :2], 0.5, x[:, :2]))
    names = ["_hidden", r"$\nothing$", f'a id="q" #1c2128 {EVIL}']
    members = np.eye(3, dtype=bool)[np.arange(30) % 3]
    figure = plot_embedding(np.random.default_rng(0).normal(size=(30, 4)), members, names)
    root = ElementTree.fromstring(
        of_figure(figure, "map", EVIL, recolour=True).replace("xlink:", "")
    )
    texts = [str(element.text).strip() for element in root.iter() if element.tag.endswith("text")]
    for name in names:  # in the legend, and above its own map
        assert sum(text.startswith(name[:16]) for text in texts) == 2, name


def test_an_id_in_an_ecg_is_well_formed(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    from latentcast.report.ecg import plot_recording

    rng: Any = np.random.default_rng(0)
    signal = rng.normal(size=(2, 400)).astype(np.float32)
    recording = from_signal(signal, ("I", "\x1b"), 100.0, EVIL, patient_id=EVIL)
    plot_recording(recording).savefig(tmp_path / "x.svg")
    ElementTree.fromstring((tmp_path / "x.svg").read_text("utf-8"))
