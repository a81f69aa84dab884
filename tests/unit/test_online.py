"""Watching the features while training: the right numbers, from the right rows, without a trace."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from evaluation_stores import labels_of, write_store
from sklearn.metrics import roc_auc_score

from latentcast.artifacts.encoder import Encoder
from latentcast.config import Config, ImageInput
from latentcast.data.ecg_preprocess import EcgPreprocess
from latentcast.data.fit import fitted
from latentcast.data.image_preprocess import ImagePreprocess
from latentcast.data.loader import Loader
from latentcast.data.store import Store
from latentcast.data.tables.attached import label
from latentcast.engine import checkpoint
from latentcast.engine.callbacks import Callback
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import train
from latentcast.engine.parallel import distribute, full_tensor
from latentcast.engine.ranks import Ranks
from latentcast.evaluation.features import extract
from latentcast.evaluation.heads import knn, logistic, multinomial
from latentcast.monitors import online
from latentcast.monitors.online import Panel
from latentcast.nn.blocks import Block
from latentcast.nn.cells import parents
from latentcast.nn.positions import sincos
from latentcast.objectives.base import Objective, Output
from latentcast.objectives.build import build
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.signals.recording import INVALID

CPU = Context(torch.device("cpu"), torch.float32)
CODES = ("NORM", "IMI", "LVH", "NST_", "CLBBB")  # one of each superdiagnostic class
KINDS = ("small_config", "small_hierarchy", "digits")


def recordings(path: Path, codes: tuple[str, ...] = CODES, n: int = 120) -> Store:
    """Beats whose rate says the code; some are short, long, without leads, or nothing at all."""
    rng = np.random.default_rng(0)
    records, labels = [], []
    for i in range(n):
        length = (400, 700, 330)[i % 3]
        kind = int(rng.integers(len(codes) + 1))
        beats = np.sin(np.arange(length)[:, None] * (0.05 + 0.06 * kind) + rng.random(12))
        record = (300 * beats + 100 * rng.standard_normal((length, 12))).astype(np.int16)
        if i % 10 == 3:
            record[:, 6:9] = INVALID
        if i % 20 == 7:
            record[:] = INVALID
        records.append(record)
        labels.append({codes[kind]: 100.0} if kind < len(codes) else {})
    folds = [(1, 2, 3, 4, 9, 9, 10)[i % 7] for i in rng.permutation(n)]
    return write_store(path, records, folds=folds, labels=labels, leads=CANONICAL_LEADS)


@pytest.fixture(autouse=True)
def small_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "SIZE", 100)


@pytest.fixture(scope="module")
def ecg_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return recordings(tmp_path_factory.mktemp("online") / "store")


@pytest.fixture(scope="session")
def image_store(digits_store: Path) -> Store:
    return Store.open(digits_store)


def prepared(
    kind: str, request: pytest.FixtureRequest, changes: dict[str, Any] | None = None
) -> tuple[Store, Config]:
    store: Store = request.getfixturevalue("ecg_store")
    if kind == "digits":
        store = request.getfixturevalue("image_store")
        config = recipe("ijepa-image-digits").updated(
            {"encoder.width": 24, "encoder.heads": 2, "encoder.mlp_width": 48,
             "encoder.drop_path": 0.2, "objective.regularizer": None, "train.batch_size": 6,
             "train.micro_batches": 2, "optimizer.warmup_steps": 3, "train.precision": "fp32"}
        )  # fmt: skip
    else:
        config = request.getfixturevalue(kind)
    changes = {"train.steps": 4, "train.checkpoint_every": 3, "ema.base": 0.9} | (changes or {})
    return store, fitted(config.updated(changes), store)


def preprocessing(config: Config) -> Any:
    if isinstance(config.input, ImageInput):
        return ImagePreprocess(config.input)
    return EcgPreprocess(config.input)


def state_of_torch(objective: Objective) -> dict[str, Any]:
    """Everything that training might feel, but for the weights."""
    return {
        "modes": [module.training for module in objective.modules()],
        "numbers": torch.random.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "requires": [p.requires_grad for p in objective.parameters()],
        "accumulated": [p.grad is None for p in objective.parameters()],
    }


class Looking(Callback):
    """Keeps a row of each step, and looks at the panel when it has one."""

    def __init__(self, objective: Objective, config: Config, panel: Panel | None) -> None:
        self.objective, self.preprocess, self.panel = objective, preprocessing(config), panel
        self.rows: list[dict[str, Any]] = []
        self.looked: list[dict[str, float]] = []
        self.fails_at = 0

    def on_train_start(self, state: State, context: Context) -> None:
        self.context = context
        self.look()  # before anything that training keeps has been computed

    def look(self) -> None:
        if self.panel is not None:
            before = state_of_torch(self.objective)
            self.looked.append(self.panel.look(self.objective, self.preprocess, self.context))
            assert state_of_torch(self.objective) == before

    def on_step_end(
        self, state: State, output: Output, norm: Any, schedules: Any, ema: Ema
    ) -> None:
        row = {"step": state.step, "loss": float(output.loss), "norm": float(norm)}
        self.rows.append(row | {"lr": schedules.lr(state.step), "distance": ema.distance()})
        self.look()
        if state.step == self.fails_at:
            raise InterruptedError

    def on_skip(self, state: State, problem: str) -> None:
        raise AssertionError(problem)


def trained(
    store: Store, config: Config, run: Path, looking: bool, fails_at: int = 0
) -> tuple[Objective, Looking]:
    objective = build(config)
    next(objective.encoder("teacher").children()).eval()  # a mode of its own, to be left alone
    loader = Loader(store, store.rows("train"), config)
    sincos.cache_clear()
    parents.cache_clear()
    torch.manual_seed(0)
    callback = Looking(objective, config, Panel.of(store, config) if looking else None)
    callback.fails_at = fails_at
    train(objective, callback.preprocess, loader.stream, config, run, [callback])
    return objective, callback


def random_numbers(objective: Objective, seed: int = 0) -> Objective:
    """Weights that a look should tell from any others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in objective.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return objective


