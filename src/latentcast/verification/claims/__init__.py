"""The claims, a file for each thing they are about; each measures and none believes."""

from __future__ import annotations

from latentcast.verification.claim import Claim
from latentcast.verification.claims import (
    artifacts,
    attention,
    coordinates,
    data,
    drop_path,
    ema,
    evaluation,
    hierarchy,
    initial,
    jepa,
    loop,
    mask_sizes,
    masks,
    monitors,
    nepa,
    order,
    positions,
    predictor,
    public_layouts,
    ranks,
    reference_masks,
    regularizers,
    resume,
    sincos,
    table,
    targets,
    transformer,
)

_ALL: tuple[Claim, ...] = (
    *nepa.CLAIMS,
    *transformer.CLAIMS,
    *attention.CLAIMS,
    *positions.CLAIMS,
    *coordinates.CLAIMS,
    *sincos.CLAIMS,
    *drop_path.CLAIMS,
    *initial.CLAIMS,
    *table.CLAIMS,
    *jepa.CLAIMS,
    *targets.CLAIMS,
    *predictor.CLAIMS,
    *masks.CLAIMS,
    *mask_sizes.CLAIMS,
    *reference_masks.CLAIMS,
    *hierarchy.CLAIMS,
    *regularizers.CLAIMS,
    *monitors.CLAIMS,
    *ema.CLAIMS,
    *loop.CLAIMS,
    *resume.CLAIMS,
    *order.CLAIMS,
    *ranks.CLAIMS,
    *data.CLAIMS,
    *evaluation.CLAIMS,
    *artifacts.CLAIMS,
    *public_layouts.CLAIMS,
)


def all_claims() -> tuple[Claim, ...]:
    """In the order in which they are reported."""
    return _ALL
