"""Slips with NEPA's loss, its targets and its CLS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latentcast.batch import Inputs
from latentcast.nn import blocks, initialise
from latentcast.nn.encoder import PatchEncoder
from latentcast.objectives import nepa
from latentcast.objectives.base import Output, View
from latentcast.objectives.nepa import Nepa
from latentcast.randomness import Draw
from latentcast.verification.fault import Fault
from latentcast.verification.faults.positions import Inject, patched
from latentcast.verification.observe.rotary import is_jepa
from latentcast.verification.observe.twin import Subject

Sides = tuple[Tensor, Tensor]


def _sides(z: Tensor, h: Tensor) -> Sides:
    return h[:, :-1], z[:, 1:].detach()


def _forward(
    sides: Callable[[Tensor, Tensor], Sides] = _sides,
    copied: Callable[[Tensor, Tensor], Sides] = lambda z, h: (z[:, 1:-1], z[:, 2:]),
    sign: float = -1.0,
    mean: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Inject:
    """NEPA's forward pass with one piece exchanged.

    Args:
        sides: prediction and target, one for each patch.
        copied: what the baseline compares.
    """

    def make(was: Any) -> Any:
        def slipped(self: Nepa, inputs: Inputs, draw: Draw | None) -> Output:
            z, h = self._embed_and_transform(self.student, inputs, draw)
            predicted, target = sides(z, h)
            terms, valid = nepa.cosine(predicted, target), self._valid(inputs)
            average = mean or nepa._mean
            before, after = copied(z.detach(), h.detach())
            rest = None if valid is None else valid[:, -before.shape[1] :]
            return Output(
                loss=sign * average(terms, valid),
                weight=nepa._count(terms, valid),
                scalars={"copy_last_loss": -nepa._mean(nepa.cosine(before, after), rest)},
                views={
                    "target": View(target.detach(), "encoder", valid),
                    "output": View(predicted.detach(), "predictor", valid),
                },
            )

        return slipped

    return patched((Nepa,), "forward", make)


def _cosine(similarity: Callable[[Tensor, Tensor], Tensor]) -> Inject:
    return patched((nepa,), "cosine", lambda was: similarity)


def _over_tokens(a: Tensor, b: Tensor) -> Tensor:
    """F.normalize without dim, whose default is the second axis."""
    return (F.normalize(a) * F.normalize(b)).sum(-1)


def _one_more(was: Any) -> Any:
    """Causal with the diagonal one too far: token t sees t + 1."""

    def slipped(
        q: Tensor, k: Tensor, v: Tensor, causal: bool = False, seen: Tensor | None = None
    ) -> Any:
        if not causal:
            return was(q, k, v, causal, seen)
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool, device=q.device).tril(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return slipped


def _not_causal(was: Any) -> Any:
    return lambda q, k, v, causal=False, seen=None: was(q, k, v, False, seen)


def _by_sample(terms: Tensor, valid: Tensor | None) -> Tensor:
    """The mean of each sample's mean: a sample that is mostly padding counts like a whole one."""
    if valid is None:
        return terms.mean()
    told = torch.where(valid, terms, 0).sum(1) / valid.sum(1).clamp(min=1)
    return told.mean()


def _over_padding(terms: Tensor, valid: Tensor | None) -> Tensor:
    """Zeros for what is not valid, and divided by all."""
    return terms.mean() if valid is None else torch.where(valid, terms, 0).mean()


def _copied_over_padding(was: Any) -> Any:
    def slipped(self: Nepa, inputs: Inputs, draw: Draw | None) -> Output:
        output: Output = was(self, inputs, draw)
        z = self.student.embed(inputs.values).detach()
        copied = -nepa._mean(nepa.cosine(z[:, 1:-1], z[:, 2:]), None)
        return replace(output, scalars={"copy_last_loss": copied})

    return slipped


def _of_all_patches(was: Any) -> Any:
    def slipped(self: Nepa, inputs: Inputs, *role: Any) -> Tensor:
        errors: Tensor = was(self, inputs, *role)
        return errors.nan_to_num(0.0)

    return slipped


def _of_the_patch_before(was: Any) -> Any:
    def slipped(self: Nepa, inputs: Inputs, *role: Any) -> Tensor:
        errors: Tensor = was(self, inputs, *role)
        return errors.roll(1, 1)

    return slipped