@pytest.mark.parametrize(
    ("kind", "precision", "threads"),
    # With one thread it could not be scores that the heads are fitted with one.
    [("small_config", "fp32", 2), ("small_hierarchy", "bf16", 1), ("digits", "fp32", 1)],
)
def test_looking_at_every_step_changes_no_bit_of_training(
    kind: str, precision: str, threads: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store, config = prepared(kind, request, {"train.precision": precision})
    runs = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for looking in (False, True):
            runs[looking] = trained(store, config, tmp_path / str(looking), looking)
    finally:
        torch.set_num_threads(before)
    (plain, without), (watched, callback) = runs[False], runs[True]
    assert len(callback.looked) == config.train.steps + 1 and not without.looked
    assert all(np.isfinite(list(numbers.values())).all() for numbers in callback.looked)
    assert callback.rows == without.rows
    for (name, a), b in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b), name
    ends = [checkpoint.latest(tmp_path / str(looking) / "checkpoints") for looking in runs]
    moments = [checkpoint.read_tensors(end, "optimizer") for end in ends]
    assert moments[0] and moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][name], moments[1][name]) for name in moments[0])


@pytest.mark.parametrize("kind", ["small_config", "digits"])
def test_a_resumed_run_sees_the_numbers_of_one_left_alone(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store, config = prepared(kind, request, {"optimizer.lr": 1e-2, "train.steps": 6})
    _, alone = trained(store, config, tmp_path / "alone", looking=True)
    with pytest.raises(InterruptedError):
        trained(store, config, tmp_path / "resumed", looking=True, fails_at=4)
    _, resumed = trained(store, config, tmp_path / "resumed", looking=True)
    assert resumed.rows == alone.rows[3:]
    assert resumed.looked[0] == alone.looked[3]  # of the checkpoint, before the next step
    assert resumed.looked[1:] == alone.looked[4:]
    assert len({tuple(numbers.values()) for numbers in alone.looked}) > 1


def test_images_get_the_accuracy_that_the_protocol_would_give_them(
    request: pytest.FixtureRequest,
) -> None:
    store, config = prepared("digits", request)
    assert store.modality == "image"
    objective, panel = random_numbers(build(config)), Panel.of(store, config)
    scores = panel.look(objective, preprocessing(config), CPU)
    encoder = Encoder(config, objective, "teacher", "it")
    features = extract(encoder, store, panel.rows, pooling="mean")["block 3"]  # of 3
    y, n = store.class_ids[panel.rows], panel.fitted
    found = knn.predict(features[:n], y[:n], features[n:])
    head = multinomial.fit(features[:n], y[:n], features[n:], y[n:])
    assert scores == {"online_knn": (found == y[n:]).mean(), "online_linear": head.validation}
    assert 0.1 < scores["online_knn"] < scores["online_linear"] < 1


def test_recordings_get_the_auroc_that_the_protocol_would_give_them(
    request: pytest.FixtureRequest,
) -> None:
    store, config = prepared("small_config", request)
    assert isinstance(store, Store)
    objective, panel = random_numbers(build(config)), Panel.of(store, config)
    scores = panel.look(objective, preprocessing(config), CPU)
    encoder = Encoder(config, objective, "teacher", "it")
    layers = extract(encoder, store, panel.rows, windows="centre")["block 2"]  # of 2
    read = ~np.isnan(layers).any(axis=1)
    assert 0 < (~read).sum() < 10  # records of which nothing was recorded
    places = np.arange(len(read))
    train_rows, scored = (
        places[read & (places < panel.fitted)],
        places[read & (places >= panel.fitted)],
    )
    labels = store.labels.indicator(CODES)[panel.rows]  # each is a class of its own
    head = logistic.fit(layers[train_rows], labels[train_rows], layers[scored], labels[scored])
    assert scores["online_linear"] == pytest.approx(head.validation, abs=1e-12)

    unit = layers / np.linalg.norm(layers, axis=1, keepdims=True)
    similar = unit[scored] @ unit[train_rows].T
    shares = np.zeros((len(scored), len(CODES)))
    for i, row in enumerate(similar.astype(np.float64)):
        near = np.argsort(-row, kind="stable")[: knn.K]
        weights = np.exp(row[near] / knn.TEMPERATURE)
        shares[i] = weights @ labels[train_rows[near]] / weights.sum()
    expected = roc_auc_score(labels[scored], shares)
    assert scores["online_knn"] == pytest.approx(expected, abs=4e-3)  # rounding orders near-ties
    assert scores["online_linear"] > 0.7  # the rate of the beats does say the class


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_teacher_that_is_read(kind: str, request: pytest.FixtureRequest) -> None:
    store, config = prepared(kind, request)
    panel, preprocess = Panel.of(store, config), preprocessing(config)
    objective = random_numbers(build(config))
    scores = panel.look(objective, preprocess, CPU)
    random_numbers(objective.encoder("student"), seed=1)
    assert panel.look(objective, preprocess, CPU) == scores
    random_numbers(objective.encoder("teacher"), seed=2)
    assert panel.look(objective, preprocess, CPU) != scores


@pytest.mark.parametrize("kind", ["small_config", "digits"])
def test_the_test_split_is_never_touched_and_the_validation_split_never_fitted(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, config = prepared(kind, request)
    monkeypatch.setattr(online, "SIZE", 40)
    taken: list[int] = []
    original = store.take

    def spy(rows: Any, *rest: Any) -> Any:
        taken.extend(rows)
        return original(rows, *rest)

    monkeypatch.setattr(store, "take", spy)
    drawn = []
    for seed in (0, 0, 1):
        panel = Panel.of(store, config.updated({"train.seed": seed}))
        panel.look(build(config), preprocessing(config), CPU)
        fit, scored = panel.rows[: panel.fitted], panel.rows[panel.fitted :]
        assert set(fit) <= set(store.rows("train")) and len(set(fit)) == len(fit) <= 40
        assert set(scored) <= set(store.rows("validation")) and 0 < len(scored) <= 40
        drawn.append(panel.rows.tolist())
    assert taken and not set(taken) & set(store.rows("test"))
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_store_without_labels_is_left_alone_and_says_why(
    ecg_store: Store, image_store: Store, small_config: Config, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    off = small_config.updated({"train.evaluate_every": None})
    unlabelled = recordings(tmp_path / "none", codes=())
    constant = recordings(tmp_path / "one", codes=("AF",))
    silent = [
        (ecg_store, off, "train.evaluate_every is null"),
        (unlabelled, small_config, "no labels in its train and validation splits"),
        (constant, small_config, "no label is both present and absent"),
    ]
    (tmp_path / "own.csv").write_text(f"id,af\n{unlabelled.record_ids[0]},1\n")
    tabled = recordings(tmp_path / "tabled", codes=())
    label(tabled, tmp_path / "own.csv")
    silent.append((tabled, small_config, "columns of a table (af)"))
    for labels, reason in (
        (np.full(len(image_store), -1), "no labels in its train"),
        (np.where(np.isin(image_store.folds, [9]), -1, image_store.class_ids), "no labels in its"),
        (np.zeros(len(image_store), np.int64), "of one class"),
    ):
        other = Store.open(image_store.path)
        monkeypatch.setattr(other, "class_ids", labels)
        monkeypatch.setattr(other, "labels", labels_of(other.classes, labels))
        silent.append((other, small_config, reason))
    for store, config, reason in silent:
        panel = Panel.of(store, config)
        assert panel.summary.startswith("no online evaluation: ") and reason in panel.summary
        assert not any(panel.due(step) for step in range(1, 3 * config.train.steps))


def test_what_is_announced_is_what_happens(small_config: Config, tmp_path: Path) -> None:
    """A run of 20 steps was to be looked at every 1000."""
    config = small_config.updated({"train.steps": 20, "train.evaluate_every": 1000})
    announced = Panel.of(recordings(tmp_path / "few", n=30), config).summary
    assert announced.startswith("online evaluation at the first and last step: ")
    assert "of the validation split, too few to mean anything" in announced


def test_other_codes_than_those_of_ptb_xl_count_as_they_are(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "LABELS", 2)
    store = recordings(tmp_path / "other", codes=("164889003", "426783006", "NORM"), n=150)
    config = fitted(small_config, store)
    panel = Panel.of(store, config)
    assert "macro AUROC over 2 labels" in panel.summary
    frequent = list(store.labels.counts(store.rows("train")))[:2]
    assert panel.targets.tolist() == store.labels.indicator(frequent)[panel.rows].tolist()
    assert panel.targets.any(axis=1).all()  # one without any of them says nothing
    scores = panel.look(build(config), preprocessing(config), CPU)
    assert all(0 <= number <= 1 for number in scores.values())


def test_of_very_many_classes_some_are_drawn(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "CLASSES", 3)
    store, config = prepared("digits", request)
    drawn = {
        seed: set(Panel.of(store, config.updated({"train.seed": seed})).targets.tolist())
        for seed in range(4)
    }
    assert all(len(classes) == 3 for classes in drawn.values())
    assert len({frozenset(classes) for classes in drawn.values()}) > 1


@pytest.mark.parametrize("every", [1, 7, 10, 25, 1000])
@pytest.mark.parametrize("log_every", [1, 10, 40])
def test_a_look_is_due_in_the_first_row_at_or_after_each_multiple(
    ecg_store: Store, small_config: Config, every: int, log_every: int
) -> None:
    changes = {"train.steps": 333, "train.log_every": log_every, "train.evaluate_every": every}
    panel = Panel.of(ecg_store, small_config.updated(changes))
    rows = [step for step in range(1, 334) if step % log_every == 0 or step in (1, 333)]
    first = {min(row for row in rows if row >= n) for n in range(every, 334, every)}
    assert {row for row in rows if panel.due(row)} == first | {1, 333}


def test_diverged_weights_give_no_number_and_no_error(request: pytest.FixtureRequest) -> None:
    for kind in KINDS:
        store, config = prepared(kind, request)
        objective = build(config)
        with torch.no_grad():
            next(objective.encoder("teacher").parameters()).fill_(torch.nan)
            weights = dict(objective.encoder("teacher").named_parameters())
            for name, parameter in weights.items():
                if name.endswith("patches.weight"):
                    parameter.fill_(torch.nan)
        scores = Panel.of(store, config).look(objective, preprocessing(config), CPU)
        assert list(scores) == ["online_knn", "online_linear"]
        assert all(np.isnan(number) for number in scores.values())


def test_a_look_compiles_nothing(request: pytest.FixtureRequest) -> None:
    """Its shapes beside those of training would reach the limit, and training would go eager."""
    from torch._dynamo.testing import CompileCounter

    store, config = prepared("small_config", request, {"machine.compile": True})
    objective, counter = build(config), CompileCounter()
    for module in objective.modules():
        if isinstance(module, Block):
            module.compile(backend=counter, fullgraph=True)
    Panel.of(store, config).look(objective, preprocessing(config), CPU)
    assert counter.frame_count == 0
    samples = torch.from_numpy(store.take(store.rows("train")[:2], None, 400))
    objective(preprocessing(config)(samples), None).loss.backward()
    assert counter.frame_count > 0  # it did not stay so


def on_ranks(rank: int, meeting: str, folder: Path, config: Config, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    store, ranks = Store.open(folder), Ranks(rank, 2, rank)
    context = Context(torch.device("cpu"), torch.float32, ranks)
    preprocess, panel = preprocessing(config), Panel.of(store, config)
    for parallel in ("ddp", "fsdp"):
        ended, looked = [], []
        for looking in (False, True):
            objective = build(config)
            called = distribute(objective, config.updated({"machine.parallel": parallel}), context)
            optimizer = torch.optim.SGD(objective.parameters(), lr=1e-2)
            for step in range(3):
                rows = store.rows("train")[4 * step + 2 * rank :][:2]
                inputs = preprocess(torch.from_numpy(store.take(rows, None, 400)))
                called(inputs, None).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if looking:
                    looked.append(panel.look(objective, preprocess, context))
            ended.append([full_tensor(p.detach()) for p in objective.parameters()])
        same = all(torch.equal(a, b) for a, b in zip(*ended, strict=True))
        alone = build(config)
        alone.load_state_dict(dict(zip(dict(alone.named_parameters()), ended[1], strict=True)))
        results.put((parallel, rank, same, looked, panel.look(alone, preprocess, CPU)))
    results.close()
    results.join_thread()
    dist.destroy_process_group()


def test_shards_are_gathered_for_the_look_and_given_back(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    store, config = prepared("small_hierarchy", request)
    panel, preprocess = Panel.of(store, config), preprocessing(config)
    objective = random_numbers(build(config))
    whole_network = panel.look(objective, preprocess, CPU)
    samples = torch.from_numpy(store.take(store.rows("train")[:2], None, 400))
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for module in objective.modules():
            if isinstance(module, Block):
                fully_shard(module, mesh=mesh)
        fully_shard(objective, mesh=mesh)
        objective(preprocess(samples), None).loss.backward()
        sharded = [type(p) for p in objective.parameters()]
        assert panel.look(objective, preprocess, CPU) == whole_network
        assert [type(p) for p in objective.parameters()] == sharded
    finally:
        dist.destroy_process_group()


@pytest.mark.slow  # two processes
def test_all_ranks_look_and_none_waits_for_another(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store, config = prepared("small_config", request)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    arguments = (str(tmp_path / "meeting"), store.path, config, results)
    processes = [spawn.Process(target=on_ranks, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        ranks = sorted(results.get(timeout=100) for _ in range(4))
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    for (_, _, same, looked, alone), (_, _, also, others, _) in (
        ranks[:2],
        ranks[2:],
    ):
        assert same and also  # the weights, whether looked at or not
        assert looked == others and len(looked) == 3
        assert looked[-1] == pytest.approx(alone, abs=1e-6)  # the network in one piece


def test_nothing_that_trains_or_scores_imports_the_monitors() -> None:
    """The monitors stand above the engine and the evaluation, so that no import goes round."""
    package = Path(online.__file__).parents[1]
    for folder in ("engine", "evaluation", "objectives", "nn", "data"):
        for file in (package / folder).rglob("*.py"):
            assert "import latentcast.monitors" not in (source := file.read_text()), file
            assert "from latentcast.monitors" not in source and "import monitors" not in source, (
                file
            )
