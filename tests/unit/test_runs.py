"""Run folders listed and compared: what the files say, and a row for those that say nothing."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from latentcast import cli
from latentcast.config import Config
from latentcast.config.resolve import leaves
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation.estimate import Estimate, Score
from latentcast.evaluation.results import OWN, Difference, ProbeReport, Row
from latentcast.monitors.journal import TIMINGS, read_metrics
from latentcast.runs import (
    as_json,
    compare,
    find,
    in_order,
    list_runs,
    print_comparison,
    print_runs,
    summarise,
)
from latentcast.runs.new import alone_in
from latentcast.terminal import Terminal
from latentcast.workflows.train import train

LONG_AGO = 10_000_000.0


def write_run(
    path: Path,
    config: Config,
    *,
    rows: int = 3,
    checkpoint: int | None = None,
    **row: Any,
) -> Path:
    """A run folder as training leaves it, without the tensors, last written long ago."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config.to_yaml())
    (path / "environment.json").write_text('{"latentcast": "0.1.0"}')
    lines = [
        json.dumps(
            {"step": step, "loss": 1.0 / step, "level0_output_rank": 20.0 + step,
             "alarms": [], "skipped": 0, "samples_per_second": 100.0 * step,
             "seconds": 10.0 * step} | row
        )
        for step in range(1, rows + 1)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    if checkpoint is not None:
        folder = path / "checkpoints" / f"step-{checkpoint:08d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": checkpoint, "skipped": 0}))
    written(path, LONG_AGO)
    return path


def written(path: Path, when: float) -> None:
    for part in [*path.iterdir(), path]:
        os.utime(part, (when, when))


def write_probe(path: Path, value: float, shards: str = "a", head: str = "linear") -> None:
    row = Row("pretrained", head, OWN, "norm", "mean", 1.0, value - 0.1, Score(around(value)))
    gap = Difference("pretrained", "pixels", head, OWN, Estimate(-0.02, -0.1, 0.1))
    ProbeReport(
        protocol="", task="classes", kind="multi-class", modality="image", metric="accuracy",
        records={}, records_without_target={}, records_without_token={}, labels=(), floors={},
        lower_is_better=(), compared=0, rows=(row,), differences=(gap,), leaks=(),
        data={"shards": {"0": shards}},
        bootstrap={}, windows="strided", provenance={"weights": "step 3"},
    ).write(path)  # fmt: skip


def made_endless(file: Path) -> None:
    """A device; this one ends, so that the test does without the check."""
    file.unlink()
    file.symlink_to(os.devnull)


def around(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01)


def quiet(width: int = 200) -> Terminal:
    """A terminal of this width whose text can be read afterwards."""
    return Terminal(width=width, record=True, file=io.StringIO())


def shown(runs: Any, width: int = 200, now: float = LONG_AGO) -> str:
    console = quiet(width)
    print_runs(runs, console, now=now)
    return console.export_text()


def test_a_real_run_is_listed_as_done_with_what_its_log_says(
    small_store: Path, small_config: Config, tmp_path: Path
) -> None:
    config = small_config.updated({"train.steps": 4, "optimizer.warmup_steps": 2})
    train(config, small_store, tmp_path / "run")
    (run,) = list_runs([tmp_path])
    last = read_metrics(tmp_path / "run")[-1]
    assert (run.name, run.recipe, run.objective) == ("run", "nepa-ecg-tiny", "nepa")
    assert (run.state, run.step, run.steps, run.checkpoint) == ("done", 4, 4, 4)
    assert run.loss == last["loss"] and run.ranks == (last["level0_output_rank"],)
    assert run.alarms_now == tuple(last["alarms"]) and run.skipped == last["skipped"]
    assert run.problems == () and run.bytes > 10_000 and run.best is None
    assert abs(run.written - (tmp_path / "run" / "metrics.jsonl").stat().st_mtime) < 60
    text = shown([run], now=run.written + 7200)
    assert "4/4" in text and "2 h" in text and "done" in text


