"""The page that a client gets: nothing on it is untrue, whatever became of an entry."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from consent.api import page
from consent.api.clients import LedgerEntry

NAMES = {"hostel": "The Hostel", "prison": "The Prison"}
PERMITTED = {"category": "identity", "source": "prison", "basis": "consent", "consent": 1}
CLIENT = UUID(int=7)
NOBODY = "Nothing in this record says that anybody was told anything about you."


def entry(kind: str, outcome: str | None = None, **more: Any) -> LedgerEntry:
    told: dict[str, Any] = {
        "entry": 1,
        "decision": uuid4(),
        "kind": kind,
        "outcome": outcome or kind,
        "decided_at": datetime(2026, 7, 1, 12, tzinfo=UTC),
        "recipient": "hostel",
        "purpose": "referral",
        "type": "throughgate.client.changed.v1",
        "permitted": [],
        "withheld": [],
        "linked": False,
        "details": {},
        "erased": False,
        "unreadable": False,
    }
    return LedgerEntry.model_validate(told | more)


def parts(*entries: LedgerEntry, agency: str = "prison") -> dict[str, str]:
    """The page's text by the ids of its parts; what stands before them as `top`."""
    html = page.render(entries, NAMES, agency, CLIENT, datetime(2026, 7, 2, tzinfo=UTC))
    top, *found = re.split(r'<h2 id="(\w+)">', html)
    return {
        id: " ".join(re.sub(r"<[^>]+>", " ", text).split())
        for id, text in zip(["top", *found[::2]], [top, *found[1::2]], strict=True)
    }


def test_it_says_whose_it_is_at_its_top_and_at_the_foot_of_every_page() -> None:
    html = page.render([], NAMES, "prison", CLIENT, datetime(2026, 7, 2, tzinfo=UTC))
    _, top, foot = re.split("<main>|<footer>", html)
    for one in (top, foot):
        assert f"Reference: {CLIENT}" in one
        assert re.search('Name.*: <span class="by-hand">', one)
    assert "footer { display: table-footer-group" in html, "printed again on each page"


def test_the_operator_is_called_so() -> None:
    said = parts(agency="operator")["top"]
    assert "It was made for the operator of the system on 2 July" in said
    assert "ask the operator of the system." in said


ACCEPT = {
    "": False,
    "*/*": False,
    "application/json": False,
    "application/json, text/plain, */*": False,
    "text/html;q=0, */*": False,
    "application/json, text/html;q=0.9": False,
    "text/html;q=x, application/json": False,
    "text/html": True,
    "TEXT/HTML; charset=utf-8": True,
    "application/xhtml+xml,text/html;q=0.9": True,
    "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": True,
    "application/json;q=0.5, text/*": True,
    "application/json, text/html": True,
}


@pytest.mark.parametrize("accept", ACCEPT)
def test_a_page_is_for_whoever_asks_for_one(accept: str) -> None:
    assert page.is_wanted([accept]) is ACCEPT[accept]
    assert page.is_wanted(accept.split(",")) is ACCEPT[accept]


TOLD = [
    entry("disclosure", "sent", permitted=[PERMITTED]),
    entry("disclosure", "leaving", permitted=[PERMITTED]),
    entry("disclosure", "cancelled, may have arrived", permitted=[PERMITTED]),
    entry("disclosure", "sent", erased=True),
    entry("disclosure", "sent", unreadable=True),
    entry("view", permitted=[PERMITTED]),
    entry("view", erased=True),
    entry("view", unreadable=True),
]
NOT_TOLD = [entry("refusal", "refused"), entry("refusal", "refused", erased=True), entry("view")]
ABOUT = [
    entry("consultation"),
    entry("reading"),
    entry("attempt"),
    entry("override", recipient=None),
    entry("erasure", recipient=None),
]


@pytest.mark.parametrize("one", TOLD, ids=lambda e: f"{e.outcome} {'erased' * e.erased}{'unreadable' * e.unreadable}")
def test_who_was_told_or_may_have_been_is_counted_and_listed(one: LedgerEntry) -> None:
    found = parts(one)
    assert NOBODY not in found["summary"]
    assert "The Hostel 1" in found["summary"]
    assert str(one.decision) in found["told"]
    assert "None." in found["refused"]


@pytest.mark.parametrize("one", NOT_TOLD, ids=lambda e: f"{e.kind} {'erased' * e.erased}")
def test_what_was_not_told_is_not_counted_and_listed_apart(one: LedgerEntry) -> None:
    found = parts(one)
    assert NOBODY in found["summary"]
    assert str(one.decision) in found["refused"]
    assert "None." in found["told"]


def test_that_two_were_told_apart_is_said_without_the_reason() -> None:
    details = {"what": "told-apart", "by": "a-person", "reason": "two brothers"}
    found = parts(entry("combination", recipient=None, details=details))["record"]
    assert "Decided that this record and another are of different people" in found
    assert "brothers" not in found
    assert "a-person" not in found


