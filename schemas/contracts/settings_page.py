"""The page of all settings, `docs/reference/settings.md`: made from the Settings classes of the processes."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_json

from servicekit.settings import Settings

STARTS = 'if __name__ == "__main__":'
"""A module of a service in which this stands is a process: `python -m <module>`."""

INTRODUCTION = """\
# Settings

Made from the Settings classes by `python -m contracts.make`; not by hand.

A process reads its settings from its environment, or from files of the same names in the folder that
`THROUGHGATE_SECRETS_DIR` names: passwords need not stand in an environment. A variable goes before a file. Numbers
whose name ends in `_SECONDS`, `_HOURS` or `_DAYS` are of that unit. A process that cannot read a setting does not
start, and says which one it is without what stood in it. A setting that every process takes and only some use says so.

The step `python -m servicekit.migrate SERVICE` reads `THROUGHGATE_DATABASE_URL`, the owner's; without a service
`THROUGHGATE_DATABASE_URLS`: JSON, the owner's URL of each.
What the `throughgate` command reads is in its `--help`, and in the [tutorial](../tutorial.md).
"""


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its module, and the class of its settings."""

    module: str
    settings: type[Settings]


def processes(services: Sequence[str]) -> list[Process]:
    """Every process of these services, by its module's name.

    A module's settings are the most particular class of them that it names.
    """
    found = []
    for service in services:
        (folder,) = importlib.import_module(service).__path__
        for path in sorted(Path(folder).glob("*.py")):
            if STARTS in path.read_text("utf-8"):
                module = importlib.import_module(f"{service}.{path.stem}")
                named = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Settings)]
                found.append(Process(module.__name__, max(named, key=lambda settings: len(settings.__mro__))))
    return found


def page(services: Sequence[str]) -> str:
    """The page's text: what every process has, then what some have besides."""
    all_of_them = processes(services)
    by_class: dict[type[Settings], list[str]] = {}
    for process in all_of_them:
        by_class.setdefault(process.settings, []).append(f"`{process.module}`")
    names = ", ".join(f"`{process.module}`" for process in all_of_them)
    lines = [INTRODUCTION, "## Every process", "", f"{names}.", "", *_table(Settings)]
    for settings, modules in by_class.items():
        if settings is not Settings:
            lines += ["", f"## {', '.join(modules)}", "", "Besides those of every process:", "", *_table(settings)]
    return "\n".join(lines) + "\n"


def _table(settings: type[Settings]) -> Iterator[str]:
    """The settings that stand in this class itself, or in one between it and that of every process."""
    classes = [c for c in settings.__mro__ if issubclass(c, Settings) and (c is settings or c is not Settings)]
    own = {name for c in classes for name in c.__annotations__}
    yield "| setting | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in settings.model_fields.items():
        if name in own:
            variable = f"{settings.model_config.get('env_prefix')}{name}".upper()
            cells = f"`{variable}`", _type(field.annotation, field), _default(field), _meaning(settings, name)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(annotation: Any, field: FieldInfo) -> str:
    if annotation is SecretStr:
        return "secret"
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(annotation))
    if annotation in (int, float):
        above = [rule.gt for rule in field.metadata if hasattr(rule, "gt")]
        return ("whole number" if annotation is int else "number") + (f" above {above[0]}" if above else "")
    return {str: "text", bool: "`true` or `false`"}.get(annotation, "JSON")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "has to be given"
    if isinstance(field.default, SecretStr):
        return "not shown" if field.default else "empty"
    default = field.default if isinstance(field.default, str) else to_json(field.default).decode()
    return f"`{default}`" if default else "empty"


def _meaning(settings: type[Settings], name: str) -> str:
    """The attribute's docstring; where a class gives a setting another default only, that of the class above it."""
    for above in settings.__mro__:
        if issubclass(above, Settings) and (field := above.model_fields.get(name)) and field.description:
            return " ".join(field.description.split())
    return ""