def test_the_configuration_of_a_run_reproduces_it_to_the_last_bit(
    small_store: Path, small_hierarchy: Config, tmp_path: Path
) -> None:
    """Through the command itself: a file that leaves out a key would give another run."""
    config = small_hierarchy.updated({"train.steps": 6, "train.seed": 5})
    train(config, small_store, tmp_path / "a")
    again = tmp_path / "a" / "config.yaml"
    assert cli.train(None, data=small_store, out=tmp_path / "b", config=again) == 0
    a, b = (
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(tmp_path / n)]
        for n in "ab"
    )
    assert a == b and len(a) == 6
    newest = [checkpoint.latest(tmp_path / n / "checkpoints") for n in "ab"]
    for kind in ("model", "optimizer"):
        one, other = (checkpoint.read_tensors(path, kind) for path in newest)
        assert one.keys() == other.keys() and len(one) > 10
        assert all(torch.equal(one[name], other[name]) for name in one)
    configs = [(tmp_path / n / "config.yaml").read_text() for n in "ab"]
    assert configs[0] == configs[1]
    assert compare(list_runs([tmp_path])).configuration == {}


@pytest.mark.parametrize(
    ("saved", "age", "state"),
    [
        (12, 5, "done"),
        (3, 5, "running?"),
        (None, 5, "running?"),
        (3, 121, "stopped"),
        (12, 999, "done"),
    ],
)
def test_only_what_the_files_can_tell_is_said_of_a_run(
    saved: int | None, age: int, state: str, small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config, checkpoint=saved)
    assert summarise(run, now=LONG_AGO + age).state == state


HOLDS = """import sys
from filelock import lock_descriptor
file = open(sys.argv[1], "a")
lock_descriptor(file.fileno())
print(flush=True)
sys.stdin.read()
"""


def test_the_lock_says_whether_a_training_is_alive(small_config: Config, tmp_path: Path) -> None:
    """A run that was stopped was "running?" for two minutes, and a silent one "stopped"."""
    run = write_run(tmp_path / "run", small_config)
    with alone_in(run):
        assert summarise(run, now=LONG_AGO + 999).state == "running?"
    assert summarise(run, now=LONG_AGO + 5).state == "stopped"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, run / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline()
    assert summarise(run, now=LONG_AGO + 999).state == "running?"
    holder.communicate()
    assert summarise(run, now=LONG_AGO + 5).state == "stopped"


def test_a_run_that_was_stopped_before_its_first_step_is_not_damaged(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config, rows=0, checkpoint=0)
    assert summarise(run).problems == ()
    (run / "environment.json").unlink()
    assert "stopped !" in (text := shown([summarise(run)])) and "! run: environment.json" in text


def test_a_last_row_without_its_checkpoint_is_not_the_end(
    small_config: Config, tmp_path: Path
) -> None:
    """A kill between the two: the run would do some steps again."""
    found = summarise(write_run(tmp_path / "run", small_config, rows=12, checkpoint=10))
    assert (found.state, found.step, found.checkpoint) == ("stopped", 12, 10)


def test_rows_after_a_torn_line_are_not_trusted(small_config: Config, tmp_path: Path) -> None:
    """A resumed run drops them too."""
    run = write_run(tmp_path / "run", small_config)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 9}\n')
    assert summarise(run).step == 1 and len(read_metrics(run)) == 1


