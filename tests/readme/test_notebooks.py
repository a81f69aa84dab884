"""Each notebook runs from beginning to end, as it stands."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_cell_of_a_notebook_fails(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a temporary folder lies, a notebook may write; and where the repository is, it looks up.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(file.parent))
    assert not list(file.parent.glob(".ipynb_checkpoints"))


def test_outputs_of_a_notebook_are_kept() -> None:
    cells = [cell for file in NOTEBOOKS for cell in nbformat.read(file, as_version=4).cells]
    assert len(NOTEBOOKS) == 3
    assert not [cell for cell in cells if cell.cell_type == "code" and cell.outputs]
