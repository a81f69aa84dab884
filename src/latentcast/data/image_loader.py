"""Batches of images from a store, by step number, read ahead of the training step."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from latentcast.batch import Batch
from latentcast.config import Config, ImageInput
from latentcast.data.image_store import ImageStore
from latentcast.data.loader import ahead, split
from latentcast.data.order import Ints, Order
from latentcast.errors import LatentcastError


class ImageLoader:
    """Whole images: which ones is a function of (seed, attempt); crops are drawn on the device.

    Args:
        store: what to read from.
        rows: of the training split.
        config: gives batch size, micro-batches and seed.

    Raises:
        LatentcastError: the store has another number of channels.
    """

    def __init__(self, store: ImageStore, rows: Ints, config: Config) -> None:
        assert isinstance(config.input, ImageInput)
        if store.channels != config.input.channels:
            raise LatentcastError(
                f"{store.path}: its images have {store.channels} channels, input.channels is "
                f"{config.input.channels}; set input.channels to {store.channels}"
            )
        self.store, self.train = store, config.train
        self.order = Order(rows, config.train.seed)

    def batch(self, attempt: int) -> Batch:
        """The whole batch of one attempt: uint8 ``(B, height, width, channels)``."""
        rows = self.order.batch(attempt, self.train.batch_size)
        ids = self.order.positions(attempt, self.train.batch_size)
        return Batch(torch.from_numpy(self.store.take(rows)), torch.from_numpy(ids))

    def stream(self, attempt: int) -> Iterator[list[Batch]]:
        """Micro-batches of this attempt and of all that follow, read ahead by a thread."""
        return ahead(lambda n: split(self.batch(n), self.train.micro_batches), attempt)
