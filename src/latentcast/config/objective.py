"""What every objective's configuration has in common; each objective defines its own beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, SerializeAsAny

from latentcast.config.registry import Registry
from latentcast.config.settings import Settings
from latentcast.config.views import Views

if TYPE_CHECKING:
    from latentcast.config.run import Config

Grid = tuple[int, ...]


class ObjectiveConfig(Settings):
    """Base of the configurations of objectives; a subclass gives ``kind`` its name."""

    registry: ClassVar[Registry[Any]]

    reads_leads: ClassVar[bool] = False
    """Whether a token may be a patch of one lead, on a grid of leads × time."""

    kind: str
    views: Views | None = None
    """A term between two augmented crops of each sample, added to the loss; None for none."""

    def check(self, config: Config) -> None:
        """Refuse what this objective cannot be trained with.

        Raises:
            ValueError: a sentence that names the key and the value to set.
        """

    def grids(self, finest: Grid) -> tuple[Grid, ...]:
        """Cells along each axis at every level, the tokens of the encoder first."""
        return (finest,)

    @property
    def whole_batch(self) -> str | None:
        """The key of what needs the whole batch, so that it cannot be accumulated; else None."""
        return None if self.views is None else "views"


OBJECTIVES: Registry[ObjectiveConfig] = Registry("objective", home="latentcast.objectives.build")
ObjectiveConfig.registry = OBJECTIVES

AnyObjective = Annotated[SerializeAsAny[ObjectiveConfig], BeforeValidator(OBJECTIVES.validate)]
