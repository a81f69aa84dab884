"""Claims measured over seeds, reports that say what broke, exit statuses that can be trusted."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from conftest import REPOSITORY
from latentcast.cli.verification import verify
from latentcast.errors import LatentcastError
from latentcast.recipes import recipe
from latentcast.verification import claims, suite
from latentcast.verification.claim import Claim, Evidence
from latentcast.verification.observe.twin import Subject
from latentcast.verification.report.lines import Line, Report, Section
from latentcast.verification.suite import verify_recipe
from verification import toys

PARITY = REPOSITORY / "tests" / "parity" / "nepa_ecg.safetensors"
RECIPE = "nepa-image-tiny"


@pytest.fixture(autouse=True)
def _nothing_is_broken() -> None:
    toys.broken.clear()


@pytest.fixture
def toy_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "all_claims", lambda: toys.CLAIMS)


def test_claims_that_do_not_concern_a_recipe_are_left_out() -> None:
    section = verify_recipe(recipe(RECIPE), toys.CLAIMS)
    assert [line.id for line in section.lines] == ["loss.formula", "data.batch", "toy.wanted"]
    assert section.holds and section.summary == "3 of 3 claims hold"
    others = verify_recipe(recipe("ijepa-image-digits"), toys.CLAIMS)
    assert [line.id for line in others.lines] == ["data.batch", "toy.wanted"]


def test_a_claim_broken_with_one_seed_is_broken_and_says_with_which() -> None:
    def odd(subject: Subject) -> Evidence:
        return Evidence(subject.seed != 1, {"measured": subject.seed})

    claim = Claim("toy.odd", "It is even.", "this test", odd)
    section = verify_recipe(recipe(RECIPE), [claim], seeds=3)
    assert not section.holds and section.count("broken") == 1
    assert section.lines[0].numbers == {"measured": 1, "seeds": "broken with 1 of 3"}
    assert verify_recipe(recipe(RECIPE), [claim]).holds


def test_a_library_that_cannot_build_its_twin_breaks_every_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*given: object) -> None:
        raise RuntimeError("the loader is broken")

    monkeypatch.setattr("latentcast.verification.matrix.Subject", fails)
    section = verify_recipe(recipe(RECIPE), toys.CLAIMS[:2])
    assert not section.holds and section.count("broken") == 2
    assert "the loader is broken" in section.lines[0].told()


def test_subjects_leave_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verify_recipe(recipe(RECIPE), toys.CLAIMS, (toys.SIGN, toys.CRASH), seeds=2)
    assert list(tmp_path.iterdir()) == []


def test_nothing_measured_is_not_green() -> None:
    empty = Section("x", "run", (Line("run.a", "", "", "not measured", {"reason": "no store"}),))
    assert not empty.holds and not Report((empty,), {}).holds
    assert "Not proven: x" in Report((empty,), {}).verdict


def test_exit_status_and_report_of_a_recipe(
    toy_catalogue: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify((RECIPE,), out=tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert "nepa-image-tiny: 3 of 3 claims hold" in told
    assert "Every claim holds: 3 measured" in told
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"report.html", "report.md", "report.json", "badge.svg"}


def test_broken_claim_is_named_with_its_number_and_the_status_is_one(
    toy_catalogue: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with toys.SIGN.inject():
        assert verify((RECIPE,)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "loss.formula is broken: The loss is the paper's <formula>." in told
    assert re.search(r"measured -?[\d.]+, expected -?[\d.]+", told)
    assert "Broken: loss.formula" in told


def test_recipes_runs_and_parity_are_sections_of_one_report(
    toy_catalogue: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"  # damaged: no rows, no checkpoint
    run.mkdir()
    (run / "config.yaml").write_text(recipe(RECIPE).to_yaml())
    (run / "environment.json").write_text('{"data": {"store": "gone", "sha256": {}}}')
    assert verify((RECIPE, str(run)), parity=(PARITY,), out=tmp_path / "out") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [part["kind"] for part in report["sections"]] == ["recipe", "run", "parity"]
    assert [part["holds"] for part in report["sections"]] == [True, False, True]
    assert len(report["sections"][2]["claims"]) == 62


def test_what_is_no_recipe_and_no_run_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="did you mean 'nepa-ecg-small'"):
        verify(("nepa-ecg-smal",))
    with pytest.raises(LatentcastError, match="neither a recipe nor a run folder"):
        verify((str(tmp_path),))
    with pytest.raises(LatentcastError, match="nothing to compare"):
        verify()
    with pytest.raises(LatentcastError, match="measures nothing"):
        verify((RECIPE,), seeds=0)


def test_bad_files_are_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatentcastError, match="file: cannot be written"):
        verify((RECIPE,), out=tmp_path / "file")
    with pytest.raises(LatentcastError, match="gone: cannot be read"):
        verify((RECIPE,), parity=(tmp_path / "gone",))
    assert "claims hold" not in capsys.readouterr().out


def test_a_flag_that_nothing_here_would_read_is_refused() -> None:
    with pytest.raises(LatentcastError, match="--data gone: names a run folder's store, and"):
        verify((RECIPE,), data=Path("gone"))
    with pytest.raises(LatentcastError, match="--seeds 3: repeats the claims of a recipe"):
        verify(parity=(PARITY,), seeds=3)
    with pytest.raises(LatentcastError, match="--replay 5: trains a run again"):
        verify((RECIPE,), replay=5.0)
    with pytest.raises(LatentcastError, match="--replay -1: is no time"):
        verify((RECIPE,), replay=-1.0)


def test_a_store_that_is_none_is_told_before_a_run_is_audited(tmp_path: Path) -> None:
    for part in ("config.yaml", "metrics.jsonl"):
        (tmp_path / part).write_text("")
    with pytest.raises(LatentcastError, match=r"gone.*manifest\.json"):
        verify((str(tmp_path),), data=tmp_path / "gone")


def test_parameters_of_the_published_tables() -> None:
    """Student and average; nothing is allocated."""
    assert suite.parameters(recipe("nepa-ecg-small")) == 2 * 14_318_592


def test_claims_have_names_of_their_own() -> None:
    every = claims.all_claims()
    assert len({claim.id for claim in every}) == len(every)
    for claim in every:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\.[a-z0-9]+(-[a-z0-9]+)*", claim.id), claim.id
        assert claim.sentence.endswith(".") and claim.source, claim.id


def test_every_file_of_claims_is_reported() -> None:
    reported = {claim.id for claim in claims.all_claims()}
    for file in Path(str(claims.__file__)).parent.glob("[a-z]*.py"):
        held = getattr(import_module(f"{claims.__name__}.{file.stem}"), "CLAIMS", ())
        assert {claim.id for claim in held} <= reported, file.name
