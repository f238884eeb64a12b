"""Whom an event names: the identifiers that it lists, and for bytes that nobody can read, all that may be one."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from uuid import UUID

from consent.repository.clients import Identifier
from consent.service.unread import data_of, json_of, normal, packed_in, unescaped
from contracts import intake
from contracts.intake import PATTERNS
from contracts.vocabulary import IdentifierType

MOST_NAMED = 20
"""Identifiers for which one stopping event that cannot be applied denies: twice what an event may list."""

_OWN = frozenset({IdentifierType.CASE, IdentifierType.THROUGHGATE})
"""Numbers that mean a client to one agency only."""


def identifiers_of(listed: Iterable[intake.Identifier], agency: str) -> list[Identifier]:
    """The identifiers that an event of this agency lists, each once, as the identifier table knows them."""
    return list(dict.fromkeys(Identifier(i.type.value, agency if i.type in _OWN else "", i.value) for i in listed))


_NAMED_OTHERWISE = frozenset(type.value for type in IdentifierType if type is not IdentifierType.CASE)
_SET_OUT = re.compile(r"[^0-9A-Za-z/]+")
"""What people set numbers out with: blanks, hyphens, dots, of whatever kind."""


def _any_of(patterns: Mapping[IdentifierType, str]) -> str:
    """Any number but an agency's own: any word may be one, so it counts only where the event says a number."""
    return "|".join(f"(?P<{t.value}>{pattern})" for t, pattern in patterns.items() if t is not IdentifierType.CASE)


_IN_A_TEXT = re.compile(rf"(?<![A-Z0-9])(?:{_any_of(PATTERNS)})(?![A-Z0-9])", re.IGNORECASE | re.ASCII)
_SHORT_PNC = "((?:19|20)?[0-9]{2})/([0-9]{1,7})([A-Z])"
"""As the police write it: the year often without its century, what follows without zeros in front."""
_SHORT_IN_A_TEXT = re.compile(rf"(?<![A-Z0-9]){_SHORT_PNC}(?![A-Z0-9])", re.IGNORECASE | re.ASCII)
_SHORT_BARE = re.compile(_SHORT_PNC, re.IGNORECASE | re.ASCII)
_BARE = re.compile(_any_of({**PATTERNS, IdentifierType.THROUGHGATE: "[0-9a-f]{32}"}), re.IGNORECASE | re.ASCII)
_CASE = re.compile(PATTERNS[IdentifierType.CASE])
_BETWEEN_QUOTES = re.compile(r'[^"]+')
_VALUE = re.compile(r'"value"\s*:\s*"([^"]+)"')


def identifiers_in(value: bytes, agency: str) -> Iterator[Identifier]:
    """Every identifier that may stand anywhere in the bytes, some more than once: whom a stopping event may mean.

    Those that stand where an event says whom it is about come first. JSON is walked, so that no escape hides a number.
    What is not JSON is searched as text from its beginning, with escaped slashes undone. What is packed in base64, as
    CloudEvents allows for the data, comes before all. A number also counts with small letters, blanks and hyphens, in
    wide letters, or shortened as the police do, for which an event is rejected. Where the contract does not know the
    type, the number counts under every type that it fits.
    """
    text = normal(unescaped(value))
    for packed in packed_in(text):
        yield from identifiers_in(packed, agency)
    parsed = json_of(value)
    if parsed is None:
        found = _numbers_in(text, agency)
        own_are_named = IdentifierType.CASE in text.upper()
        for match in _VALUE.finditer(text):
            if own_are_named or not _numbers_in(match[1], agency):
                found += [(match.start(), key) for key in _agencys_own(match[1], agency)]
        yield from (key for _, key in sorted(found))
        return
    for root in (data_of(parsed).get("identifiers"), parsed):
        for node in _nodes(root):
            if isinstance(node, str | int):  # an NHS number may have been sent as a number
                yield from (key for _, key in _numbers_in(normal(str(node)), agency))
            elif isinstance(node, dict) and _SET_OUT.sub("", str(node.get("type"))).upper() not in _NAMED_OTHERWISE:
                number = node.get("value")
                if isinstance(number, str | int):
                    yield from _agencys_own(normal(str(number)), agency)


def meant_by(value: bytes, agency: str, whom: Iterable[Identifier]) -> tuple[list[Identifier], bool]:
    """For whom a stopping event that cannot be applied denies, at most `MOST_NAMED`; and whether it names more.

    `whom`, what could be read of whom it is about, goes first. That is safe: a real withdrawal is about one client,
    whose numbers stand where such an event has them or near its beginning, so it always denies. If everybody were held
    whose number stands somewhere in it, one event could stop the sharing of thousands.
    """
    found: dict[Identifier, None] = {}
    for key in chain(whom, identifiers_in(value, agency)):
        found[key] = None
        if len(found) > MOST_NAMED:
            break
    return list(found)[:MOST_NAMED], len(found) > MOST_NAMED


def _numbers_in(text: str, agency: str) -> list[tuple[int, Identifier]]:
    """Numbers, and where they begin: words of a text, or all that stands between two quotes, however set out."""
    found = [(match.start(), _key(match, agency)) for match in _IN_A_TEXT.finditer(text)]
    found += [(match.start(), _whole_pnc(match)) for match in _SHORT_IN_A_TEXT.finditer(text)]
    for piece in _BETWEEN_QUOTES.finditer(text):
        bare = _SET_OUT.sub("", piece[0])
        if match := _BARE.fullmatch(bare):
            found.append((piece.start(), _key(match, agency)))
        if match := _SHORT_BARE.fullmatch(bare):
            found.append((piece.start(), _whole_pnc(match)))
    return found


def _whole_pnc(match: re.Match[str]) -> Identifier:
    """The number with its year in full, the last that ended so: nobody alive is on file from a hundred years ago."""
    year, serial, letter = match.groups()
    if len(year) == 2:
        now = datetime.now(UTC).year
        year = str(now - (now - int(year)) % 100)
    return Identifier(IdentifierType.PNC.value, "", f"{year}/{serial:0>7}{letter.upper()}")


def _key(match: re.Match[str], agency: str) -> Identifier:
    """A number as the identifier table has it."""
    type = IdentifierType(str(match.lastgroup))
    if type is IdentifierType.THROUGHGATE:
        return Identifier(type.value, agency, str(UUID(match[0])))
    return Identifier(type.value, "", match[0].upper())


def _agencys_own(text: str, agency: str) -> list[Identifier]:
    """An agency's own number, if it can be one. Only blanks are dropped: anything else may be a part of it."""
    number = "".join(text.split())
    return [Identifier("CASE", agency, number)] if _CASE.fullmatch(number) else []


def _nodes(root: Any) -> Iterable[Any]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, dict):
            stack += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            stack += node
