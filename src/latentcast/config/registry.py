"""The kinds of a section of the configuration, each registered by the file that defines it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic_core import PydanticCustomError

from latentcast.config.settings import Settings
from latentcast.errors import nearest

SettingsT = TypeVar("SettingsT", bound=Settings)
BuilderT = TypeVar("BuilderT", bound=type)


class Registry(Generic[SettingsT]):
    """The settings of each ``kind``, and the class that is built from them.

    Whoever defines a kind registers it. ``home`` is the module whose import registers the kinds of
    this library; it is imported when a kind is first asked for, so that the configuration needs
    no import of what it configures.

    Args:
        section: of the configuration, as error messages name it.
        home: module that registers the kinds.
        default: kind of a section that names none.
    """

    def __init__(self, section: str, home: str, default: str | None = None) -> None:
        self.section, self.home, self.default = section, home, default
        self._settings: dict[str, type[SettingsT]] = {}
        self._builders: dict[str, type[Any]] = {}

    def register(self, builder: BuilderT) -> BuilderT:
        """Make a class known under the kind of its ``settings``; usable as a decorator.

        Raises:
            ValueError: another class has that kind.
        """
        settings: type[SettingsT] = builder.settings  # type: ignore[attr-defined]
        kind = settings.model_fields["kind"].default
        former = self._builders.get(kind)
        if former is not None and former.__qualname__ != builder.__qualname__:
            raise ValueError(f"{self.section}.kind {kind}: {former} and {builder} both claim it")
        self._settings[kind], self._builders[kind] = settings, builder
        return builder

    @property
    def kinds(self) -> dict[str, type[SettingsT]]:
        """Settings by kind."""
        import_module(self.home)
        return dict(self._settings)

    def builder(self, settings: Settings) -> Any:
        """The class that is built from settings of this kind."""
        import_module(self.home)
        return self._builders[settings.kind]  # type: ignore[attr-defined]

    def validate(self, section: Any) -> Any:
        """A mapping as the settings of its ``kind``; anything else is left to the field's type."""
        if not isinstance(section, Mapping):
            return section
        kinds, kind = self.kinds, section.get("kind", self.default)
        if not isinstance(kind, str) or kind not in kinds:
            names = ", ".join(sorted(kinds))
            if kind is None:
                reason = f"kind is missing; set {self.section}.kind to one of {names}"
            else:
                reason = f"kind '{kind}' is unknown; {nearest(str(kind), kinds)}"
            raise PydanticCustomError("unknown_kind", "{reason}", {"reason": reason})
        return kinds[kind].model_validate({"kind": kind, **section})
