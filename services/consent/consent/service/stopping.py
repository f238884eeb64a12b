"""Whether bytes that cannot be applied were to stop sharing: then they stop it anyway."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from consent.service.unread import data_of, json_of, normal, packed_in, unescaped
from contracts import intake
from contracts.fields import models_in
from contracts.intake import STOPPING_TYPES


def _letters(word: str) -> str:
    """What is left of a name in whichever way it is written: `withdrawnAt`, `withdrawn_at`, `Withdrawn.at`."""
    return "".join(filter(str.isalpha, word.lower()))


def _fields_below(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield _letters(name)
        for part in models_in(field.annotation):
            yield from _fields_below(part)


_DATA: Mapping[str, type[BaseModel]] = {
    get_args(event.model_fields["type"].annotation)[0]: event.model_fields["data"].annotation
    for event in get_args(intake.IntakeEvent)
}
_NAMES = {type: tuple(type.split(".")[1:3]) for type in _DATA}
_OTHERS = tuple(_letters("".join(name)) for type, name in _NAMES.items() if type not in STOPPING_TYPES)
_STOPS = tuple(
    _letters(subject + re.sub("(n|ed)$", "", verb))
    for subject, verb in (_NAMES[type] for type in sorted(STOPPING_TYPES))
)
_OURS = ("throughgate", "consent")
_STOPPING_WORDS = ("withdr", "refus", "revo", "restrict", "unlink", "eras")
"""How words begin that mean a stop, in a type that also says one of `_OURS`. Without that it is an event of others,
such as `approved-premises.application.withdrawn`.
"""
_FIELDS = [
    (
        {_letters(n) for n, field in model.model_fields.items() if field.is_required()},
        {*map(_letters, model.model_fields)},
    )
    for model in (_DATA[type] for type in STOPPING_TYPES)
]
"""Of each stopping type the fields that it must have, and all."""
_ONLY_IN_STOPS = (
    set[str]()
    .union(*(required for required, _ in _FIELDS))
    .difference(*(_fields_below(model) for type, model in _DATA.items() if type not in STOPPING_TYPES))
)
_TYPE = re.compile(r'"[a-z_-]*type"\s*:\s*"([^"]*)"', re.IGNORECASE)
_FIELD = re.compile(r'"(\w+)"\s*:')


def is_stopping(value: bytes, header: str | None = None) -> bool:
    """Whether an event that cannot be applied was to stop sharing. When in doubt: yes.

    It was, if one of the stopping types stands anywhere in it. If not, its type says so, also where we do not know it
    for it is not spelt to the letter. One of the other types that we know says that it was not. Where no type can be
    read, or one that says neither, the names of its fields say it. No other word in it counts: a client may have
    withdrawn from heroin.

    Args:
        header: what stands beside the bytes as the type, in a header.
    """
    text = normal(unescaped(value)).replace('\\"', '"')
    lower = text.lower()
    if any(type.rsplit(".", 1)[0] in lower for type in STOPPING_TYPES):
        return True
    event = json_of(value)
    own = event.get("type") if isinstance(event, dict) else None
    types = [_letters(normal(type)) for type in (header, own) if isinstance(type, str)]
    types = [type for type in types if type] or [_letters(type) for type in _TYPE.findall(text)]
    known = [type.removesuffix("v").endswith(_OTHERS) for type in types]  # without its version
    if any(_means_a_stop(type) for type, is_known in zip(types, known, strict=True) if not is_known):
        return True
    return not any(known) and (_has_the_fields_of_a_stop(event, text) or any(map(is_stopping, packed_in(text))))


def _means_a_stop(type: str) -> bool:
    return any(stop in type for stop in _STOPS) or (
        any(word in type for word in _OURS) and any(word in type for word in _STOPPING_WORDS)
    )


def _has_the_fields_of_a_stop(event: Any, text: str) -> bool:
    """Whether it has a field that a stop must have and nothing else has, or all that a stop must have and no others."""
    if not _ONLY_IN_STOPS.isdisjoint(map(_letters, _FIELD.findall(text))):
        return True
    fields = {_letters(name) for name in data_of(event)}
    return any(required <= fields <= every for required, every in _FIELDS)
