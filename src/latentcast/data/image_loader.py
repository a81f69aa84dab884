"""Batches of images from a store."""

from __future__ import annotations

import numpy as np

from latentcast.config import Config, ImageInput
from latentcast.data.image_store import ImageStore
from latentcast.data.loader import Loader
from latentcast.data.order import Ints
from latentcast.data.workers import Request
from latentcast.errors import LatentcastError


class ImageLoader(Loader[ImageStore]):
    """Whole images, uint8 ``(B, height, width, channels)``; crops are drawn on the device.

    Raises:
        LatentcastError: the store has another number of channels.
    """

    def __init__(
        self, store: ImageStore, rows: Ints, config: Config, ranks: tuple[int, int] = (0, 1)
    ) -> None:
        super().__init__(store, rows, config, ranks)
        assert isinstance(config.input, ImageInput)
        if store.channels != config.input.channels:
            raise LatentcastError(
                f"{store.path}: its images have {store.channels} channels, input.channels is "
                f"{config.input.channels}; set input.channels to {store.channels}"
            )
        self.shape, self.dtype = (store.height, store.width, store.channels), np.dtype(np.uint8)

    def request(self, ids: Ints) -> Request:
        return (self.order.at(ids),)
