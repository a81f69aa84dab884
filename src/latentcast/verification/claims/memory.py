"""Arrays in memory: what becomes of their labels, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from latentcast.data.arrays import write_store
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.errors import LatentcastError
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, equal, true
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.twin import Twin

NEEDS = is_image
LABELS = (0, 1, -1, 1, 0, -1)


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except LatentcastError:
        return True
    except Exception:  # a number that nobody made sense of
        return False
    return False


@claim("image.memory", "Images in memory keep their labels, and -1 is none; a label without a name "
       "and an image of another size are refused.",
       source="our design, law 6: nothing fails quietly")  # fmt: skip
def in_memory(twin: Twin) -> Evidence:
    generator, folder = np.random.default_rng(twin.seed), twin.folder / "memory"
    images = generator.integers(0, 256, (len(LABELS), 8, 8, 3), dtype=np.uint8)
    splits = ["train", "train", "train", "validation", "test", "test"]

    def stored(name: str, labels: tuple[int, ...]) -> list[list[str]]:
        result = write_store(folder / name, images=images, labels=np.array(labels),
                             label_names=("a", "b"), splits=splits)  # fmt: skip
        return [sorted(result.store.labels.of(row)) for row in range(len(labels))]

    height, width = twin.config.input.size
    other = torch.zeros(1, height + 1, width, twin.config.input.channels, dtype=torch.uint8)
    codes = [[] if label < 0 else ["ab"[label]] for label in LABELS]
    return all_of(
        equal("labels", str(stored("known", LABELS)), str(codes)),
        true("a label without a name", _refused(lambda: stored("unnamed", (*LABELS[1:], 2)))),
        true("another size", _refused(lambda: ImagePreprocess(twin.config.input)(other))),  # type: ignore[arg-type]
    )
