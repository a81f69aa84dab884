"""Build data/digits/digits.npz from scikit-learn's copy of the UCI digits.

    python scripts/build_digits.py

Values 0 … 16 (the pixels that are on in a 4 × 4 block of the scan) become 0 … 255: value · 255 /
16, rounded. 17 values stay 17 values: pixel · 16 / 255, rounded, is the original.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

OUT = Path(__file__).parents[1] / "data" / "digits" / "digits.npz"


def main() -> None:
    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(OUT, images=images, labels=digits.target.astype(np.int64))


if __name__ == "__main__":
    main()
