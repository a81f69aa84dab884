"""latentcast watch: the faults of a training are named, and a right one is left as it is."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from other_trainings import BEGIN, TRAININGS
from trainings import FAULTS, VARIANTS, momentum, script

from latentcast.cli import main
from latentcast.errors import LatentcastError
from latentcast.verification.foreign import Watch
from latentcast.verification.foreign import watched as watching
from latentcast.verification.foreign.fixture import Watched, watched_fixture
from latentcast.verification.foreign.script import watch

__all__ = ["watched_fixture"]


def run(source: str, **options: Any) -> Watch:
    with watching(momentum=momentum, total=200, **options) as watch:
        exec(compile(source, "training", "exec"), {"__name__": "__main__"})
    return watch


@pytest.fixture(autouse=True, scope="module")
def objects_of_other_tests() -> Iterator[None]:
    """Out of sight of a search through memory, which took most of a minute of them."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def on_ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Watch]:
    """Runs a training as rank 1, where it has ranks, and then as rank 0, which reports."""

    def run_all(source: str) -> Watch:
        if "RANK" not in source:
            return run(source)
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        run(source)
        monkeypatch.setenv("RANK", "0")
        return run(source)

    return run_all


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_a_training_is_named(name: str, on_ranks: Callable[[str], Watch]) -> None:
    fault = FAULTS[name]
    found = on_ranks(script(fault.variant, fault.edits)).verified
    assert fault.line in found.broken, str(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_right_training_is_left_alone(variant: str, on_ranks: Callable[[str], Watch]) -> None:
    watch = on_ranks(script(variant))
    assert watch.holds, str(watch.verified)
    assert not watch.session.failures
    assert any(line.id == "ema.formula" for line in watch.lines)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_right_training_that_is_written_differently_is_left_alone(name: str) -> None:
    with watching(total=200) as watch:
        exec(compile(BEGIN + TRAININGS[name], "training", "exec"), {"__name__": "__main__"})
    assert watch.holds, str(watch.verified)
    assert not watch.session.failures


def weights_after(source: str, **options: Any) -> list[torch.Tensor]:
    names: dict[str, Any] = {"__name__": "__main__"}
    with watching(**options) if options else contextlib.nullcontext():
        exec(compile(source, "training", "exec"), names)
    return [*names["student"].state_dict().values(), *names["teacher"].state_dict().values()]


def test_tensors_of_a_compiler_do_not_end_the_search_for_averages() -> None:
    traced = torch.export.export(
        torch.nn.Linear(3, 2), (torch.ones(4, 3),),
        dynamic_shapes={"input": {0: torch.export.Dim("batch")}},
    )  # fmt: skip
    fake = [node.meta["val"] for node in traced.graph.nodes if "val" in node.meta]
    fake += [value for value in fake if value.dim() == 2]
    lists = [fake[-2:], {"a": fake[-1], "b": fake[-2]}]  # shapes that cannot be hashed
    watch = run(script("plain"))
    assert watch.holds and not watch.session.failures and lists


@pytest.mark.parametrize("variant", ["plain", "closure"])
def test_a_training_computes_the_same_bits_when_it_is_watched(variant: str) -> None:
    alone = weights_after(script(variant))
    assert all(map(torch.equal, alone, weights_after(script(variant), steps=4)))


def test_a_script_is_run_as_it_stands(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output, its files and its status are its own; the report is beside them."""
    (tmp_path / "beside.py").write_text("WORD = 'imported'\n")
    ending = """
import sys, beside
print(beside.WORD, sys.argv[1:], __name__)
open("file", "w").write("written")
sys.exit(int(sys.argv[2]))
"""
    (tmp_path / "train.py").write_text(script("plain") + ending)
    monkeypatch.chdir(tmp_path)
    statuses = []
    for mode, status in ((["train.py"], "0"), (["-m", "train"], "3")):
        monkeypatch.setattr("sys.argv", ["latentcast", "watch", "--steps", "3", "--out", "out",
                                         *mode, "--steps", status, "--out=x"])  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main()
        statuses.append(ended.value.code)
        printed = capfd.readouterr()
        assert printed.out == f"imported ['--steps', '{status}', '--out=x'] __main__\n"
        assert "Every claim holds" in printed.err
        assert (tmp_path / "file").read_text() == "written"
    assert statuses == [0, 3]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sections"][0]["facts"]["optimizer steps"] == 3
    assert (tmp_path / "out" / "report.html").exists()


def test_a_script_can_be_stopped_and_one_without_steps_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / "train.py"
    train.write_text(script("plain") + "\nprint('went on')\n")
    assert watch(str(train), steps=2, stop=True) == 0
    assert "went on" not in capfd.readouterr().out
    train.write_text("print('no training')")
    with pytest.raises(LatentcastError, match="no torch optimizer took a step"):
        watch(str(train))


def test_the_fixture_fails_a_test_with_what_is_broken(watched: Watched) -> None:
    watched(lambda: exec(script("plain"), {"__name__": "__main__"}), steps=2)
    wrong = FAULTS["average before the step"]
    with pytest.raises(pytest.fail.Exception, match="BROKEN  ema.after-step"):
        watched(lambda: exec(script("plain", wrong.edits), {"__name__": "__main__"}), steps=3)
