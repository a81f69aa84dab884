"""Claims measured over seeds, reports that say what broke, exit statuses that can be trusted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from conftest import REPOSITORY
from latentcast.cli.verification import verify as command
from latentcast.errors import LatentcastError
from latentcast.objectives import nepa
from latentcast.recipes import recipe
from latentcast.verification import suite
from latentcast.verification import verify as calls
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, equal
from latentcast.verification.observe.twin import Twin
from latentcast.verification.report.lines import Line, Report, Section
from latentcast.verification.suite import verify_recipe
from latentcast.verification.verify import verify
from verification import toys

PARITY = REPOSITORY / "tests" / "parity" / "nepa_ecg.safetensors"
RECIPE = "nepa-image-tiny"


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> None:
    toys.broken.clear()


@pytest.fixture
def toy_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "all_claims", lambda: toys.CLAIMS)


def test_claims_that_do_not_concern_a_recipe_are_left_out() -> None:
    section = verify_recipe(recipe(RECIPE), toys.CLAIMS)
    assert [line.id for line in section.lines] == ["loss.formula", "data.batch", "toy.wanted"]
    assert section.holds and section.summary == "3 of 3 claims hold"
    others = verify_recipe(recipe("ijepa-image-digits"), toys.CLAIMS)
    assert [line.id for line in others.lines] == ["data.batch", "toy.wanted"]


def test_a_claim_broken_with_one_seed_is_broken_and_says_with_which() -> None:
    @claim("toy.odd", "It is even.", source="this test")
    def odd(twin: Twin) -> Evidence:
        return equal("remainder", twin.seed % 2, 0)

    section = verify_recipe(recipe(RECIPE), [odd], seeds=3)
    assert not section.holds and section.count("broken") == 1
    numbers = {"remainder": 1, "remainder: expected": 0, "seeds": "broken with 1 of 3"}
    assert section.lines[0].numbers == numbers
    assert verify_recipe(recipe(RECIPE), [odd]).holds


def test_a_library_that_cannot_build_its_twin_breaks_every_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*args: object) -> None:
        raise RuntimeError("the loader is broken")

    monkeypatch.setattr("latentcast.verification.measure.Twin", fails)
    section = verify_recipe(recipe(RECIPE), toys.CLAIMS[:2])
    assert not section.holds and section.count("broken") == 2
    assert "the loader is broken" in section.lines[0].text()


def test_twins_leave_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verify_recipe(recipe(RECIPE), toys.CLAIMS, seeds=2)
    verify_recipe(recipe(RECIPE).updated({"encoder.depth": 1}), toys.CLAIMS)
    assert list(tmp_path.iterdir()) == []


def test_nothing_measured_is_not_green() -> None:
    empty = Section("x", "run", (Line("run.a", "", "", "not measured", {"reason": "no store"}),))
    assert not empty.holds and not Report((empty,), {}).holds
    assert "Not proven: x" in Report((empty,), {}).verdict


def test_exit_status_and_report_of_a_recipe(
    toy_claims: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command((RECIPE,), out=tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "nepa-image-tiny: 3 of 3 claims hold" in printed
    assert "Every claim holds: 3 measured" in printed
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"report.html", "report.md", "report.json", "badge.svg"}


def test_broken_claim_is_named_with_its_number_and_the_status_is_one(
    toy_claims: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cosine = nepa.cosine
    monkeypatch.setattr(nepa, "cosine", lambda a, b: -cosine(a, b))
    assert command((RECIPE,)) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "loss.formula is broken: The loss is the paper's <formula>." in printed
    assert re.search(r"difference [\d.]+ ≤ 1e-05, measured -?[\d.]+, expected -?[\d.]+", printed)
    assert "Broken: loss.formula" in printed


def test_recipes_runs_and_parity_are_sections_of_one_report(
    toy_claims: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"  # damaged: no rows, no checkpoint
    run.mkdir()
    (run / "config.yaml").write_text(recipe(RECIPE).to_yaml())
    (run / "environment.json").write_text('{"data": {"store": "gone", "sha256": {}}}')
    assert command((RECIPE, str(run)), parity=(PARITY,), out=tmp_path / "out") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [part["kind"] for part in report["sections"]] == ["recipe", "run", "parity"]
    assert [part["holds"] for part in report["sections"]] == [True, False, True]
    assert len(report["sections"][2]["claims"]) == 62


# Configurations of one's own


@pytest.fixture
def configurations(monkeypatch: pytest.MonkeyPatch) -> list[Twin]:
    """The twins that claims were measured on."""
    twins: list[Twin] = []

    @claim("toy.twin", "It is kept.", source="this test")
    def keep(twin: Twin) -> Evidence:
        twins.append(twin)
        return equal("twins", 1, 1)

    monkeypatch.setattr(calls, "all_claims", lambda: (keep,))
    return twins


def test_the_configuration_that_is_measured_is_the_users(
    configurations: list[Twin], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("encoder: {depth: 6, qk_norm: false}\n")
    report = verify(RECIPE, config=file, set=["encoder.depth=5"], quiet=True)
    encoder = configurations[0].recipe.encoder
    assert (encoder.depth, encoder.qk_norm) == (5, False)
    (section,) = report.sections
    assert section.name == f"{RECIPE}, changed"
    assert "encoder.depth is 5 here" in str(section.facts["changed"])
    verify(recipe(RECIPE), quiet=True)
    assert configurations[1].recipe == recipe(RECIPE)


def test_a_file_alone_is_a_configuration(configurations: list[Twin], tmp_path: Path) -> None:
    own = recipe(RECIPE).updated({"recipe": "mine", "encoder.depth": 2})
    (tmp_path / "mine.yaml").write_text(own.to_yaml())
    report = verify(config=str(tmp_path / "mine.yaml"), quiet=True)
    assert configurations[0].recipe == own and report.sections[0].name == "mine"
    assert command(config=tmp_path / "mine.yaml") == 0


def test_a_configuration_without_a_twin_is_an_error_and_not_two_hundred_broken_claims() -> None:
    eight = "input.leads=[I,II,V1,V2,V3,V4,V5,V6]"  # of which ingest makes twelve
    with pytest.raises(LatentcastError, match=r"nepa-ecg-tiny: has no small twin.*leads I II V1"):
        verify("nepa-ecg-tiny", set=[eight], quiet=True)


def test_published_numbers_are_claimed_of_what_is_published_alone() -> None:
    from latentcast.verification.claims import table

    (changed,) = verify_recipe(
        recipe("nepa-ecg-small").updated({"encoder.depth": 2}), [table.parameters]
    ).lines
    (shipped,) = verify_recipe(recipe("nepa-ecg-small"), [table.parameters]).lines
    assert changed.verdict == shipped.verdict == "holds"
    assert "encoder, published" in shipped.numbers and "encoder, published" not in changed.numbers


def test_quiet_prints_nothing(toy_claims: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(RECIPE, parity=PARITY, quiet=True).holds
    assert capsys.readouterr().out == ""


# What is refused


def test_what_is_no_recipe_and_no_run_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="did you mean 'nepa-ecg-small'"):
        verify("nepa-ecg-smal")
    with pytest.raises(LatentcastError, match="neither a recipe nor a run folder"):
        verify(tmp_path)
    with pytest.raises(LatentcastError, match="nothing to compare"):
        command()
    with pytest.raises(LatentcastError, match="measures nothing"):
        verify(RECIPE, seeds=0)


def test_bad_files_are_errors_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentcastError, match="file: cannot be written"):
        verify(RECIPE, out=tmp_path / "file")
    with pytest.raises(LatentcastError, match="gone: cannot be read"):
        verify(RECIPE, parity=tmp_path / "gone")
    with pytest.raises(LatentcastError, match=r"gone\.yaml: does not exist"):
        verify(RECIPE, config=tmp_path / "gone.yaml")
    assert "claims hold" not in capsys.readouterr().out


def test_an_argument_that_nothing_here_would_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="--data gone: names a run folder's store, and"):
        verify(RECIPE, data="gone")
    with pytest.raises(LatentcastError, match="--seeds 3: repeats the claims of a recipe"):
        verify(parity=PARITY, seeds=3)
    with pytest.raises(LatentcastError, match=r"--set a\.b=1: changes a recipe, and there is none"):
        verify(parity=PARITY, set=["a.b=1"])
    with pytest.raises(LatentcastError, match="--replay 5: trains a run again"):
        verify(RECIPE, replay=5.0)
    with pytest.raises(LatentcastError, match="--replay -1: is no time"):
        verify(RECIPE, replay=-1.0)


def test_a_store_that_is_none_is_an_error_before_a_run_is_audited(tmp_path: Path) -> None:
    for part in ("config.yaml", "metrics.jsonl"):
        (tmp_path / part).write_text("")
    with pytest.raises(LatentcastError, match=r"gone: does not exist"):
        verify(tmp_path, data=tmp_path / "gone")


def test_parameters_of_the_published_tables() -> None:
    """Student and average; nothing is allocated."""
    assert suite.parameters(recipe("nepa-ecg-small")) == 2 * 14_318_592