@pytest.mark.parametrize("one", ABOUT, ids=lambda e: e.kind)
def test_what_only_happened_to_the_record_was_told_to_nobody(one: LedgerEntry) -> None:
    assert NOBODY in parts(one)["summary"]


def test_who_looked_at_who_was_told_is_listed_and_who_of_its_staff_it_was_is_not() -> None:
    details = {"by": "prison", "whole": True, "entries": 12, "before": None}
    found = parts(entry("reading", purpose=None, details=details), entry("reading", recipient=None, purpose=None))
    assert "The Hostel Looked at who was told. All of it yes How many entries 12 Entry" in found["readings"]
    assert "the operator of the system Looked at who was told." in found["readings"]
    assert "By The Prison" not in found["readings"], "a practitioner who is called so"


def test_that_an_excluded_practitioner_asked_is_listed_and_who_it_was_is_not() -> None:
    found = parts(entry("attempt", purpose=None, details={"by": "j.smith", "what": "reading"}))["readings"]
    assert (
        "The Hostel Somebody there who is kept from your record asked about it, and was shown nothing. Entry" in found
    )
    assert "j.smith" not in found


def test_what_was_shown_is_said_as_far_as_it_is_known() -> None:
    assert "Shown on a screen." in parts(entry("view", permitted=[PERMITTED]))["told"]
    assert "Looked up on a screen; nothing was shown." in parts(entry("view"))["refused"]
    for gone in (entry("view", erased=True), entry("view", unreadable=True)):
        told = parts(gone)["told"]
        assert "or whether anything was" in told
        assert "Shown on a screen." not in told


def test_every_time_is_one_of_the_united_kingdom() -> None:
    times = {"starts": "2026-07-01T12:00:00Z", "ends": "2026-12-01T12:00:00+00:00", "reviewBy": "2026-07-31T23:30:00Z"}
    said = parts(entry("override", recipient=None, details=times))["overrides"]
    for one in ("From 1 July 2026, 13:00", "Until 1 December 2026, 12:00", "To be reviewed by 1 August 2026, 00:30"):
        assert one in said
    assert "T12:00" not in said


def test_an_own_id_is_not_taken_for_an_agency_or_a_code() -> None:
    said = parts(
        entry("override", recipient=None, details={"by": "prison", "override": "hostel", "recipients": ["hostel"]}),
        entry("override", recipient=None, details={"override": "identity", "categories": ["identity"]}),
    )["overrides"]
    for one in ("By The Prison", "Their reference hostel", "The Hostel", "Their reference identity"):
        assert one in said


def test_an_override_says_in_its_row_who_may_be_told_what_and_the_rest_in_order() -> None:
    times = {"ends": "2026-12-01T12:00:00Z", "starts": "2026-07-01T12:00:00Z", "reviewBy": "2026-07-31T23:30:00Z"}
    about = {"recipients": ["hostel"], "purposes": ["public-protection"], "categories": ["risk"], "by": "prison"}
    authorised = {"what": "authorised", "override": "o-1", "once": False, **times, **about}
    one = entry("override", recipient=None, purpose=None, details=authorised)
    said = parts(one)["overrides"]
    assert (
        "1 July 2026, 13:00 The Hostel to protect you or others from harm Decided that they may be told: risk"
        " By The Prison From 1 July 2026, 13:00 Until 1 December 2026, 12:00 To be reviewed by 1 August 2026, 00:30"
        f" Their reference o-1 Entry {one.decision}"
    ) in said
    later = [entry("override", recipient=None, purpose=None, details={"what": w}) for w in ("ended", "reviewed")]
    said = parts(*later, entry("override", recipient=None, erased=True))["overrides"]
    for one_said in ("Ended: nobody may be told any more by it.", "Looked at again.", "has been erased"):
        assert one_said in said
    assert "Nothing." not in said
    linked = entry("combination", recipient=None, purpose=None, details={"what": "linked"})
    assert "Your record was linked with another" in parts(linked)["record"]


def test_no_word_about_staff_and_no_free_text_of_an_agency_is_on_it() -> None:
    kept_off = {"reason": "a threat", "note": "a victim", "authorisedBy": "staff-1", "reviewedBy": "staff-2"}
    duty = {"code": "keep-from-practitioner", "practitioner": "staff-3"}
    found = parts(
        entry("override", recipient=None, details=kept_off),
        entry("disclosure", "sent", permitted=[PERMITTED], details={"obligations": [duty]}),
        entry("view", permitted=[PERMITTED], details={"by": "prison"}),  # a practitioner who is called so
    )
    said = " ".join(found.values())
    for one in ("a threat", "a victim", "staff-", "By The Prison"):
        assert one not in said
    assert "to keep it from a practitioner who must not see it" in said
