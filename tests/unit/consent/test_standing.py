"""Who may say what, as the tables in docs/reference/who-may-say-what.md put it."""

from typing import get_args

import pytest

from consent.domain import ASSERTS, may_assert
from contracts.intake import IntakeEvent
from contracts.vocabulary import AgencyKind, Basis

INVOKED = "throughgate.gateway.invoked.v1"
AUTHORISED = "throughgate.override.authorised.v1"


def test_somebody_may_say_each_event_that_comes_in_and_there_is_no_other() -> None:
    types = {get_args(event.model_fields["type"].annotation)[0] for event in get_args(IntakeEvent)}
    assert types == ASSERTS.keys()
    assert all(ASSERTS.values())


@pytest.mark.parametrize("type", ["throughgate.client.recorded.v2", "throughgate.client.withdrawn.v1", ""])
def test_what_is_not_in_the_table_nobody_may_say(type: str) -> None:
    assert not any(may_assert(type, kind) for kind in AgencyKind)


def test_our_services_say_nothing_about_clients() -> None:
    assert not any(may_assert(type, AgencyKind.SERVICE) for type in ASSERTS)


@pytest.mark.parametrize(
    ("type", "kind", "basis", "may"),
    [
        (AUTHORISED, AgencyKind.POLICE, None, True),
        (AUTHORISED, AgencyKind.VCS, None, False),
        (AUTHORISED, AgencyKind.HEALTH, None, False),
        (AUTHORISED, AgencyKind.LOCAL_AUTHORITY, None, False),
        (INVOKED, AgencyKind.VCS, Basis.CDA_S115, True),
        (INVOKED, AgencyKind.VCS, Basis.VITAL_INTERESTS, True),
        (INVOKED, AgencyKind.VCS, Basis.CJA_S325, False),
        (INVOKED, AgencyKind.HEALTH, Basis.CJA_S325, False),
        (INVOKED, AgencyKind.PROBATION, Basis.CJA_S325, True),
        (INVOKED, AgencyKind.PRISON, Basis.OMA_S14, False),
        (INVOKED, AgencyKind.PRISON, Basis.CONSENT, False),
        (INVOKED, AgencyKind.PRISON, Basis.OVERRIDE, False),
        (INVOKED, AgencyKind.SERVICE, Basis.CDA_S115, False),
        ("throughgate.consent.withdrawn.v1", AgencyKind.VCS, None, True),
        ("throughgate.restriction.imposed.v1", AgencyKind.VCS, None, True),
    ],
)
def test_who_may(type: str, kind: AgencyKind, basis: Basis | None, may: bool) -> None:
    assert may_assert(type, kind, basis) is may
