"""The names of the library: all there, in every way of importing them, and without waiting."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import latentcast as lc

NAMES = (
    "ingest", "open_store", "Store", "recipe", "train", "probe", "verify", "Encoder",
    "read_recording", "Config", "Recording", "LatentcastError", "write_store",
)  # fmt: skip


def test_every_promised_name_is_listed() -> None:
    assert sorted(lc.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(lc))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_function_or_class_with_a_docstring_however_it_is_imported(name: str) -> None:
    first = getattr(lc, name)
    home = import_module(first.__module__)
    namespace: dict[str, object] = {}
    exec(f"from latentcast import {name}", namespace)
    assert first is namespace[name] is getattr(lc, name) is getattr(home, name)
    assert callable(first) and not isinstance(first, ModuleType)
    assert inspect.getdoc(first)


def test_help_shows_every_name() -> None:
    page = pydoc.plain(pydoc.render_doc(lc))
    assert all(f" {name}" in page for name in NAMES) and "lc.train(" in page


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
    lc.train("nepa-ecg-tiny", small_store, tmp_path / "run", set=keys, quiet=True)
    assert "depth: 1\n" in (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(lc.LatentcastError, match="did you mean 'depth'"):
        lc.train("nepa-ecg-tiny", small_store, tmp_path / "other", set=["encoder.deep=1"])
    assert not (tmp_path / "other").exists()
