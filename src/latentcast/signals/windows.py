"""Reading a recording of any length through windows of the length that training saw."""

from __future__ import annotations


def window_starts(length: int, window: int) -> list[int]:
    """First samples of the windows: steps of half a window, the last flush with the end.

    A recording that is not longer than the window has one, which begins at its start and is
    padded; a window never covers time twice as fast because the recording is short.
    """
    room = length - window
    if room <= 0:
        return [0]
    return [*range(0, room, max(window // 2, 1)), room]
