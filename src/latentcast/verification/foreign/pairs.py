"""Students and their averages, found among all that a training program holds in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from latentcast.verification.foreign.heap import Heap
from latentcast.verification.foreign.sample import Sample

APART = 0.5
"""Distance over the student's norm; two independent draws of the weights are 1.4 apart."""
Read = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Pair:
    """What is trained, and what may be its average: tensors in one order.

    Attributes:
        student, teacher: read the tensors as they are now.
        teacher_module: None where the average is a list of tensors and no module.
    """

    name: str
    student: Read
    teacher: Read
    student_module: nn.Module
    teacher_module: nn.Module | None

    def distance(self) -> float:
        """Between both, over the student's norm."""
        a, b = self.student(), self.teacher()
        sample = Sample(a)
        x, y = sample.take(a), sample.take(b)
        return float((x - y).norm()) / max(float(x.norm()), 1e-300)


def pair_of(student: nn.Module, teacher: nn.Module) -> Pair:
    """Two modules whose parameters have one order."""
    return Pair(
        type(student).__name__, lambda: _parameters(student), lambda: _parameters(teacher),
        student, teacher,
    )  # fmt: skip


def find_pairs(heap: Heap, optimizer: Optimizer) -> list[Pair]:
    """Modules and lists of tensors with the shapes of something that is trained.

    A candidate is what no optimizer trains, or what is trained and equals another module to the
    bit; whether it is an average is seen when it moves.
    """
    moved = heap.trained(optimizer)
    named = {id(m): (m, dict(m.named_parameters())) for m in heap.modules}
    named = {key: (m, ps) for key, (m, ps) in named.items() if ps}
    students = [x for x in named.values() if any(id(p) in moved for p in x[1].values())]
    siblings = {id(m): id(parent) for parent, _ in named.values()
                if isinstance(parent, nn.ModuleList | nn.Sequential)
                for m in parent.children()}  # fmt: skip
    found, inside, taken = list[Pair](), set[int](), set[frozenset[int]]()
    candidates = sorted(named.values(), key=lambda x: -sum(p.numel() for p in x[1].values()))
    for teacher, weights in candidates:
        key = frozenset(map(id, weights.values()))
        own = any(id(p) in moved for p in weights.values())
        if id(teacher) in inside or key in taken:
            continue
        best: tuple[tuple[object, ...], Pair] | None = None
        for student, theirs in students:
            if not _fits(student, theirs, teacher, weights):
                continue
            if id(student) in siblings and siblings[id(student)] == siblings.get(id(teacher)):
                continue
            if own and not _same_start(theirs, weights):
                continue
            pair = _named_pair(student, teacher, list(weights))
            distance = pair.distance()
            if not (distance == 0.0 if own else math.isfinite(distance)):
                continue
            rank = (type(student) is not type(teacher), len(theirs), distance)
            if best is None or rank < best[0]:
                best = rank, pair
        if best is not None:
            found.append(best[1])
            taken.add(key)
            inside |= {id(m) for m in teacher.modules()}
    return found + list(_shadows(heap, students, moved, found))


def _fits(
    student: nn.Module, theirs: Mapping[str, Tensor], teacher: nn.Module,
    weights: Mapping[str, Tensor],
) -> bool:  # fmt: skip
    """Every weight of the teacher is one of the student, which is not much larger."""
    if student is teacher or not all(
        name in theirs and theirs[name].shape == weight.shape and theirs[name] is not weight
        for name, weight in weights.items()
    ):
        return False
    size = sum(p.numel() for p in weights.values())
    return 2 * size >= sum(p.numel() for p in theirs.values()) and any(
        p.ndim > 1 for p in weights.values()
    )


def _same_start(theirs: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether the first values of the first matrix agree, which costs nothing to ask."""
    name = next(name for name, weight in weights.items() if weight.ndim > 1)
    a, b = theirs[name].detach()[0], weights[name].detach()[0]
    return torch.equal(a, b)


def _named_pair(student: nn.Module, teacher: nn.Module, names: list[str]) -> Pair:
    def read(module: nn.Module) -> list[Tensor]:
        now = dict(module.named_parameters())
        return [now[name].detach() for name in names]

    return Pair(type(student).__name__, lambda: read(student), lambda: read(teacher),
                student, teacher)  # fmt: skip


def _shadows(
    heap: Heap, students: Sequence[tuple[nn.Module, Mapping[str, Tensor]]], moved: set[int],
    found: Sequence[Pair],
) -> Iterator[Pair]:  # fmt: skip
    """Lists and dictionaries of tensors of a student's shapes, near it, that are not its own."""
    live = {p.data_ptr() for _, ps in students for p in ps.values()}
    live |= {p.grad.data_ptr() for _, ps in students for p in ps.values() if p.grad is not None}
    live |= {p.data_ptr() for pair in found for p in pair.teacher()}
    shapes: dict[tuple[torch.Size, ...], tuple[nn.Module, list[str]]] = {}
    for module, ps in sorted(students, key=lambda x: len(x[1])):
        for names in (list(ps), [n for n, p in ps.items() if id(p) in moved]):
            if len(names) > 1:
                shapes.setdefault(tuple(ps[n].shape for n in names), (module, names))
    most = max(map(len, shapes), default=0)
    for one in heap.containers:
        tensors = _tensors(one, most)
        match = shapes.get(tuple(t.shape for t in tensors)) if tensors else None
        if match is None or any(t.data_ptr() in live for t in tensors):
            continue
        module, names = match
        student = _named_pair(module, module, names).student
        pair = Pair(f"{type(module).__name__}, averaged in a {type(one).__name__}", student,
                    _reader(one, len(names)), module, None)  # fmt: skip
        if pair.distance() < APART:
            live |= {t.data_ptr() for t in tensors}
            yield pair


def _reader(container: object, most: int) -> Read:
    return lambda: [t.detach() for t in _tensors(container, most)]


def _tensors(container: object, most: int) -> list[Tensor]:
    """The floating tensors of a list or dictionary with at most so many, else none."""
    values = list(container.values() if isinstance(container, dict) else container)  # type: ignore[call-overload]
    if len(values) > most + 8 or not all(issubclass(type(v), Tensor) for v in values[:2]):
        return []
    if not all(issubclass(type(v), Tensor) for v in values):
        return []
    return [v for v in values if v.is_floating_point() and v.ndim]


def _parameters(module: nn.Module) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]
