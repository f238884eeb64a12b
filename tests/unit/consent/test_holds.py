"""What is said of a stopping event that could not be applied: held only where something is."""

from datetime import UTC, datetime

import pytest

from consent.repository.clients import Hold, Identifier
from consent.service.desk import Cause, Desk
from consent.service.holds import MOST_OPEN, deny
from consent.service.incoming import UNKNOWN_CLIENT
from consent.service.register import Register

NUMBER = Identifier("NOMS", "", "A1234BC")
REFERENCE = Identifier("THROUGHGATE", "prison", "0f8fad5b-d9cb-469f-a165-70867728950e")


@pytest.fixture
def desk() -> Desk:
    """No client has any of these numbers."""
    return Desk({}, Register({}, []), datetime(2026, 1, 1, tzinfo=UTC))


def denied(desk: Desk, *keys: Identifier) -> str:
    return deny(desk, keys, False, UNKNOWN_CLIENT, Cause("prison", "e-1", None)).code


def test_a_number_that_nobody_has_is_held(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    assert denied(desk, NUMBER) == "unknown-client"
    assert desk.changes.held_identifiers == {(NUMBER, Hold("prison", "unknown-client")): 1}
    assert not desk.changes.holds
    assert ["held; see GET /holds" in m for m in caplog.messages] == [True]


@pytest.mark.parametrize("keys", [[], [REFERENCE]])
def test_what_names_nobody_holds_nobody_and_says_so(
    desk: Desk, caplog: pytest.LogCaptureFixture, keys: list[Identifier]
) -> None:
    assert denied(desk, *keys) == "unknown-client"
    assert desk.changes.holds == {(None, Hold("prison", "unknown-client")): 1}
    assert not desk.changes.held_identifiers
    assert [("stopped nobody" in m, "held" in m) for m in caplog.messages] == [(True, False)]


def test_what_there_was_no_room_for_is_told_once(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.open_holds["prison"] = MOST_OPEN
    assert denied(desk, NUMBER) == "too-many-holds"
    assert desk.changes.holds == {(None, Hold("prison", "too-many-holds")): 1}
    assert ["not held in full (too-many-holds)" in m for m in caplog.messages] == [True]
