"""I-JEPA against its reference: first outputs, and the weights after several optimizer steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from latentcast.artifacts.public_ijepa import (
    encoder_config,
    encoder_from_public,
    encoder_to_public,
    predictor_from_public,
    predictor_to_public,
)
from latentcast.batch import Batch, Inputs
from latentcast.config import OptimizerConfig, PredictorConfig, ReferenceBlocks
from latentcast.engine.checkpoint import State
from latentcast.engine.context import Context
from latentcast.engine.ema import Ema
from latentcast.engine.loop import accumulate
from latentcast.engine.optimizer import build_optimizer
from latentcast.engine.schedules import Cosine, EmaSchedule, Schedules, WarmupCosine
from latentcast.errors import LatentcastError
from latentcast.nn.cells import gather
from latentcast.nn.hierarchy import Hierarchy
from latentcast.nn.predictor import Predictor
from latentcast.nn.transformer import PatchEncoder
from latentcast.objectives.base import Output
from latentcast.objectives.jepa import Jepa, JepaConfig
from latentcast.objectives.jepa.masks import Masks
from latentcast.randomness import Draw
from latentcast.verification.parity.agreement import TRAJECTORY, Agreement, agree, under


class _GivenMasks:
    """The masks of the file instead of drawn ones; ``draw.step`` says of which step."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def of(self, step: int) -> list[Masks]:
        """One for each context block of the step; all have the same targets."""
        targets = torch.stack(_numbered(self.tensors, f"batch.{step}.target_"))
        contexts = _numbered(self.tensors, f"batch.{step}.context_")
        return [Masks(context, (targets,)) for context in contexts]

    def __call__(self, draw: Draw, valid: Tensor | None = None) -> Masks:
        return self.of(draw.step)[0]

    def sizes(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        raise NotImplementedError("the masks of a file are given, not drawn")


class _OfAllContexts(Jepa):
    """The loss over every context block; a run of ours draws one for each sample."""

    def forward(self, inputs: Inputs, draw: Draw | None) -> Output:
        assert draw is not None and isinstance(self.masks, _GivenMasks)
        outputs = [
            self.energy(inputs.values, None, masks, draw) for masks in self.masks.of(draw.step)
        ]
        loss = torch.stack([output.loss for output in outputs]).mean()
        return Output(loss, outputs[0].weight)


def trajectory(
    tensors: dict[str, Tensor], public: dict[str, Any], run: dict[str, Any]
) -> list[Agreement]:
    """Take the reference's steps with our objective, schedules, optimizer and order of a step."""
    objective = _objective(tensors, public).double()
    steps, schedule = len(run["lr"]), public["schedule"]
    adam = public["adamw"]
    optimizer = build_optimizer(objective, OptimizerConfig(betas=adam["betas"], eps=adam["eps"]))
    ours = _schedules(schedule)
    found = [
        agree(name, torch.tensor([of(n) for n in range(steps)]), torch.tensor(run[key]))
        for name, of, key in (
            ("learning rate of each step", ours.lr, "lr"),
            ("weight decay of each step", ours.weight_decay, "wd"),
            ("momentum of each step", ours.momentum, "momentum"),
        )
    ]
    found += _first_outputs(objective, tensors)
    ema, losses = Ema(objective.ema_pairs()), []
    context = Context(torch.device("cpu"), torch.float32)
    for step in range(steps):
        ours.apply(optimizer, step)
        images = tensors[f"batch.{step}.images"].double()
        batch = Batch(images, torch.arange(len(images)))
        output = accumulate(objective, _as_they_are, [batch], 0, State(step), context)
        losses.append(output.loss)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(ours.momentum(step))
    found.append(agree("loss of each step", torch.stack(losses), torch.tensor(run["loss"])))
    assert objective.teacher is not None
    for part, network, to_public in (
        ("encoder", objective.student.finest, encoder_to_public),
        ("predictor", objective.predictors[0], predictor_to_public),
        ("target_encoder", objective.teacher.finest, encoder_to_public),
    ):
        weights = to_public(dict(network.named_parameters()))
        for name, expected in sorted(under(tensors, f"final.{part}.").items()):
            if not name.endswith("pos_embed"):  # fixed, and checked when the weights were read
                quantity = f"final {part}.{name}"
                found.append(agree(quantity, weights[name], expected, TRAJECTORY))
    return found


def _first_outputs(objective: Jepa, tensors: dict[str, Tensor]) -> list[Agreement]:
    images = tensors["batch.0.images"].double()
    masks = _GivenMasks(tensors).of(0)
    size = tuple(images.shape[2:])
    with torch.no_grad():
        full = objective.student(images)
        (target,), levels = objective.targets(images, None)
        contexts = [objective.student(images, None, one.context) for one in masks]
        predictions = [
            objective.predict(context, levels, one.targets, size)[0]
            for context, one in zip(contexts, masks, strict=True)
        ]
    # The reference's rows: target block, then context block, then sample.
    first_targets = gather(target, masks[0].targets[0]).repeat_interleave(len(masks), dim=0)
    predicted = torch.stack(predictions, dim=1)
    return [
        agree("encoder on the full input", full[0].values, tensors["output.encoder_full"]),
        agree("first targets", first_targets.flatten(0, 1), tensors["output.first_target"]),
        agree("first predictions", predicted.flatten(0, 2), tensors["output.first_prediction"]),
    ]


def _objective(tensors: dict[str, Tensor], public: dict[str, Any]) -> Jepa:
    width, narrow = public["embed_dim"], public["predictor_dim"]
    ratio = public["mlp_ratio"]
    encoder = encoder_config(
        public["patch_size"], width, public["depth"], public["num_heads"], int(ratio * width),
        public["layer_norm_eps"],
    )  # fmt: skip
    predictor = PredictorConfig(
        width=narrow,
        depth=public["predictor_depth"],
        heads=public.get("predictor_num_heads", public["num_heads"]),
        mlp_width=int(ratio * narrow),
    )
    student = Hierarchy(PatchEncoder(encoder, public["channels"], axes=2))
    masks = _GivenMasks(tensors)
    # The kind of mask is not used: the file gives them.
    config = JepaConfig(predictor=predictor, masks=ReferenceBlocks())
    objective = _OfAllContexts(student, [Predictor(predictor, encoder, width)], masks, config)
    assert objective.teacher is not None
    try:
        for network, part in ((student, "encoder"), (objective.teacher, "target_encoder")):
            network.finest.load_state_dict(encoder_from_public(under(tensors, f"weights.{part}.")))
        weights = predictor_from_public(under(tensors, "weights.predictor."))
        objective.predictors[0].load_state_dict(weights)
    except RuntimeError as problem:
        raise LatentcastError(
            f"weights.*: do not fit the config ({problem}); check the file"
        ) from None
    return objective


def _schedules(schedule: dict[str, Any]) -> Schedules:
    per_epoch, epochs = schedule["iterations_per_epoch"], schedule["epochs"]
    steps, warmup = epochs * per_epoch, int(schedule["warmup_epochs"] * per_epoch)
    return Schedules(
        lr=WarmupCosine(schedule["lr"], schedule["final_lr"], warmup, steps, schedule["start_lr"]),
        weight_decay=Cosine(schedule["weight_decay"], schedule["final_weight_decay"], steps),
        momentum=EmaSchedule(schedule["ema"][0], schedule["ema"][1], epochs, per_epoch),
    )


def _numbered(tensors: dict[str, Tensor], prefix: str) -> list[Tensor]:
    found = under(tensors, prefix)
    return [found[number] for number in sorted(found, key=int)]


def _as_they_are(samples: Tensor, draw: object) -> Inputs:
    return Inputs(samples)
