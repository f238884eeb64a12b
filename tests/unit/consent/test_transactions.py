"""A poll of the worker is split into transactions, so that each takes its locks once and in order."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from consent.service.intake import ALONE
from consent.worker import Intake


def record(type: str, topic: str = "intake.hmp-leeds") -> Any:
    return SimpleNamespace(topic=f"here.{topic}", value=json.dumps({"type": f"throughgate.{type}.v1"}).encode())


RECORDED = record("client.recorded")
ASKED = record("referral.requested", "requests.referral")


def split(*records: Any) -> list[list[Any]]:
    return [list(part) for part in Intake("here.").split(records) if part]


def test_what_services_ask_is_a_transaction_and_what_agencies_say_another() -> None:
    assert split(ASKED, RECORDED, ASKED, RECORDED) == [[RECORDED, RECORDED], [ASKED, ASKED]]


@pytest.mark.parametrize("type", ["identity.linked", "identity.unlinked", "erasure.requested"])
@pytest.mark.parametrize("escaped", [False, True])
def test_what_links_unlinks_or_erases_stands_alone(type: str, escaped: bool) -> None:
    alone = record(type)
    if escaped:
        alone.value = alone.value.replace(b"e", b"\\u0065")
    assert split(RECORDED, RECORDED, alone, alone, RECORDED) == [[RECORDED, RECORDED], [alone], [alone], [RECORDED]]


@pytest.mark.parametrize("separators", [(",", ":"), (" ,\n", "\t: ")], ids=["no blanks", "blanks"])
@pytest.mark.parametrize("type", sorted(ALONE))
def test_what_is_to_come_alone_is_cut_off_however_it_is_set_out(type: str, separators: tuple[str, str]) -> None:
    """What `take_in` refuses to take in with others, once it is read, is what the poll is split at, by its bytes."""
    alone = record("x")
    alone.value = json.dumps({"id": "1", "type": type}, separators=separators).encode()
    assert split(RECORDED, alone, RECORDED) == [[RECORDED], [alone], [RECORDED]]


@pytest.mark.parametrize("words", ["throughgate.identity.linked.v1", '"type":"throughgate.erasure.requested.v1"'])
def test_free_text_cuts_nothing(words: str) -> None:
    """An agency whose notes quote our types must not have each of its events in a transaction of its own."""
    told = record("client.recorded")
    told.value = json.dumps({**json.loads(told.value), "data": {"facts": {"risk": {"notes": words}}}}).encode()
    assert split(RECORDED, told, told, RECORDED) == [[RECORDED, told, told, RECORDED]]


def test_what_cannot_be_read_is_taken_in_with_the_others() -> None:
    unreadable, empty = record("x"), record("x")
    unreadable.value, empty.value = b"\xff{", None
    assert split(RECORDED, unreadable, empty) == [[RECORDED, unreadable, empty]]