def _unit_cls(was: Any) -> Any:
    def slipped(self: PatchEncoder, seed: int) -> None:
        was(self, seed)
        if self.cls is not None:
            generator = torch.Generator().manual_seed(seed)
            self.cls.data.normal_(generator=generator)

    return slipped


def _zero_cls(was: Any) -> Any:
    return ("mask_token",)


def _embed(join: Callable[[Tensor, Tensor], Tensor]) -> Inject:
    def make(was: Any) -> Any:
        def slipped(self: PatchEncoder, values: Tensor) -> Tensor:
            embedding: Tensor = was(self, values)
            if self.cls is None:
                return embedding
            return join(embedding[:, :1], embedding[:, 1:])

        return slipped

    return patched((PatchEncoder,), "embed", make)


def _embed_under_norm(was: Any) -> Any:
    """The target is layer-normed, as I-JEPA's is."""
    return lambda z, h: (h[:, :-1], F.layer_norm(z[:, 1:], z.shape[-1:]).detach())


def _transformed(change: Callable[[Nepa, Tensor, Tensor, Inputs], tuple[Tensor, Tensor]]) -> Inject:
    """Other embeddings or outputs for the same equation."""

    def make(was: Any) -> Any:
        def slipped(
            self: Nepa, encoder: PatchEncoder, inputs: Inputs, draw: Draw | None
        ) -> tuple[Tensor, Tensor]:
            z, h = was(self, encoder, inputs, draw)
            return change(self, z, h, inputs)

        return slipped

    return patched((Nepa,), "_embed_and_transform", make)


