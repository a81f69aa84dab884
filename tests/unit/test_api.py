"""The names of the library: all there, in every way of importing them, and without waiting."""

from __future__ import annotations

import inspect
import pydoc
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType

import numpy as np
import pytest

import latentcast as lc
from conftest import WFDB
from latentcast.signals.synthetic import synthetic_recording

NAMES = (
    "ingest", "open_store", "Store", "recipe", "train", "probe", "evaluate", "verify", "Encoder",
    "read_recording", "Config", "Recording", "LatentcastError", "write_store",
    "label", "finetune", "Classifier",
)  # fmt: skip


def test_every_promised_name_is_listed() -> None:
    assert sorted(lc.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(lc))


def test_a_mistyped_name_is_answered_with_nothing_and_the_version_is_missing() -> None:
    assert lc.__version__ == metadata.version("latentcast")
    with pytest.raises(AttributeError, match="no attribute 'ingets'; did you mean 'ingest'?"):
        lc.ingets  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_function_or_class_with_a_docstring_however_it_is_imported(name: str) -> None:
    first = getattr(lc, name)
    home = import_module(first.__module__)
    namespace: dict[str, object] = {}
    exec(f"from latentcast import {name}", namespace)
    assert first is namespace[name] is getattr(lc, name) is getattr(home, name)
    assert callable(first) and not isinstance(first, ModuleType)
    assert inspect.getdoc(first)


def test_importing_any_module_of_the_library_changes_none_of_its_names() -> None:
    before = {name: getattr(lc, name) for name in lc.__all__}
    modules = {m.name for m in walk_packages(lc.__path__, "latentcast.")} - {"latentcast.__main__"}
    assert "latentcast.workflows.train" in modules  # the name of a function, one folder up
    for module in modules:
        import_module(module)
    for name, first in before.items():
        namespace: dict[str, object] = {}
        exec(f"import latentcast\nfrom latentcast import {name}", namespace)
        assert first is namespace[name] is getattr(lc, name)
        assert f"latentcast.{name}" not in modules


def test_every_name_can_be_called_twice(small_store: Path, small_run: Path, tmp_path: Path) -> None:
    config = lc.Config.model_validate(lc.recipe("nepa-ecg-tiny").model_dump())
    short = ["train.steps=1", "optimizer.warmup_steps=1", "train.batch_size=4", "encoder.depth=1"]
    record = WFDB / "records100" / "00000" / "00001_lr"
    axes = {"sampling_rate": 100, "leads": ["I", "II"], "quiet": True}
    signals = [synthetic_recording(60 + n, 100, 4).signal[:2] for n in range(20)]
    table, labelled = tmp_path / "x.csv", shutil.copytree(small_store, tmp_path / "labelled")
    split, labelled_store = ("train", "validation", "test"), lc.Store.open(labelled)
    patients = sorted({*labelled_store.patient_ids.tolist()})
    place = [patients.index(patient) for patient in labelled_store.patient_ids.tolist()]
    rows = [f"{name},{n // 3 % 2},{split[n % 3]}"
            for name, n in zip(labelled_store.record_ids, place, strict=True)]  # fmt: skip
    table.write_text("\n".join(["id,x,split", *rows]))
    lc.label(lc.open_store(labelled), table)
    tuned = tmp_path / "tuned"
    calls: dict[str, Callable[[], object]] = {
        "ingest": lambda: lc.ingest(WFDB, tmp_path / "store", fs=100, quiet=True).records,
        "open_store": lambda: lc.open_store(small_store).checksums,
        "Store": lambda: lc.Store.open(small_store).checksums,
        "write_store": lambda: lc.write_store(tmp_path / "two", signals=signals, **axes).records,
        "recipe": lambda: lc.recipe("nepa-ecg-tiny"),
        "Config": lambda: lc.Config.model_validate(config.model_dump()),
        "train": lambda: (
            lc.train("nepa-ecg-tiny", small_store, tmp_path / "run", set=short, quiet=True).step
        ),
        "probe": lambda: lc.probe(small_run, task="labels").rows[0].layer,
        "evaluate": lambda: lc.evaluate([small_run], task="labels").rows[0].layers,
        "verify": lambda: lc.verify(small_run, replay=0, quiet=True).holds,
        "Encoder": lambda: lc.Encoder.from_pretrained(small_run).embed(str(record)).tolist(),
        "read_recording": lambda: lc.read_recording(record).signal.tolist(),
        "Recording": lambda: lc.Recording(np.zeros((1, 9), np.float32), ("I",), 100.0,
                                          np.ones((1, 9), np.bool_), "a").seconds,
        "label": lambda: lc.label(lc.open_store(labelled), table).lines,
        "finetune": lambda: str(
            lc.finetune(small_run, labelled, tuned, "x", epochs=1, quiet=True,
                        allow_leaks=True).score
        ),
        "Classifier": lambda: (
            lc.Classifier.from_pretrained(tuned).predict(record).values.tolist()
        ),
        "LatentcastError": lambda: str(lc.LatentcastError("it: is wrong; do this")),
    }  # fmt: skip
    assert calls.keys() == set(lc.__all__)
    for name, call in calls.items():
        assert call() == call(), name


def test_help_shows_every_name() -> None:
    page = pydoc.plain(pydoc.render_doc(lc))
    assert all(f" {name}" in page for name in NAMES) and "lc.train(" in page
    assert all(f"``{name}``" in page.partition("PACKAGE CONTENTS")[0] for name in NAMES)
    assert [name for name in dir(lc) if not name.startswith("__")] == sorted(NAMES)


def test_a_notebook_shows_a_line_or_a_table_in_which_text_from_data_is_text(
    small_store: Path, small_run: Path
) -> None:
    store = lc.open_store(small_store)
    encoder = lc.Encoder.from_pretrained(small_run)
    recording = replace(store.recording(0), record_id="<b>\x1b[31m")
    assert len(store) == 20
    for shown, words in (
        (store, "20 recordings, 12 leads at 100 Hz, train 14"),
        (encoder, "nepa-ecg-tiny, teacher, step 12, 12 leads at 100 Hz, windows of 4 s"),
        (recording, "12 leads, 10 s at 100 Hz, 100.0% valid, patient '15709'"),
    ):
        assert words in repr(shown) and len(repr(shown)) < 300 and "\x1b" not in repr(shown)
        page = shown._repr_html_()
        assert page.startswith("<table>") and "<b>" not in page and "\x1b" not in page
        assert "aVR" in page or "block 2" in page or "NORM 16" in page


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'pretrain'"):
        _ = lc.pretrain


def test_importing_the_library_imports_no_torch() -> None:
    code = (
        "import sys, latentcast; dir(latentcast);"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_keys_are_set_in_a_call_as_on_the_command_line(small_store: Path, tmp_path: Path) -> None:
    keys = ["train.steps=1", "optimizer.warmup_steps=1", "train.batch_size=4", "encoder.depth=1"]
    run = tmp_path / "run"
    result = lc.train("nepa-ecg-tiny", small_store, run, set=keys, quiet=True)
    assert repr(result) == f"TrainResult('{run}': nepa-ecg-tiny, step 1 of 1)"
    assert "depth: 1\n" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(lc.LatentcastError, match="did you mean 'depth'"):
        lc.train("nepa-ecg-tiny", small_store, tmp_path / "other", set=["encoder.deep=1"])
    assert not (tmp_path / "other").exists()
