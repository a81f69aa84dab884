"""A store and a configuration brought together: statistics filled in, loader and preprocessing."""

from __future__ import annotations

from latentcast.config import Config, EcgInput, ImageInput, Normalisation
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.image_loader import ImageLoader
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.image_store import ImageStore
from latentcast.data.loader import CropLoader
from latentcast.data.store import Store
from latentcast.errors import LatentcastError


def reading(
    store: Store | ImageStore, config: Config, share: tuple[int, int] = (0, 1)
) -> tuple[CropLoader | ImageLoader, EcgPreprocess | ImagePreprocess]:
    """What brings batches, and what makes floats of them on the device.

    Args:
        share: this rank and how many there are.
    """
    rows = store.rows("train")
    if isinstance(store, ImageStore):
        assert isinstance(config.input, ImageInput)  # fitted has seen to it
        return ImageLoader(store, rows, config, share), ImagePreprocess(config.input)
    assert isinstance(config.input, EcgInput)
    return CropLoader(store, rows, config, share), EcgPreprocess(config.input)


def fitted(config: Config, store: Store | ImageStore) -> Config:
    """The configuration with the store's statistics, after checking that the two fit.

    Raises:
        LatentcastError: recordings for an image recipe or the other way round, another sampling
            rate, scale or number of channels, a lead the store lacks, an empty split.
    """
    manifest = store.path / "manifest.json"
    if not len(store.rows("train")):
        raise LatentcastError(f"{manifest}: the training split is empty; check the folds")
    if isinstance(store, ImageStore):
        return _fitted_to_images(config, store)
    if not isinstance(config.input, EcgInput):
        raise LatentcastError(
            f"{config.recipe}: is an image recipe and {store.path} holds recordings; "
            "choose a recipe with -ecg- in its name"
        )
    wanted = config.input
    if store.sampling_rate != wanted.sampling_rate:
        raise LatentcastError(
            f"{manifest}: sampling_rate is {store.sampling_rate:g}, the recipe needs "
            f"{wanted.sampling_rate:g}; re-ingest with --fs {wanted.sampling_rate:g}"
        )
    if store.leads != wanted.leads:
        raise LatentcastError(
            f"{manifest}: leads are {' '.join(store.leads)}, the recipe needs "
            f"{' '.join(wanted.leads)}; re-ingest with --leads {','.join(wanted.leads)}, or "
            f"train with --set input.leads=[{','.join(store.leads)}]"
        )
    if store.scale != wanted.scale:
        raise LatentcastError(
            f"{manifest}: scale is {store.scale}, the recipe has {wanted.scale}; "
            f"train with --set input.scale={store.scale}"
        )
    if wanted.normalisation is not None:
        return config
    return config.updated({"input.normalisation": _statistics(store).model_dump()})


def _fitted_to_images(config: Config, store: ImageStore) -> Config:
    if not isinstance(config.input, ImageInput):
        raise LatentcastError(
            f"{config.recipe}: is a recipe for recordings and {store.path} holds images; "
            "choose a recipe with -image- in its name"
        )
    if store.channels != config.input.channels:
        raise LatentcastError(
            f"{store.path / 'manifest.json'}: channels is {store.channels}, the recipe needs "
            f"{config.input.channels}; train with --set input.channels={store.channels} "
            "input.normalisation=null"
        )
    if config.input.normalisation is not None:
        return config
    told = store.manifest.statistics
    # A channel that never varies is left at its mean.
    statistics = Normalisation(
        mean=tuple(mean or 0.0 for mean in told.mean), std=tuple(std or 1.0 for std in told.std)
    )
    return config.updated({"input.normalisation": statistics.model_dump()})


def _statistics(store: Store) -> Normalisation:
    told = store.manifest.statistics
    mean = tuple(value for value in told.mean if value is not None)
    std = tuple(value for value in told.std if value)
    if len(mean) < len(store.leads) or len(std) < len(store.leads):
        silent = next(
            lead for lead, m, s in zip(store.leads, told.mean, told.std, strict=True)
            if m is None or not s
        )  # fmt: skip
        raise LatentcastError(
            f"{store.path / 'manifest.json'}: lead {silent} holds no signal in the training "
            "split; ingest records that have it, or train with fewer leads"
        )
    return Normalisation(mean=mean, std=std)