def _teachers_target(self: Nepa, z: Tensor, h: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The target is the average's embedding, as in a JEPA."""
    return (z, h) if self.teacher is None else (self.teacher.embed(inputs.values), h)


def _without_draw(was: Any) -> Any:
    return lambda self, encoder, inputs, draw: was(self, encoder, inputs, None)


def _never_fixed(was: Any) -> Any:
    def slipped(self: Nepa, student: Any, teacher: bool, fixed_patches: bool = False) -> None:
        was(self, student, teacher, False)

    return slipped


def _half_fixed(was: Any) -> Any:
    """The weight is fixed, its bias goes on."""

    def slipped(self: Nepa, student: Any, teacher: bool, fixed_patches: bool = False) -> None:
        was(self, student, teacher, fixed_patches)
        self.student.patches.bias.requires_grad_(True)

    return slipped


def _always_fixed(was: Any) -> Any:
    def slipped(self: Nepa, student: Any, teacher: bool, fixed_patches: bool = False) -> None:
        was(self, student, teacher, True)

    return slipped


def _decayed_cls(was: Any) -> Any:
    return lambda self, name, parameter: parameter.ndim <= 1


def _trained_average(was: Any) -> Any:
    def slipped(self: Nepa, inputs: Inputs, draw: Draw | None) -> Output:
        output: Output = was(self, inputs, draw)
        if self.teacher is None:
            return output
        with torch.no_grad():
            h = self.teacher.transform(
                self.teacher.embed(inputs.values), tuple(inputs.values.shape[2:])
            )
        z, _ = self._embed_and_transform(self.student, inputs, draw)
        pull = nepa._mean(nepa.cosine(h[:, :-1], z[:, 1:]), self._valid(inputs))
        return Output(output.loss - 0.1 * pull, output.weight, output.scalars, output.views)

    return slipped


def _is_nepa(subject: Subject) -> bool:
    return not is_jepa(subject)


def _averaged(subject: Subject) -> bool:
    return _is_nepa(subject) and subject.config.ema is not None


CLASSIC = "classic"

FAULTS: tuple[Fault, ...] = (
    Fault(
        "nepa.shift-none", "Each output predicts its own patch.", CLASSIC,
        _forward(lambda z, h: (h[:, 1:], z[:, 1:].detach())), ("nepa.shift", "nepa.loss"), _is_nepa,
    ),
    Fault(
        "nepa.shift-two", "Each output predicts the patch after the next.", CLASSIC,
        _forward(lambda z, h: (
            torch.cat([h[:, :1], h[:, :-2]], 1), z[:, 1:].detach())),
        ("nepa.shift", "nepa.loss"), _is_nepa,
    ),
    Fault(
        "nepa.shift-back", "Each output predicts the patch before.", CLASSIC,
        _forward(lambda z, h: (h[:, 1:], z[:, :-1].detach())), ("nepa.shift", "nepa.loss"),
        _is_nepa,
    ),
    Fault(
        "nepa.stop-gradient-dropped", "The target is not detached.", CLASSIC,
        _forward(lambda z, h: (h[:, :-1], z[:, 1:])),
        ("nepa.target-gradient", "nepa.finite-differences"), _is_nepa,
    ),
    Fault(
        "nepa.stop-gradient-swapped", "The prediction is detached, the target is trained.",
        CLASSIC, _forward(lambda z, h: (h[:, :-1].detach(), z[:, 1:])),
        ("nepa.target-gradient", "nepa.shift"), _is_nepa,
    ),
    Fault(
        "nepa.input-detached", "The embedding is detached before the transformer reads it.",
        CLASSIC, _transformed(lambda self, z, h, inputs: (z, self.student.transform(
            z.detach(), tuple(inputs.values.shape[2:])))),
        ("nepa.target-gradient", "nepa.patch-embedding", "nepa.cls-trained"), _is_nepa,
    ),
    Fault(
        "nepa.not-causal", "No causal mask.", CLASSIC, patched((blocks,), "attend", _not_causal),
        ("nepa.causal",), _is_nepa,
    ),
    Fault(
        "nepa.one-too-generous", "The causal mask lets the next token through.", CLASSIC,
        patched((blocks,), "attend", _one_more), ("nepa.causal",), _is_nepa,
    ),
    Fault(
        "nepa.loss-over-padding", "What was not measured is a target.", "NEPA-ECG defect 14",
        patched((Nepa,), "_valid", lambda was: lambda self, inputs: None), ("nepa.padding",),
        _is_nepa,
    ),
    Fault(
        "nepa.padding-diluted", "Padding is left out of the sum, and counted in the mean.",
        CLASSIC, _forward(mean=_over_padding), ("nepa.padding",), _is_nepa,
    ),
    Fault(
        "nepa.mean-by-sample", "The loss is the mean of the samples' means.", CLASSIC,
        _forward(mean=_by_sample), ("nepa.padding",), _is_nepa,
    ),
    Fault(
        "nepa.weight-whole", "A batch with padding weighs like one without.", CLASSIC,
        patched((nepa,), "_count", lambda was: lambda terms, valid: was(terms, None)),
        ("nepa.padding",), _is_nepa,
    ),
    Fault(
        "nepa.padding-shifted", "The validity of a patch is that of the one before.", CLASSIC,
        patched((Nepa,), "_valid", lambda was: lambda self, inputs: (
            None if (valid := was(self, inputs)) is None else valid.roll(1, 1))),
        ("nepa.padding",), _is_nepa,
    ),
    Fault(
        "nepa.cosine-over-tokens", "Vectors are normalised over the tokens.", CLASSIC,
        _cosine(_over_tokens), ("nepa.loss", "nepa.copy-last"), _is_nepa,
    ),
    Fault(
        "nepa.dot-product", "The target is not normalised.", CLASSIC,
        _cosine(lambda a, b: (F.normalize(a, dim=-1) * b).sum(-1)),
        ("nepa.loss", "nepa.scale-free"), _is_nepa,
    ),
    Fault(
        "nepa.epsilon", "The cosine's epsilon is 1e-8.", "NEPA-ECG defect 17",
        _cosine(lambda a, b: F.cosine_similarity(a, b, dim=-1, eps=1e-8)), ("nepa.scale-free",),
        _is_nepa,
    ),
    Fault(
        "nepa.squared-error", "Squared error for the cosine.", CLASSIC,
        _cosine(lambda a, b: -(a - b).square().mean(-1)), ("nepa.loss", "nepa.scale-free"),
        _is_nepa,
    ),
    Fault(
        "nepa.sign", "The cosine is minimised.", CLASSIC, _forward(sign=1.0),
        ("nepa.loss", "nepa.shift"), _is_nepa,
    ),
    Fault(
        "nepa.target-transformed", "The target is the transformer's output.", CLASSIC,
        _forward(lambda z, h: (h[:, :-1], h[:, 1:].detach())), ("nepa.loss", "nepa.shift"),
        _is_nepa,
    ),
    Fault(
        "nepa.target-normed", "The target is layer-normed.", "classic (I-JEPA's habit)",
        _forward(_embed_under_norm(None)), ("nepa.loss",), _is_nepa,
    ),
    Fault(
        "nepa.target-of-average", "The target is the average's embedding.", CLASSIC,
        _transformed(_teachers_target), ("nepa.loss", "nepa.teacher-apart"), _averaged,
    ),
    Fault(
        "nepa.pulled-to-average", "The average of the weights pulls at the loss.", CLASSIC,
        patched((Nepa,), "forward", _trained_average), ("nepa.teacher-apart",), _averaged,
    ),
    Fault(
        "nepa.first-patch-skipped", "CLS predicts nothing.", CLASSIC,
        _forward(mean=lambda terms, valid: nepa._mean(
            terms[:, 1:], None if valid is None else valid[:, 1:])),
        ("nepa.loss", "nepa.shift"), _is_nepa,
    ),
    Fault(
        "nepa.output-copied", "The baseline compares outputs.", CLASSIC,
        _forward(copied=lambda z, h: (h[:, :-1], z[:, 1:])), ("nepa.copy-last",), _is_nepa,
    ),
    Fault(
        "nepa.cls-copied", "The baseline counts CLS against the first patch.", CLASSIC,
        _forward(copied=lambda z, h: (z[:, :-1], z[:, 1:])), ("nepa.copy-last",), _is_nepa,
    ),
    Fault(
        "nepa.padding-copied", "The baseline counts padding.", CLASSIC,
        patched((Nepa,), "forward", _copied_over_padding), ("nepa.copy-last",), _is_nepa,
    ),
    Fault(
        "nepa.surprise-late", "The error of a patch is told of the one after it.", CLASSIC,
        patched((Nepa,), "patch_errors", _of_the_patch_before), ("nepa.surprise",), _is_nepa,
    ),
    Fault(
        "nepa.surprise-of-padding", "What was not measured has an error of 0.", CLASSIC,
        patched((Nepa,), "patch_errors", _of_all_patches), ("nepa.surprise",), _is_nepa,
    ),
    Fault(
        "nepa.cls-unit-variance", "CLS keeps the unit variance it was made with.",
        "NEPA-ECG defect 16", patched((PatchEncoder,), "initialise", _unit_cls),
        ("nepa.cls-initial",), _is_nepa,
    ),
    Fault(
        "nepa.cls-zero", "CLS is not drawn and begins at 0.", CLASSIC,
        patched((initialise,), "TOKENS", _zero_cls), ("nepa.cls-initial",), _is_nepa,
    ),
    Fault(
        "nepa.cls-appended", "CLS stands after the patches.", CLASSIC,
        _embed(lambda cls, patches: torch.cat([patches, cls], 1)),
        ("nepa.cls-prepended", "nepa.loss"), _is_nepa,
    ),
    Fault(
        "nepa.cls-mean", "The mean of the patches stands where CLS belongs.", CLASSIC,
        _embed(lambda cls, patches: torch.cat([patches.mean(1, keepdim=True), patches], 1)),
        ("nepa.cls-prepended", "nepa.causal", "nepa.cls-trained"), _is_nepa,
    ),
    Fault(
        "nepa.cls-decayed", "Weight decay pulls at CLS.", "NEPA-ECG defect 18",
        patched((Nepa,), "undecayed", _decayed_cls), ("nepa.cls-trained",), _is_nepa,
    ),
    Fault(
        "nepa.fixed-trained", "A fixed patch embedding is trained all the same.", CLASSIC,
        patched((Nepa,), "__init__", _never_fixed), ("nepa.patch-embedding",), _is_nepa,
    ),
    Fault(
        "nepa.fixed-by-half", "The bias of a fixed patch embedding is trained.", CLASSIC,
        patched((Nepa,), "__init__", _half_fixed), ("nepa.patch-embedding",), _is_nepa,
    ),
    Fault(
        "nepa.trained-fixed", "A trained patch embedding is fixed.", CLASSIC,
        patched((Nepa,), "__init__", _always_fixed), ("nepa.patch-embedding",), _is_nepa,
    ),
    Fault(
        "nepa.draw-lost", "The encoder is not told that it is being trained.", CLASSIC,
        patched((Nepa,), "_embed_and_transform", _without_draw),
        ("drop-path.wired",), _is_nepa,
    ),
)  # fmt: skip
