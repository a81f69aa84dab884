"""latentcast watch: the faults of a training are named, and a right one is left as it is."""

from __future__ import annotations

from typing import Any

import pytest
from trainings import FAULTS, VARIANTS, script

from latentcast.verification.foreign import Watch, watched


def run(source: str, **options: Any) -> Watch:
    with watched(momentum=lambda n: 0.9 + 0.1 * n / 200, **options) as watch:
        exec(compile(source, "training", "exec"), {"__name__": "__main__"})
    return watch


@pytest.mark.parametrize("name", FAULTS)
def test_fault_of_a_training_is_named(name: str) -> None:
    fault = FAULTS[name]
    found = run(script(fault.variant, fault.edits)).verified
    assert fault.line in found.broken, str(found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_right_training_is_left_alone(variant: str) -> None:
    watch = run(script(variant))
    assert watch.holds, str(watch.verified)
    assert not watch.session.failures
    assert any(line.id == "ema.formula" for line in watch.lines)
