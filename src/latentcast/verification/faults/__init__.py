"""The catalogue of faults, a file for each thing they break."""

from __future__ import annotations

from latentcast.verification.fault import Fault
from latentcast.verification.faults import (
    artifacts,
    attention,
    data,
    drop_path,
    ema,
    evaluation,
    hierarchy,
    initial,
    jepa,
    loop,
    masks,
    monitors,
    nepa,
    order,
    positions,
    predictor,
    ranks,
    reference_masks,
    regularizers,
    resume,
    table,
    targets,
    transformer,
)

_ALL: tuple[Fault, ...] = (
    *nepa.FAULTS,
    *transformer.FAULTS,
    *attention.FAULTS,
    *positions.FAULTS,
    *drop_path.FAULTS,
    *initial.FAULTS,
    *table.FAULTS,
    *jepa.FAULTS,
    *targets.FAULTS,
    *predictor.FAULTS,
    *masks.FAULTS,
    *reference_masks.FAULTS,
    *hierarchy.FAULTS,
    *regularizers.FAULTS,
    *monitors.FAULTS,
    *ema.FAULTS,
    *loop.FAULTS,
    *resume.FAULTS,
    *order.FAULTS,
    *ranks.FAULTS,
    *data.FAULTS,
    *evaluation.FAULTS,
    *artifacts.FAULTS,
)


def all_faults() -> tuple[Fault, ...]:
    """In the order of what they break."""
    return _ALL
