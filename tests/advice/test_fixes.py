"""A reader who types what an error says gets rid of it.

``messages.py`` finds every string of the source that names something to type. The files
``fixes_of_*.py`` say for each how to run into it and what to type then; to add one, write::

    @fixes("data/fit.py", "{}: sampling_rate is")  # file, and how the message begins: {} for values
    def _(t: Terminal) -> None:
        flag = t.refused(train(t, "nepa-ecg-small", t.at.store)).typed("--fs .*")
        t.works(f"ingest {WFDB} --out {t.new()} {flag}")

``refused`` and ``works`` take a command line or a call; what is typed is found in the error by a
regular expression. ``terminal.py`` has them, the files that several fixes share (``t.at``) and
``setting(...)`` for a key of the configuration, which is one line.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import fixes_of_commands
import fixes_of_configurations
import fixes_of_conversion
import fixes_of_ecg_files
import fixes_of_embedding
import fixes_of_encoders
import fixes_of_evaluation
import fixes_of_first_use
import fixes_of_graphs
import fixes_of_images
import fixes_of_ingest
import fixes_of_labels
import fixes_of_messages
import fixes_of_reports
import fixes_of_runs
import fixes_of_serving
import fixes_of_stores
import fixes_of_training
import pytest
from messages import VERBS, Message, messages
from terminal import FIXES, Fix, Material, Terminal
from unfollowed import UNFOLLOWED, reason

from latentcast import cli
from latentcast.config import Config, tree
from latentcast.errors import LatentcastError
from latentcast.evaluation.baselines import RandomConvolutions
from latentcast.recipes import RECIPES, recipe

CATALOGUE = [
    fixes_of_commands, fixes_of_configurations, fixes_of_conversion, fixes_of_ecg_files,
    fixes_of_embedding, fixes_of_encoders, fixes_of_evaluation,
    fixes_of_first_use, fixes_of_graphs, fixes_of_images, fixes_of_ingest, fixes_of_labels,
    fixes_of_messages, fixes_of_reports, fixes_of_runs, fixes_of_serving,
    fixes_of_stores, fixes_of_training,
]  # fmt: skip


@pytest.fixture(scope="session")
def material(
    small_store: Path, digits_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Material:
    return Material(tmp_path_factory.mktemp("material"), small_store, digits_store)


@pytest.fixture(autouse=True)
def cheap_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A floor of 600 kernels is half of the time of a probe."""
    few = dict(RandomConvolutions.__init__.__kwdefaults__, kernels=30)
    monkeypatch.setattr(RandomConvolutions.__init__, "__kwdefaults__", few)


GRAPHS = "artifacts/graph/"
"""Graphs are traced, compiled and compared: a minute in all, in `make test-slow`."""


@pytest.mark.parametrize(
    "fix",
    [
        pytest.param(
            fix,
            marks=[pytest.mark.slow] if fix.file.startswith(GRAPHS) else [],
            id=f"{fix.file}: {fix.starts[-1]}",
        )
        for fix in FIXES
    ],
)
def test_the_fix_that_a_message_names_works_when_it_is_typed(
    fix: Fix, material: Material, tmp_path: Path
) -> None:
    terminal = Terminal(fix.messages, material, tmp_path, set(fix.messages))
    fix.follow(terminal)
    assert not terminal.unseen, "a message of this fix was not printed"
    assert terminal.worked, "nothing that was printed has been typed and worked"


def test_every_message_that_names_what_to_type_has_a_fix() -> None:
    followed = {message for fix in FIXES for message in fix.messages}
    named = [message for message in messages() if message.advice]
    missing = [m for m in named if m not in followed and reason(m) is None]
    assert not missing, "\n".join(f'@fixes("{m.file}", "{m.text}")' for m in missing)
    excused = {(file, start) for file, start in UNFOLLOWED for m in named
            if m.file == file and m.text.startswith(start) and m not in followed}  # fmt: skip
    assert excused == UNFOLLOWED.keys(), "a reason of a message that is gone, or is followed"


def test_no_message_names_a_flag_or_a_setting_that_does_not_exist() -> None:
    parameters = [
        name for verb in VERBS for name in inspect.signature(getattr(cli, verb)).parameters
    ]
    flags = {name.replace("_", "-") for name in parameters} | {"version", "nproc-per-node"}
    for message in messages():
        if message.advice:
            named = re.findall(r"(?<![\w-])--([a-z][a-z0-9-]*)", message.text)
            assert set(named) <= flags, message
            for key in settings_of(message):
                assert any(has(name, key) for name in RECIPES), (key, message)


def settings_of(message: Message) -> list[str]:
    sections = "|".join(Config.model_fields)
    found = re.findall(rf"\b((?:{sections})(?:\.(?!py\b)(?:\w+|\{{\}}))+)(?!\()", message.text)
    return [key.replace("{}", "0") for key in found if not key.endswith("{}")]


def has(name: str, key: str) -> bool:
    """Whether a recipe has a setting, or a section, of that name."""
    try:
        tree.put(Config, recipe(name).model_dump(), key, None)
    except LatentcastError:
        return False
    return True
