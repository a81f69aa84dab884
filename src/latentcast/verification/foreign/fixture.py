"""A fixture for the test suites of other projects: in their ``conftest.py`` it takes one line, ::

    pytest_plugins = ["latentcast.verification.foreign.fixture"]

and a test is ``def test_training(watched): watched(train)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest

from latentcast.verification.foreign import watch


class Watched(Protocol):
    """Runs a training and fails the test with what is broken in it."""

    def __call__(self, train: Callable[[], object], **options: Any) -> watch.Watch: ...


@pytest.fixture(name="watched")
def watched_fixture() -> Watched:
    """``watched(train, steps=…, momentum=…)``: options as those of ``watched``."""

    def run(train: Callable[[], object], **options: Any) -> watch.Watch:
        with watch.watched(**options) as found:
            train()
        if not found.holds:
            pytest.fail(str(found.verified), pytrace=False)
        return found

    return run