def test_a_run_of_long_steps_is_not_called_stopped_between_two_rows(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config, rows=2)
    lines = [json.dumps({"step": s, "seconds": 400.0 * s}) for s in (1, 2)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    written(run, LONG_AGO)
    assert summarise(run, now=LONG_AGO + 1100).state == "running?"
    assert summarise(run, now=LONG_AGO + 1300).state == "stopped"


def test_a_later_probe_does_not_make_a_stopped_run_look_alive(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config)
    write_probe(run, 0.9)
    assert summarise(run, now=LONG_AGO + 1000).state == "stopped"


@pytest.mark.parametrize(
    ("spoil", "words", "state"),
    [
        (lambda run: (run / "config.yaml").unlink(), "config.yaml: does not exist", "damaged"),
        (lambda run: (run / "config.yaml").write_text("{"), "not valid YAML", "damaged"),
        (lambda run: (run / "config.yaml").write_text(""), "no mapping of keys", "damaged"),
        (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\xff"), "config.yaml", "damaged"),
        (lambda run: (run / "environment.json").unlink(), "environment.json: does not", "stopped"),
        (lambda run: (run / "environment.json").write_text("[1]"), "no JSON object", "stopped"),
        (lambda run: (run / "metrics.jsonl").write_text('x\n{"step": 2}\n'), "line 1", "stopped"),
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1}\n[]\n'), "line 2", "stopped"),
        (lambda run: (run / "metrics.jsonl").write_text('{"loss": 1}\n'), "line 1", "stopped"),
        (lambda run: (run / "metrics.jsonl").unlink(), "has no row and there are", "stopped"),
        (lambda run: made_endless(run / "metrics.jsonl"), "is no regular file", "stopped"),
        (lambda run: made_endless(run / "environment.json"), "is no regular file", "stopped"),
        (lambda run: made_endless(run / "config.yaml"), "is no regular file", "damaged"),
        (lambda run: next(run.glob("checkpoints/*/state.json")).unlink(),
         "step-00000003/state.json: does not exist", "stopped"),
        (lambda run: (run / "checkpoints" / "step-x").mkdir(), "step-x/", "stopped"),
        (lambda run: (run / "probe-form.json").write_text('{"rows": []}'),
         "probe-form.json: another version", "stopped"),
        (lambda run: (run / "probe-form.json").write_text("{"), "form.json: cannot", "stopped"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_a_row_that_says_what_is_wrong(
    spoil: Any, words: str, state: str, small_config: Config, tmp_path: Path
) -> None:
    write_run(tmp_path / "good", small_config, checkpoint=12)
    spoil(write_run(tmp_path / "bad", small_config, checkpoint=3))
    written(tmp_path / "bad", LONG_AGO)
    bad, good = in_order(list_runs([tmp_path]), "name")
    assert words in " ".join(bad.problems) and bad.state == state
    assert good.problems == () and good.state == "done"
    text = shown([bad, good])
    assert f"bad: {bad.problems[0]}" in " ".join(text.split("\n")) and state in text
    json.loads(as_json([bad, good], compare([bad, good])))
    print_comparison(compare([bad, good]), quiet())


def test_a_last_line_that_a_kill_cut_is_no_damage(small_config: Config, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small_config)
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    found = summarise(run)
    assert found.step == 3 and found.problems == ()


def test_a_run_of_an_older_version_is_listed_with_what_can_be_read(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config, checkpoint=12)
    text = (run / "config.yaml").read_text().replace("train:\n", "train:\n  device: auto\n")
    (run / "config.yaml").write_text(text)
    found = summarise(run)
    assert (found.recipe, found.objective, found.steps) == ("nepa-ecg-tiny", "nepa", 12)
    assert found.state == "done" and "train.device is an unknown key" in found.problems[0]


def test_what_is_not_finite_is_a_dash_and_valid_json(small_config: Config, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", small_config, loss=None, level0_output_rank=float("nan"))
    found = summarise(run)
    assert found.loss is None and found.ranks == ()
    assert "NaN" not in as_json([found, found], compare([found, found]))
    assert json.loads(as_json([found]))["runs"][0]["loss"] is None


def test_runs_are_found_at_any_depth_once_and_not_inside_each_other(
    small_config: Config, tmp_path: Path
) -> None:
    for name in ("a", "deep/er/b", "deep/c"):
        write_run(tmp_path / name, small_config, checkpoint=3)
    write_run(tmp_path / "a" / "inside", small_config)
    write_run(tmp_path / ".trash" / "d", small_config)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("not: a run")  # alone it is nobody's
    assert [run.name for run in list_runs([tmp_path])] == ["a", "deep/c", "deep/er/b"]
    assert [run.name for run in list_runs([tmp_path / "a"])] == ["a"]
    twice = list_runs([tmp_path / "deep", tmp_path / "a", tmp_path])
    assert len(twice) == 3 and len({run.name for run in twice}) == 3
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "linked").symlink_to(tmp_path / "deep" / "c")
    assert [path.name for path in find(elsewhere)] == ["linked"]


def test_no_run_and_no_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="no run below; a run is a folder that"):
        list_runs([tmp_path])
    with pytest.raises(LatentcastError, match="nowhere: is no folder"):
        list_runs([tmp_path / "nowhere"])


def test_the_order_is_the_columns_and_runs_without_a_number_come_last(
    small_config: Config, tmp_path: Path
) -> None:
    write_probe(write_run(tmp_path / "b", small_config, loss=0.3), 0.8)
    write_probe(write_run(tmp_path / "a", small_config, loss=0.5, rows=5), 0.9)
    write_run(tmp_path / "c", small_config, loss=None, rows=4, level0_output_rank=99.0)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "config.yaml").write_text("{")
    (tmp_path / "d" / "environment.json").write_text("{")
    runs = list_runs([tmp_path])
    expected = {"name": "abcd", "loss": "bacd", "step": "acbd", "probe": "abcd", "rank": "cabd",
                "speed": "acbd", "state": "abcd", "age": "dabc"}  # fmt: skip
    for order, names in expected.items():
        assert "".join(run.name for run in in_order(runs, order)) == names, order  # type: ignore[arg-type]


def test_the_best_probe_is_chosen_on_validation_and_shown_with_its_test_value(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config)
    write_probe(run, 0.8)
    held = json.loads((run / "probe-classes.json").read_text())
    del held["sha256"]
    knn = json.loads(json.dumps(held["rows"][0]))
    knn |= {"head": "kNN", "validation": 0.95}
    knn["score"]["main"]["value"] = 0.5
    held["rows"].append(knn)
    held["rows"].append(knn | {"validation": 0.99, "choice": "another reading"})
    held["rows"].append(knn | {"name": "pixels", "validation": 0.999})
    (run / "probe-classes.json").write_text(json.dumps(held))
    best = summarise(run).best
    assert best is not None and (best.head, best.value, best.validation) == ("kNN", 0.5, 0.95)
    assert "0.500 classes, kNN" in shown([summarise(run)])


def test_a_narrow_terminal_loses_columns_and_no_digit(small_config: Config, tmp_path: Path) -> None:
    runs = [
        summarise(write_run(tmp_path / name, small_config, checkpoint=12, loss=-0.1234))
        for name in ("some-long-name-of-a-run", "b")
    ]
    for width in (200, 120, 80, 70):
        text = shown(runs, width)
        assert all(len(line) <= width for line in text.splitlines())
        for kept in ("-0.123", "12/12", "done", "some-long-name-of-a-run"):
            assert kept in text, width
        assert ("too narrow for" in text) == ("size" not in text.splitlines()[0])
    assert "wider window" in shown(runs, 80)


def test_markup_in_the_name_of_a_folder_is_no_markup(small_config: Config, tmp_path: Path) -> None:
    run = write_run(tmp_path / "[red]x", small_config)
    (run / "environment.json").unlink()
    other = write_run(tmp_path / "y", small_config)
    runs = [summarise(run), summarise(other)]
    assert shown(runs).count("[red]x") == 2
    console = quiet(200)
    print_comparison(compare(runs), console)
    assert "[red]x" in console.export_text()


def test_comparing_shows_each_key_that_differs_and_those_of_the_machine_apart(
    small_config: Config, small_hierarchy: Config, tmp_path: Path
) -> None:
    other = small_config.updated({"optimizer.lr": 0.5, "machine.workers": 2})
    write_run(tmp_path / "a", small_config)
    write_run(tmp_path / "b", other)
    write_run(tmp_path / "c", small_hierarchy, rows=2)
    a, b, c = in_order(list_runs([tmp_path]), "name")
    found = compare([a, b])
    assert found.configuration == {"optimizer.lr": (0.001, 0.5)}
    assert found.machine == {"machine.workers": (0, 2)} and found.notes == ()
    found = compare([a, b, c])
    # Every key that differs, and none that does not, by the two trees themselves.
    trees = [leaves(config.model_dump(mode="json")) for config in (small_config, small_hierarchy)]
    differing = {key for key in trees[0] | trees[1] if trees[0].get(key) != trees[1].get(key)}
    sections = {key for key in differing if any(k.startswith(key + ".") for k in differing)}
    assert set(found.configuration) == differing - sections | {"optimizer.lr"}
    assert found.configuration["objective.coarser.0.stride"] == (None, None, 4)
    assert "losses are not on one scale" in found.notes[0]
    assert found.notes[1] == "the runs are not at the same step"
    assert found.metrics["loss"] == (1 / 3, 1 / 3, 1 / 2)
    # Levels that only one of them has are told by their keys, not by an empty list as well.
    flat = {"objective.coarser": [], "objective.top_down": False, "objective.fusion": False}
    write_run(tmp_path / "d", small_hierarchy.updated(flat))
    told = compare([c, summarise(tmp_path / "d")]).configuration
    assert "objective.coarser" not in told
    assert told["objective.coarser.0.stride"] == (4, None)


def test_probes_are_compared_with_their_intervals_and_on_the_same_samples_only(
    small_config: Config, tmp_path: Path
) -> None:
    for name, shards in (("a", "x"), ("b", "x"), ("c", "y")):
        write_probe(write_run(tmp_path / name, small_config), 0.8, shards)
    write_probe(write_run(tmp_path / "d", small_config), 0.7, "x", head="kNN")
    write_run(tmp_path / "e", small_config)
    a, b, c, d, e = in_order(list_runs([tmp_path]), "name")
    assert compare([a, b]).notes == ()
    found = compare([a, c, d, e])
    assert "different samples" in found.notes[0]
    rows = {
        name: [score.value if score else None for score in row]
        for (name, head, _), row in found.scores.items()
        if head == "linear"
    }
    assert list(rows.values()) == [[0.8, None, None, None], [None, 0.8, None, None]]
    assert all(name.startswith("classes on samples ") for name in rows)
    console = quiet(200)
    print_comparison(found, console)
    text = console.export_text()
    assert "0.800 [0.790, 0.810]" in text and "0.700 [0.690, 0.710]" in text
    assert text.count("minus pixels") == 3 and "−0.020 [−0.100, +0.100]" in text


def test_probes_of_other_stores_and_heads_stand_side_by_side_and_the_same_again_replaces(
    small_config: Config, tmp_path: Path
) -> None:
    """The second probe of a run overwrote the first."""
    run = write_run(tmp_path / "run", small_config)
    for value, shards, head in ((0.8, "x", "linear"), (0.7, "y", "linear"), (0.6, "x", "kNN"),
                                (0.9, "x", "linear")):  # fmt: skip
        write_probe(run, value, shards, head)
    assert len(list(run.glob("probe-classes*.json"))) == 3
    assert sorted(score.value or 0 for score in summarise(run).scores) == [0.6, 0.7, 0.9]
    assert len({name for name, _, _ in compare([summarise(run)] * 2).scores}) == 2


def test_a_probe_that_was_edited_is_named_and_the_listing_goes_on(
    small_config: Config, tmp_path: Path
) -> None:
    for name in ("edited", "good"):
        write_probe(write_run(tmp_path / name, small_config), 0.8)
    file = tmp_path / "edited" / "probe-classes.json"
    file.write_text(file.read_text().replace("0.8,", "0.9,"))
    edited, good = in_order(list_runs([tmp_path]), "name")
    assert "probe-classes.json: was edited or damaged" in edited.problems[0]
    assert edited.best is None and good.best is not None
    write_probe(tmp_path / "edited", 0.8)  # the advice: probe again
    assert summarise(tmp_path / "edited").problems == ()


def test_six_runs_side_by_side_are_two_screens(
    small_config: Config, small_hierarchy: Config, tmp_path: Path
) -> None:
    """They were 567 lines; what one of them alone has is a sentence."""
    configs = [small_hierarchy, *(small_config.updated({"train.seed": n}) for n in range(5))]
    runs = [summarise(write_run(tmp_path / f"{n}", config)) for n, config in enumerate(configs)]
    console = quiet(100)
    print_comparison(compare(runs), console)
    text = console.export_text()
    assert text.count("\n") < 60 and "Set only in #1: " in text
    assert "objective.coarser (" in text and "train.seed" in text


def test_many_runs_stand_below_each_other_rather_than_in_broken_columns(
    small_config: Config, tmp_path: Path
) -> None:
    runs = []
    for n in range(7):
        config = small_config.updated({"train.seed": 1000 + n})
        runs.append(summarise(write_run(tmp_path / f"a-rather-long-name-{n}", config)))
    console = quiet(80)
    print_comparison(compare(runs), console)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    for n in range(7):
        assert f"a-rather-long-name-{n}" in text and str(1000 + n) in text


def test_a_look_now_and_then_is_compared_by_its_last_value(
    small_config: Config, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", small_config, rows=1)
    lines = [{"step": 1, "loss": 1.0, "online_knn": 0.25}, {"step": 2, "loss": None}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = compare([summarise(run), summarise(run)])
    assert found.metrics["online_knn"] == (0.25, 0.25) and found.metrics["loss"] == (None, None)


def test_one_run_is_nothing_to_compare(small_config: Config, tmp_path: Path) -> None:
    with pytest.raises(LatentcastError, match="run: is all there is; --compare needs two"):
        compare([summarise(write_run(tmp_path / "run", small_config))])


def test_a_checkpoint_that_goes_while_it_is_measured_is_no_error(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", small_config, checkpoint=3)
    walk = os.walk

    def walks(*given: Any, **more: Any) -> Any:
        for root, folders, files in walk(*given, **more):
            yield root, folders, [*files, "gone.safetensors"]

    monkeypatch.setattr(os, "walk", walks)
    assert summarise(run).bytes > 0
    shutil.rmtree(run)
    assert summarise(run).state == "damaged"


def test_listing_does_not_wait_for_torch() -> None:
    code = "import sys, latentcast.runs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
