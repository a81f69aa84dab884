"""The ECG of an upload on millimetre paper."""

from __future__ import annotations

import threading

from latentcast.report.ecg import LONGEST_SECONDS, plot_recording
from latentcast.report.svg import of_figure
from latentcast.signals.counts import choose_valid
from latentcast.signals.recording import Recording

_DRAWING = threading.Lock()
"""matplotlib's settings are of the whole process."""


def drawn(recording: Recording) -> str | None:
    """An ``<svg>`` element; None where it is longer than a page.

    Raises:
        LatentcastError: matplotlib is not installed, or nothing is valid.
    """
    if recording.seconds > LONGEST_SECONDS:
        return None
    shown, _ = choose_valid(recording, recording.leads, mask_missing=True)
    with _DRAWING:
        description = f"ECG with leads {', '.join(shown.leads)} on millimetre paper"
        return of_figure(plot_recording(shown), "ecg", description, recolour=False)
