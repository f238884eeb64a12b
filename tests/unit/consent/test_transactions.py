"""A poll of the worker is cut into transactions, so that each takes its locks once and in order."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from consent.worker import Intake


def record(type: str, topic: str = "intake.hmp-leeds") -> Any:
    return SimpleNamespace(topic=f"here.{topic}", value=json.dumps({"type": f"throughgate.{type}.v1"}).encode())


RECORDED = record("client.recorded")
ASKED = record("referral.requested", "requests.referral")


def cut(*records: Any) -> list[list[Any]]:
    return [list(part) for part in Intake("here.").cut(records) if part]


def test_what_services_ask_is_a_transaction_and_what_agencies_say_another() -> None:
    assert cut(ASKED, RECORDED, ASKED, RECORDED) == [[RECORDED, RECORDED], [ASKED, ASKED]]


@pytest.mark.parametrize("type", ["identity.linked", "identity.unlinked", "erasure.requested"])
@pytest.mark.parametrize("escaped", [False, True])
def test_what_links_unlinks_or_erases_stands_alone(type: str, escaped: bool) -> None:
    alone = record(type)
    if escaped:
        alone.value = alone.value.replace(b"e", b"\\u0065")
    assert cut(RECORDED, RECORDED, alone, alone, RECORDED) == [[RECORDED, RECORDED], [alone], [alone], [RECORDED]]


def test_what_cannot_be_read_is_taken_in_with_the_others() -> None:
    unreadable, empty = record("x"), record("x")
    unreadable.value, empty.value = b"\xff{", None
    assert cut(RECORDED, unreadable, empty) == [[RECORDED, unreadable, empty]]
