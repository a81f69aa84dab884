"""Arguments: verbs and flags by name, repeats that add up, and what several verbs take alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from tyro.conf import Positional

from latentcast.errors import LatentcastError, nearest

Verbs = dict[str, Callable[..., int | None]]
HELP = ("--help", "--help-verbose")


@dataclass(frozen=True)
class Flags:
    """The flags of a verb.

    Attributes:
        parameters: flag as it is typed -> the parameter that it sets.
        lists: those that take any number of values.
    """

    parameters: Mapping[str, str]
    lists: frozenset[str]

    @classmethod
    def of(cls, verb: Callable[..., object]) -> Flags:
        """Read from the signature."""
        parameters, lists = {}, set()
        for name, hint in get_type_hints(verb, include_extras=True).items():
            marks: Sequence[object] = ()
            if get_origin(hint) is Annotated:
                hint, *marks = get_args(hint)
            if name == "return" or Positional in marks:
                continue
            flag = name.rstrip("_").replace("_", "-")  # in_ is --in
            parameters[f"--{flag}"] = name
            if hint is bool:
                parameters[f"--no-{flag}"] = name
            if get_origin(hint) is tuple:
                lists.add(f"--{flag}")
        return cls(parameters, frozenset(lists))


def joined(arguments: Sequence[str], verbs: Verbs) -> list[str]:
    """The arguments with all values of a list flag in its first place.

    The parser keeps the last of several and drops the others: ``--set a=1 --set b=2`` becomes
    ``--set a=1 b=2``.

    Args:
        arguments: without the name of the program.
        verbs: by name.

    Raises:
        LatentcastError: an unknown verb or flag, or a second value for a flag that has one.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments)
    verb, *others = arguments
    if verb not in verbs:
        options = [option for option in ("--help", "--version") if verb == option.strip("-")]
        close = nearest(verb, options or verbs)
        raise LatentcastError(f"latentcast {verb}: is no verb; {close}")
    flags = Flags.of(verbs[verb])
    groups = [[verb]]  # a flag with its values in each
    by_parameter: dict[str, list[str]] = {}
    group = groups[0]
    for argument in others:
        if not argument.startswith("--") or argument in HELP:
            group.append(argument)
            continue
        typed, equals, value = argument.partition("=")
        flag = typed.replace("_", "-")
        if flag not in flags.parameters:
            raise LatentcastError(
                f"{typed}: is no flag of latentcast {verb}; {nearest(flag, flags.parameters)}"
            )
        parameter = flags.parameters[flag]
        if parameter in by_parameter and flag not in flags.lists:
            raise LatentcastError(f"{flag}: is there twice and takes one value; leave one out")
        if parameter not in by_parameter:
            groups.append([flag])
        group = by_parameter.setdefault(parameter, groups[-1])
        group += [value] if equals else []
    return [word for group in groups for word in group]


def apart_from_script(arguments: Sequence[str], verbs: Verbs) -> list[str]:
    """As :func:`joined`; what follows the script of ``watch`` is the script's, flags and all.

    Raises:
        LatentcastError: as :func:`joined`.
    """
    if arguments[:1] != ["watch"]:
        return joined(arguments, verbs)
    flags = [name for name, hint in get_type_hints(verbs["watch"]).items() if hint is bool]
    place = 1
    while place < len(arguments) and arguments[place].startswith("-"):
        typed = arguments[place]
        switch = typed in ("-m", *HELP) or typed.removeprefix("--no-").strip("-") in flags
        place += 1 if switch or "=" in typed else 2
    own = ["--module" if one == "-m" else one for one in arguments[:place]]
    script = arguments[place:]
    return [*joined(own, verbs), *(["--"] if script else []), *script]


def recording_options(
    sampling_rate: float | None, leads: str | None, unit: str | None, layout: str,
    rename: str | None, resample: bool, missing_leads: str,
) -> dict[str, Any]:  # fmt: skip
    """How recordings are to be read, as ``embed`` and ``predict`` of the library take it."""
    from latentcast.signals.leads import name_pairs

    return {
        "sampling_rate": sampling_rate, "leads": leads.split(",") if leads else None, "unit": unit,
        "layout": layout, "rename": name_pairs(rename), "resample": resample,
        "missing_leads": missing_leads,
    }  # fmt: skip
