"""What goes into an encoder, on which device, with or without gradients; and what comes back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ecg_files import write_wfdb
from image_files import write_classes

from conftest import WFDB, Command
from dev.fuzz.ecg_files import write_hdf5, write_lead_table
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.images import ImageReader
from latentcast.config import Config
from latentcast.data.arrays import write_store
from latentcast.data.fit import fitted, reading
from latentcast.data.formats import open_source
from latentcast.data.ingest import ingest
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.evaluation.features import extract
from latentcast.objectives.build import build
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.readers import read_recording
from latentcast.signals.recording import Recording
from latentcast.signals.synthetic import synthetic_recording

AXES: dict[str, Any] = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV"}


@pytest.fixture(scope="module")
def store(small_store: Path) -> Store:
    return Store.open(small_store)


@pytest.fixture(scope="module")
def encoder(small_config: Config, store: Store) -> Encoder:
    config = fitted(small_config, store)
    return Encoder(config, build(config))


@pytest.fixture(scope="module")
def vectors(encoder: Encoder, store: Store) -> np.ndarray:
    """By the probe, of every record of the store."""
    return extract(encoder, store, np.arange(len(store)), pooling="mean")["norm"]


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def cut(recording: Recording, samples: int) -> Recording:
    return replace(
        recording, signal=recording.signal[:, :samples], valid=recording.valid[:, :samples]
    )


def test_one_recording_and_no_recording_are_not_a_crash(encoder: Encoder, store: Store) -> None:
    assert encoder.embed(store.recording(0)).shape == (1, 24)
    nothing = encoder.embed([], pooling="mean+std")
    assert nothing.shape == (0, 48) and nothing.dtype == np.float32
    assert encoder.embed(store, rows=[]).shape == (0, 24)


def test_a_recording_has_one_vector_however_it_is_handed_over(
    encoder: Encoder, store: Store, vectors: np.ndarray, small_store: Path, tmp_path: Path
) -> None:
    same(encoder.embed(store), vectors)
    every = [encoder.embed(store, layer) for layer in encoder.layer_names]
    same(encoder.embed(store, "joined"), np.concatenate(every, axis=1))
    same(encoder.embed(str(small_store), rows=[4, 1]), vectors[[4, 1]])
    recordings = [store.recording(row) for row in range(len(store))]
    same(encoder.embed(iter(recordings)), vectors)
    same(encoder.embed(WFDB), vectors)  # of PTB-XL's two rates the encoder's
    same(encoder.embed(open_source(WFDB, fs=100)), vectors)
    file = WFDB / "records100" / "00000" / "00002_lr"
    row = store.row_of("00002")
    same(encoder.embed([str(file), file.with_suffix(".hea")]), vectors[[row, row]])
    same(encoder.embed(str(file)), vectors[[row]])

    millivolts = np.stack([recording.signal for recording in recordings])
    axes: dict[str, Any] = {"sampling_rate": 100, "leads": store.leads, "unit": "mV"}
    same(encoder.embed(millivolts, **axes), vectors)
    same(encoder.embed(millivolts[3], **axes), vectors[[3]])
    other = axes | {"unit": "uV", "layout": "records,samples,leads"}
    microvolts = 1000 * millivolts.swapaxes(1, 2)
    same(encoder.embed([microvolts[:2], microvolts[2]], **other), vectors[:3])
    np.save(tmp_path / "ecgs.npy", millivolts)
    same(encoder.embed(tmp_path / "ecgs.npy", **axes), vectors)


def test_a_file_that_does_not_say_its_rate_is_refused_with_the_rate(
    encoder: Encoder, tmp_path: Path
) -> None:
    recording = synthetic_recording(70, 100, 5)
    write_lead_table(tmp_path / "a.csv", recording)
    write_wfdb(tmp_path / "more", recording, "b")
    rounded = read_recording(tmp_path / "more" / "b.hea")
    vector = encoder.embed(rounded)
    rate = {"sampling_rate": 100}
    same(encoder.embed(tmp_path / "a.csv", **rate), vector)
    same(encoder.embed([tmp_path / "more" / "b.hea", tmp_path / "a.csv"], **rate)[1:], vector)
    shutil.copy(tmp_path / "a.csv", tmp_path / "more" / "a.csv")
    assert encoder.embed(tmp_path / "more", **rate).shape == (2, 24)
    pytest.importorskip("h5py")
    write_hdf5(tmp_path / "a.h5", [rounded])
    axes = {"unit": "mV", "leads": recording.leads, "layout": "records,samples,leads"}
    assert encoder.embed(tmp_path / "a.h5", **rate, **axes).shape == (1, 24)
    with pytest.raises(LatentcastError, match=r"sampling_rate: is for arrays, .*b\.hea is none"):
        encoder.embed(tmp_path / "more" / "b.hea", **rate)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_vector_does_not_depend_on_what_is_embedded_beside_it(
    encoder: Encoder, size: int
) -> None:
    recordings = [
        cut(synthetic_recording(50 + 5 * n, sampling_rate=100, seconds=26, seed=n), samples)
        for n, samples in enumerate((231, 1000, 2501, 400, 90))
    ]
    single = [encoder.embed(recording, "block 1", "mean+std") for recording in recordings]
    same(encoder.embed(recordings, "block 1", "mean+std", size), np.concatenate(single))


def test_a_window_of_another_length_is_read_at_once_and_its_positions_are_named(
    encoder: Encoder, store: Store
) -> None:
    counts = torch.from_numpy(store.take([0, 1]))  # ten seconds, the encoder trained on four
    expected = encoder(counts)[0][-1].mean(dim=1).numpy()
    same(encoder.embed(store, rows=[0, 1], window_seconds=10), expected)
    same(encoder.embed([store.recording(0), store.recording(1)], window_seconds=10), expected)
    with pytest.raises(LatentcastError, match=r"window_seconds 4.05: .*a multiple of 20"):
        encoder.embed(store, window_seconds=4.05)
    with pytest.raises(LatentcastError, match="window_seconds 0: is shorter than a patch of 0.2 s"):
        encoder.embed(store, window_seconds=0)
    assert encoder.positions.startswith("normalized: interpolated")
    clock = encoder.config.updated({"encoder.positions.coordinates": "seconds"})
    assert Encoder(clock, build(clock)).positions.startswith("in seconds: those beyond")


def test_another_rate_is_resampled_as_ingest_does_it_when_asked_for(
    encoder: Encoder, tmp_path: Path
) -> None:
    recording = synthetic_recording(70, sampling_rate=250, record_id="a")
    recording.signal[2, :700] = 1.0  # flat at 250 Hz, which must be found before resampling
    write_wfdb(tmp_path / "ecgs", recording, "a")
    path = tmp_path / "ecgs" / "a.hea"
    with pytest.raises(LatentcastError, match="is 250, the encoder needs 100; .* resample=True"):
        encoder.embed(path)
    ingested = ingest(tmp_path / "ecgs", tmp_path / "store", fs=100, quiet=True, workers=1).store
    assert np.array_equal(
        encoder.counts(read_recording(path), resample=True), ingested.take([0])[0]
    )
    same(encoder.embed(path, resample=True), encoder.embed(ingested))


def test_a_store_at_another_scale_or_in_another_order_of_leads_is_brought_to_the_encoders(
    encoder: Encoder, tmp_path: Path, vectors: np.ndarray
) -> None:
    finer = ingest(WFDB, tmp_path / "finer", fs=100, scale=0.0005, quiet=True, workers=1).store
    assert np.abs(encoder.embed(finer) - vectors).max() < 1e-2
    faster = ingest(WFDB, tmp_path / "faster", fs=500, quiet=True, workers=1).store
    with pytest.raises(LatentcastError, match="sampling_rate is 500, the encoder needs 100"):
        encoder.embed(faster, rows=[0])
    assert encoder.embed(faster, rows=[0], resample=True).shape == (1, 24)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (3.5, {}, "float: is nothing that can be embedded; give a Recording, the path"),
        (np.zeros((2, 12, 400)), {}, "comes without its sampling_rate, leads, unit; give"),
        (np.zeros((2, 12, 400)), {**AXES, "leads": ["I", "II"]}, "with 2 leads"),
        (np.zeros((12, 400)), {**AXES, "layout": "leads"},
         "layout 'leads': is unknown; "),
        (np.zeros((2, 400)), {**AXES, "leads": dict}, "'leads' is the class dict; give a list of"),
        (np.zeros((2, 1, 400), "U1"), {**AXES, "leads": ["I"]}, "is no signal"),
        ("nowhere.hea", {}, "nowhere.hea"),
        ({"a": np.zeros((12, 400))}, AXES, "dict: is nothing that can be embedded"),
        (["nowhere"], {"unit": "mV"}, "unit: is for arrays, nowhere is none"),
        ([], {"rows": [1]}, "rows: are of a store"),
        ([], {"batch_size": 0}, "batch_size 0: must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_named(
    encoder: Encoder, source: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        encoder.embed(source, **options)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ("x.zip", "x.zip: is an archive; ingest it"),
        ("nowhere", "nowhere: does not exist"),
        ([[0.1, 0.2], [0.3, 0.4]], "list of numbers: is no array; give numpy.array"),
        (np.zeros((8, 1000)), 'lacks lead .*; give it as NaN in an array, .* missing_leads="mask"'),
        (50 * np.sin(np.arange(12e3).reshape(12, -1)), "beyond .* check gain and unit$"),
    ],
)
def test_embed_gives_the_advice_of_the_command_line(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.zip").touch()
    axes: dict[str, Any] = {}
    if isinstance(x, np.ndarray):
        axes = AXES | {"leads": CANONICAL_LEADS[: len(x)]}
    with pytest.raises(LatentcastError, match=words):
        encoder.embed(x, **axes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is a folder; name one record"), ("a.npy", "is an array .*, and no record; numpy"),
        ("a.csv", "no WFDB record .*name the header"),
        ("x.zip", "is an archive; ingest it"), ("nowhere", "nowhere: does not exist"),
    ],
)  # fmt: skip
def test_a_path_that_is_no_record_lacks_a_header(tmp_path: Path, name: str, words: str) -> None:
    for file in ("a.npy", "a.csv", "x.zip"):
        (tmp_path / file).touch()
    with pytest.raises(LatentcastError, match=words):
        read_recording(tmp_path / name)
    with pytest.raises(LatentcastError, match="'path' is 3; give a path"):
        read_recording(3)  # type: ignore[arg-type]


def z_score(x: np.ndarray, axis: int | None) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / x.std(axis, keepdims=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda mv: mv * 1000, "more than any ECG has"),
        (lambda mv: mv / 1e6, "no lead spans more than"),
        (lambda mv: z_score(mv, 1), "normalised before .*in every lead.* expected is the ECG in V"),
        (lambda mv: z_score(mv, 1).astype(np.float16), "normalised before .*in every lead"),
        (lambda mv: np.where(np.arange(12)[:, None] == 3, 0, z_score(mv, 1)), "normalised before"),
        (lambda mv: z_score(mv, None), "normalised before .*over all leads"),
        (lambda mv: (mv - mv.min(1, keepdims=True)) / np.ptp(mv, 1, keepdims=True), "from 0 to 1"),
        (lambda mv: mv > 0, "holds bool, which is no signal"),
        (lambda mv: mv[:11], "with 12 leads"),
        (lambda mv: mv.T, "with 12 leads .*or transpose it"),
        (lambda mv: mv * np.inf, "no sample is valid"),
    ],
)
def test_what_ingest_refuses_of_an_array_embed_refuses_with_the_same_words(
    encoder: Encoder, tmp_path: Path, spoil: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    array = spoil(synthetic_recording(70, 100, 10).signal)
    with pytest.raises(LatentcastError, match=words):
        encoder.embed(array, **AXES)
    with pytest.raises(LatentcastError, match=words):
        write_store(tmp_path / "memory", signals=[array], **AXES, quiet=True)
    np.save(tmp_path / "a.npy", array[None])
    with pytest.raises(LatentcastError, match=words):
        ingest(
            tmp_path / "a.npy", tmp_path / "file", layout="records,leads,samples", **AXES,
            quiet=True,
        )  # fmt: skip


def test_tensors_lists_of_any_lengths_and_other_signals_are_embedded(
    encoder: Encoder, small_config: Config, store: Store, vectors: np.ndarray, tmp_path: Path
) -> None:
    millivolts = [store.recording(row).signal for row in range(3)]
    tensors = [torch.from_numpy(signal).requires_grad_() for signal in millivolts]
    same(encoder.embed(tensors, **AXES), vectors[:3])
    same(encoder.embed(torch.from_numpy(millivolts[0]), **AXES), vectors[:1])
    mixed = encoder.embed([millivolts[0], millivolts[1][:, :330], millivolts[2]], **AXES)
    same(mixed[[0, 2]], vectors[[0, 2]])
    eeg = [np.cumsum(np.random.default_rng(i).normal(size=(2, 600)), 1) / 100 for i in range(20)]
    eeg[0][1, 200:280] = 9.0  # what saturates an ECG
    axes: dict[str, Any] = {"sampling_rate": 100, "leads": ("Fp1", "O1")}
    other = write_store(tmp_path, signals=eeg, signal="other", **axes, quiet=True).store
    changes = {"input.signal": "other", "input.leads": axes["leads"]}
    config = fitted(small_config.updated(changes), other)
    reader = Encoder(config, build(config))
    same(reader.embed(eeg, unit="mV", **axes), reader.embed(other))


def test_a_bad_recording_among_good_ones_is_named(
    encoder: Encoder, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(
        LatentcastError, match="_rate: is for arrays, 00001 is none; .*resample=True"
    ):
        encoder.embed(store.recording(0), sampling_rate=100)
    blips = [replace(cut(store.recording(0), 8), record_id=f"blip {n}") for n in range(2)]
    with pytest.raises(LatentcastError, match="blip 0: has no valid patch; it is shorter"):
        encoder.embed([blips[0], store.recording(1), blips[1]])
    write_wfdb(tmp_path, synthetic_recording(70, sampling_rate=100), "a")
    (tmp_path / "a.dat").write_bytes(b"")
    with pytest.raises(LatentcastError, match=f"a of {tmp_path.name}: "):
        encoder.embed(tmp_path)
    found = encoder.embed([*blips, tmp_path, store.recording(1)], errors="skip")
    assert found.ids == ("00002",) and [bad.record_id for bad in found.rejected] == [
        "blip 0", "blip 1", "a",
    ]  # fmt: skip
    same(found.vectors, encoder.embed(store.recording(1)))


def test_all_bad_images_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    config = recipe("ijepa-image-digits").input
    write_classes(tmp_path, 8)
    for name in ("a", "b"):
        (tmp_path / "digit 1" / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(
        LatentcastError, match=r"2 of 10 cannot be read \(digit 1/a.png: .*digit 1/b.png: .*skip"
    ):
        list(ImageReader(config).read(tmp_path))


def test_one_damaged_image_costs_the_others_their_vectors(
    images: tuple[Encoder, Store], tmp_path: Path
) -> None:
    encoder, _ = images
    write_classes(tmp_path, 8)
    (tmp_path / "digit 1" / "Thumbs.db").touch()
    with pytest.warns(UserWarning, match=r"1 of its files, such as digit 1/Thumbs.db") as warned:
        vectors = encoder.embed(tmp_path)
    assert warned[0].filename == __file__ and len(vectors) == 8
    (tmp_path / "digit 1" / "a.png").write_bytes(b"no image")
    for x in (tmp_path, [tmp_path / "digit 1" / "a.png", tmp_path]):
        found = encoder.embed(x, errors="skip")
        same(found.vectors, vectors)
        assert "digit 1/Thumbs.db" in [bad.record_id for bad in found.rejected]
        assert len(found.ids) == 8 and "digit 1/a.png" not in found.ids
    file = next((tmp_path / "digit 0").iterdir())
    with pytest.importorskip("PIL.Image").open(file) as closed:
        pass
    with pytest.raises(LatentcastError, match=r"is closed; call its load\(\) before"):
        encoder.embed(closed)
    with pytest.raises(LatentcastError, match="a.png: .*; name others"):
        encoder.embed(tmp_path / "digit 1" / "a.png", errors="skip")


def test_features_of_a_diverged_run_are_refused(small_config: Config, store: Store) -> None:
    config = fitted(small_config, store)
    objective = build(config)
    objective.encoder("student").get_parameter("norm.bias").data.fill_(torch.nan)
    with pytest.raises(LatentcastError, match="not finite; the run has diverged"):
        Encoder(config, objective, "student").embed(store, rows=[0])


# A torch module


def test_gradients_reach_the_network_only_when_it_is_not_frozen(
    small_config: Config, small_hierarchy: Config, store: Store
) -> None:
    samples = torch.from_numpy(store.take([0, 1], length=400))
    for config in (fitted(small_config, store), fitted(small_hierarchy, store)):
        tuned = Encoder(config, build(config), frozen=False)
        torch.stack([layer.square().mean() for layer in tuned(samples)[0]]).sum().backward()
        assert all(weight.grad is not None for weight in tuned.network.parameters())
        assert [id(weight) for weight in tuned.parameters()] == [
            id(weight) for weight in tuned.network.parameters()
        ]
        assert not tuned.token_layers(samples.numpy())[0][-1].requires_grad
        frozen = Encoder(config, build(config))
        assert not any(weight.requires_grad for weight in frozen.parameters())
        assert not frozen(samples)[0][-1].requires_grad
        values = tuned.inputs(samples).values.requires_grad_()
        frozen(values)[0][-1].sum().backward()
        assert values.grad is not None and bool(values.grad.any())


def test_floats_are_read_as_the_preprocessed_integers_are(encoder: Encoder, store: Store) -> None:
    samples = torch.from_numpy(store.take([0, 1], length=400))
    samples[0, 100:230] = -32768
    inputs = encoder.inputs(samples)
    layers, valid = encoder(samples)
    again, also = encoder(inputs.values, inputs.valid)
    assert torch.equal(layers[-1], again[-1]) and torch.equal(valid, also) and not valid.all()
    assert encoder(inputs.values)[1].all()


def test_embedding_is_evaluation_and_leaves_modes_as_they_were(
    small_config: Config, store: Store
) -> None:
    config = fitted(small_config, store)
    encoder = Encoder(config, build(config), frozen=False)
    assert not any(module.training for module in encoder.modules())
    modes = []
    encoder.network.train()
    encoder.network.norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    encoder.embed(store, rows=[0])
    assert modes == [False] and encoder.network.training and encoder.network.norm.training


def test_everything_follows_the_encoder_to_its_device(
    small_config: Config, small_hierarchy: Config, store: Store
) -> None:
    """On torch's meta device, where any tensor that stayed behind is an error."""
    samples = torch.from_numpy(store.take([0, 1], length=400))
    for config in (fitted(small_config, store), fitted(small_hierarchy, store)):
        encoder = Encoder(config, build(config)).to("meta")
        assert encoder.device.type == "meta"
        assert {parameter.device.type for parameter in encoder.objective.parameters()} == {"meta"}
        layers, valid = encoder(samples)
        assert {tensor.device.type for tensor in (*layers, valid)} == {"meta"}
        assert encoder(torch.zeros(1, 12, 400))[1].device.type == "meta"


