"""A reader who types what an error says gets rid of it."""

from __future__ import annotations

from pathlib import Path

import fixes_of_configurations  # noqa: F401
import fixes_of_ingest  # noqa: F401
import fixes_of_stores  # noqa: F401
import fixes_of_training  # noqa: F401
import pytest
from messages import messages
from terminal import FIXES, Fix, Material, Terminal


@pytest.fixture(scope="session")
def material(
    small_store: Path, digits_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Material:
    return Material(tmp_path_factory.mktemp("material"), small_store, digits_store)


@pytest.mark.parametrize("fix", FIXES, ids=lambda fix: f"{fix.file}: {fix.starts[-1]}")
def test_the_fix_that_a_message_names_works_when_it_is_typed(
    fix: Fix, material: Material, tmp_path: Path
) -> None:
    terminal = Terminal(fix.messages, material, tmp_path, set(fix.messages))
    fix.follow(terminal)
    assert not terminal.unseen, "a message of this fix was not printed"
    assert terminal.worked, "nothing that was printed has been typed and worked"


def test_every_message_that_names_what_to_type_has_a_fix() -> None:
    followed = {message for fix in FIXES for message in fix.messages}
    missing = [m for m in messages() if m.advice and m not in followed]
    assert not missing, "\n".join(f"{m.file}: {m.text}" for m in missing)