def test_an_objective_without_errors_of_patches_says_so(
    small_config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fitted(small_config, store)
    encoder = Encoder(config, build(config))
    monkeypatch.delattr(type(encoder.objective), "patch_errors")
    with pytest.raises(LatentcastError, match="Nepa: predicts no single patches"):
        encoder.patch_errors(store.take([0], length=400))


def test_a_role_that_is_none_is_refused(small_config: Config, store: Store) -> None:
    config = fitted(small_config, store)
    with pytest.raises(LatentcastError, match="'role' is 'techer'; did you mean 'teacher'"):
        Encoder(config, build(config), "techer")  # type: ignore[arg-type]


def test_a_damaged_store_is_embedded_or_called_finished_without_a_word(
    small_store: Path, encoder: Encoder, tmp_path: Path, command: Command
) -> None:
    folder = Path(shutil.copytree(small_store, tmp_path / "copy"))
    shard = folder / Store.open(folder).manifest.shards[0].file
    data = bytearray(shard.read_bytes())
    data[-1] ^= 64
    shard.write_bytes(data)
    for damaged in (folder, Store.open(folder)):
        with pytest.raises(LatentcastError, match="is damaged"):
            encoder.embed(damaged, rows=[0])
    answer = command("ingest", WFDB, "--fs", "100", "--out", folder)
    assert "finished before, nothing was read; latentcast inspect" in answer.out


def test_a_store_of_the_other_kind_is_named(
    encoder: Encoder, images: tuple[Encoder, Store], store: Store, digits_store: Path
) -> None:
    with pytest.raises(LatentcastError, match="holds images, the encoder was trained on ecg data"):
        encoder.embed(digits_store)
    with pytest.raises(LatentcastError, match="holds recordings, .* trained on image data"):
        images[0].embed(store)


# Images


@pytest.fixture(scope="module")
def images(digits_store: Path) -> tuple[Encoder, Store]:
    store = Store.open(digits_store)
    config = fitted(recipe("hjepa-image-digits").updated({"encoder.depth": 1}), store)
    return Encoder(config, build(config)), store


def test_an_image_has_one_vector_however_it_is_handed_over(
    images: tuple[Encoder, Store], digits_store: Path, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    encoder, store = images
    pixels = store.take(np.arange(70))
    vectors = encoder.embed(pixels)
    assert vectors.shape == (70, 64)
    same(encoder.embed(store, rows=np.arange(70)), vectors)
    same(encoder.embed(digits_store, rows=[5, 2]), vectors[[5, 2]])
    for one in (pixels[3], pixels[3, :, :, 0], pixels[3].transpose(2, 0, 1)):
        same(encoder.embed(one), vectors[[3]])
    same(encoder.embed(torch.from_numpy(pixels[:2, None, :, :, 0])), vectors[:2])
    assert encoder.embed([]).shape == encoder.embed(pixels[:0]).shape == (0, 64)
    (tmp_path / "a").mkdir()
    opened = [pillow.fromarray(image[:, :, 0]) for image in pixels[:3]]
    for number, image in enumerate(opened):
        image.save(tmp_path / "a" / f"{number}.png")
    same(encoder.embed(opened[0].convert("RGB")), vectors[[0]])
    same(encoder.embed([*opened, pixels[7], tmp_path / "a" / "1.png"]), vectors[[0, 1, 2, 7, 1]])
    same(encoder.embed(str(tmp_path / "a")), vectors[:3])
    np.savez(tmp_path / "pixels.npz", images=pixels[:4, :, :, 0])
    same(encoder.embed(tmp_path / "pixels.npz"), vectors[:4])
    larger = np.kron(pixels[4, :, :, 0], np.ones((3, 2), np.uint8))[:, :, None]
    mixed = encoder.embed([pixels[4], larger, pixels[5]])
    same(mixed[[0, 2]], vectors[[4, 5]])
    same(mixed[[1]], encoder.embed(larger))


@pytest.mark.parametrize("canvas", [None, (12, 12), (6, 9)])
def test_an_image_file_is_the_tensor_that_training_sees_of_it(
    images: tuple[Encoder, Store], canvas: tuple[int, int] | None, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    config = images[0].config.updated({"input.canvas": canvas})
    encoder, rng = Encoder(config, images[0].objective), np.random.default_rng(0)
    files = tmp_path / "files"
    files.mkdir()
    rows, columns = canvas or (8, 8)
    for number, shape in enumerate([(24, 40), (50, 20), (rows, columns)]):
        if rows != columns:  # ingest makes squares; anything else has its size from the start
            shape = rows, columns
        pillow.fromarray(rng.integers(0, 256, shape, np.uint8)).save(files / f"{number}.png")
    size = rows if rows == columns else None
    store = ingest(files, tmp_path / "store", size=size, quiet=True).store
    loader, preprocess = reading(store, fitted(config, store))
    seen = preprocess(loader.batch(0).samples[:9]).values
    trained = dict(zip(loader.order.at(np.arange(9)).tolist(), seen, strict=True))
    tensors: list[torch.Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        read = encoder.network.read
        patch.setattr(encoder.network, "read", lambda v, m: (tensors.append(v), read(v, m))[1])
        same(encoder.embed(sorted(files.iterdir())), encoder.embed(store))
    assert trained and torch.equal(tensors[0], tensors[1])
    assert all(torch.equal(tensors[0][row], values) for row, values in trained.items())


def test_deep_pixels_are_scaled_as_in_the_store(
    images: tuple[Encoder, Store], tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    for number in range(4):
        deep = images[1].take([number])[0, :, :, 0].astype(np.uint16) * 16
        pillow.fromarray(deep).save(tmp_path / "in" / f"{number}.png")
    with pytest.raises(LatentcastError, match="3.png: has 16 bits a pixel"):
        images[0].embed(tmp_path / "in" / "3.png")
    store = ingest(tmp_path / "in", tmp_path / "store", bits=12, quiet=True).store
    config = fitted(images[0].config, store)
    encoder = Encoder(config, images[0].objective)
    same(encoder.embed(tmp_path / "in"), encoder.embed(images[1].take(np.arange(4))))


@pytest.mark.parametrize("splits", [("train", "test", "unlabeled"), ("train", "Cat", "cat", "")])
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_labels_and_splits_that_are_not_clear_refuse_what_is_embedded(
    images: tuple[Encoder, Store], splits: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    files = sorted(tmp_path / "in" / split / "a.png" for split in splits)
    for file, pixels in zip(files, images[1].take(np.arange(9))[:, :, :, 0], strict=False):
        file.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(pixels).save(file)
        if kind == "parquet":
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            columns = {"image": [{"bytes": file.read_bytes()}], "target": [1.5], "class": ["a"]}
            file.unlink()
            pq.write_table(pa.table(columns), file.with_suffix(".parquet"))
    vectors = images[0].embed(tmp_path / "in")
    same(vectors, images[0].embed(images[1], rows=np.arange(len(files))))


def test_another_resolution_is_read_with_positions_between_those_of_training(
    images: tuple[Encoder, Store],
) -> None:
    encoder, store = images
    pixels, vectors = store.take([0, 1]), encoder.embed(store.take([0, 1]))
    added: list[torch.Tensor] = []
    finest: Any = encoder.network.finest
    embed = finest.embed
    resized = pytest.warns(UserWarning, match="interpolated")
    with pytest.MonkeyPatch.context() as patch, resized as warned:
        patch.setattr(finest, "embed", lambda v: (added.append(embed(v)), embed(v))[1])
        encoder.embed(pixels.repeat(3, 1).repeat(3, 2), size=24)
    assert warned[0].filename == __file__  # the caller's line
    plain = embed(encoder.inputs(torch.from_numpy(pixels)).values)
    # Every third cell has the centre of a cell of training, and here its pixel as well.
    middle = added[0].view(2, 24, 24, -1)[:, 1::3, 1::3].flatten(1, 2)
    assert torch.allclose(middle, plain, atol=1e-5)
    same(encoder.embed(pixels), vectors)
    with pytest.raises(LatentcastError, match="is no whole number of cells of 2"), pytest.warns():
        encoder.embed(pixels, size=9)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (np.zeros((2, 8, 8)), {}, r"array of float64 .* \(x \* 255\).*of values from 0 to 1"),
        (np.zeros((8, 8), bool), {}, r"holds bool.* such as x.astype\('uint8'\) \* 255"),
        (np.zeros((8, 8), np.uint16), {}, r"\(x // 256\).astype\('uint8'\) of 16 bits"),
        (torch.zeros(2, 1, 8, 8), {}, "array of float32"),
        (np.zeros(8, np.uint8), {}, r"has shape \(8,\); images are"),
        (np.zeros((2, 3, 8, 8), np.uint8), {}, "have 3 channels, the encoder reads 1"),
        (b"a.png", {}, "bytes: are nothing that can be embedded"),
        (None, {}, "NoneType: is nothing that can be embedded; give a uint8 array"),
        ("nowhere.png", {}, "nowhere.png: does not exist"),
        ([], {"sampling_rate": 100}, "was trained on images; leave out sampling_rate"),
        ([], {"size": 0}, "size 0: is of images, in pixels; give a positive"),
    ],
)
def test_what_is_no_image_is_named(
    images: tuple[Encoder, Store], source: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(LatentcastError, match=words):
        images[0].embed(source, **options)


EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.mark.parametrize("present", [EIGHT, ("I", "II"), ("V5",)], ids=["8", "2", "1"])
def test_fewer_leads_are_read_when_asked_and_what_was_done_is_said(
    encoder: Encoder, store: Store, present: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = store.recording(0)
    rows = [whole.leads.index(name) for name in present]
    some = replace(whole, signal=whole.signal[rows], valid=whole.valid[rows], leads=present)
    if present != EIGHT:
        with pytest.raises(LatentcastError, match="lacks lead"):
            encoder.embed(some)
    vector = encoder.embed(some, missing_leads="mean")
    said = capsys.readouterr().err
    assert ("III, aVR, aVL, aVF computed from I and II" in said) == ("I" in present)
    if present == EIGHT:
        assert "read at" not in said and np.abs(vector - encoder.embed(whole)).max() < 0.02
        return
    absent = [n for n, name in enumerate(whole.leads) if name[0] == "V" or present == ("V5",)]
    absent = [n for n in absent if whole.leads[n] not in present]
    names = ", ".join(whole.leads[n] for n in absent)
    assert "leads: 1 recording: " in said and f"{names} not recorded, read at the mean" in said
    at_mean = replace(whole, signal=whole.signal.copy())
    at_mean.signal[absent] = np.nan
    at_mean.valid[absent] = False
    again = encoder.embed(at_mean, missing_leads="mean")  # NaN is as absent as no row
    assert np.abs(vector - again).max() < 0.02  # of which two leads were rounded once more
    values = encoder.inputs(torch.from_numpy(next(encoder.windows(some, missing_leads="mean"))[1]))
    assert values.values[:, absent].abs().max() < 0.01 and values.valid.all()  # type: ignore[union-attr]
    assert values.values[:, rows].abs().max() > 1
