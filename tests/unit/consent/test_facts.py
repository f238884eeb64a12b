"""What the services ask of facts and agreements besides a decision: the rules' own answers."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from unit.consent.test_rules_one_by_one import (
    AGREEMENT,
    AT,
    COUNCIL,
    EXCLUDED,
    GRANT,
    HOSTEL,
    ITEM,
    LIFTED,
    MAPPA,
    NO,
    OVERRIDE,
    REFERRAL,
    STOP,
)
from unit.consent.worlds import KINDS, TIMES, numbered

from consent.domain import (
    Agency,
    Agreement,
    ClientFacts,
    Decision,
    Granted,
    Permit,
    Policy,
    Recipients,
    Restricted,
    Scope,
    SharingFact,
    agreements_in_force,
    leaves_open,
    naming,
    not_lifted,
    standing_restrictions,
)
from consent.domain.retention import REST, RETENTION, periods
from contracts.make import REFERENCE
from contracts.vocabulary import NEEDS, AgencyKind, Basis, Category

BEDS = replace(GRANT, recipients=Recipients(services=frozenset({("hostel", "beds"), ("council", "homes")})))
FOOD = replace(GRANT, recipients=Recipients(services=frozenset({("hostel", "food"), ("hostel", "beds")})))
OF_LEEDS = replace(GRANT, recipients=Recipients(kinds=frozenset({(AgencyKind.VCS, "leeds")})))


def test_a_partner_and_a_service_have_topics_of_their_own_kind() -> None:
    assert (HOSTEL.topic, REFERRAL.topic) == ("partner.hostel", "cleared.referral")


# --- whom a consent names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("consent", "recipient", "service", "named"),
    [
        (GRANT, HOSTEL, None, True),
        (GRANT, HOSTEL, "beds", True),
        (GRANT, COUNCIL, None, False),
        (GRANT, REFERRAL, None, True),
        (OF_LEEDS, HOSTEL, None, True),
        (OF_LEEDS, replace(HOSTEL, area="hull"), None, False),
        (OF_LEEDS, replace(HOSTEL, area=None), None, False),
        (OF_LEEDS, replace(HOSTEL, kind=AgencyKind.HEALTH), None, False),
        (BEDS, HOSTEL, "beds", True),
        (BEDS, HOSTEL, "homes", False),
        (BEDS, HOSTEL, None, False),
    ],
)
def test_whom_a_consent_names(consent: Granted, recipient: Agency, service: str | None, named: bool) -> None:
    assert list(naming([consent], recipient, service)) == [consent] * named


@pytest.mark.parametrize(
    ("consent", "noes", "is_open"),
    [
        (GRANT, [], True),
        (replace(GRANT, valid_until=TIMES[1]), [], True),
        (GRANT, [Scope()], False),
        (GRANT, [Scope(GRANT.recipients)], False),
        (GRANT, [Scope(Recipients(frozenset({"council"})))], True),
        (GRANT, [Scope(categories=frozenset({Category.IDENTITY}))], True),
        (
            GRANT,
            [Scope(categories=frozenset({Category.IDENTITY})), Scope(categories=frozenset({Category.OFFENCE}))],
            False,
        ),
        (GRANT, [Scope(FOOD.recipients)], True),
        (FOOD, [Scope(FOOD.recipients)], False),
        (FOOD, [Scope(Recipients(services=frozenset({("hostel", "food")})))], True),
        (OF_LEEDS, [Scope(OF_LEEDS.recipients)], False),
        (OF_LEEDS, [Scope(GRANT.recipients)], True),  # another may come to Leeds
        (replace(OF_LEEDS, recipients=Recipients(kinds=frozenset({(AgencyKind.VCS, "hull")}))), [], True),
    ],
)
def test_a_consent_is_open_until_all_of_it_was_taken_back(consent: Granted, noes: list[Scope], is_open: bool) -> None:
    said = numbered([consent, *(replace(NO, scope=scope) for scope in noes)])
    assert leaves_open(replace(consent, version=1), said, [HOSTEL, COUNCIL], AT) == is_open


def test_the_services_that_anything_names_are_those_of_the_agency_from_every_part_and_any_other() -> None:
    any_other = ""
    one, other = ClientFacts(numbered([BEDS, NO])), ClientFacts(numbered([FOOD]))
    assert one.services_of("hostel") == [any_other, "beds"]
    assert other.services_of("council") == []
    assert ClientFacts(parts=(one, other)).services_of("hostel") == [any_other, "beds", "food"], "each once, in order"
    assert ClientFacts(parts=(one, other)).services_of("council") == [any_other, "homes"]
    assert ClientFacts().services_of("hostel") == []
    for stop in (replace(NO, scope=Scope(FOOD.recipients)), replace(STOP, scope=Scope(FOOD.recipients))):
        assert ClientFacts(numbered([GRANT, stop])).services_of("hostel") == [any_other, "beds", "food"]


# --- what was said ----------------------------------------------------------------------------------------------------


def test_what_was_said_of_linked_clients_is_what_was_said_of_each_part() -> None:
    one, other = ClientFacts(numbered([GRANT])), ClientFacts(numbered([NO, STOP]))
    assert ClientFacts(parts=(one, other)).said == (*one.history, *other.history)
    assert one.said == one.history


def test_what_one_agency_said_alone_is_its_own_word_once_and_in_order() -> None:
    since = replace(STOP, version=7)
    before: list[list[SharingFact]] = [[NO], [GRANT, NO]]
    parts = tuple(ClientFacts((*numbered(said), since), held=True) for said in before)
    alone = ClientFacts(parts=parts, conflicting=True).as_said_by("prison")
    assert alone == ClientFacts((replace(GRANT, version=1), since))


def test_a_gateway_or_an_override_is_for_one_disclosure_only_where_it_says_so() -> None:
    assert (MAPPA.once, OVERRIDE.once) == (False, False)


def test_the_consents_of_a_decision_are_named_in_order() -> None:
    permits = [Permit(ITEM, Basis.CONSENT, "sharing", 4, consent=version) for version in (8, 1)]
    assert Decision(tuple(permits)).consents == [1, 8]


# --- restrictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ([STOP], [1]),
        ([STOP, LIFTED], []),
        ([LIFTED, STOP], [2]),
        ([STOP, LIFTED, STOP], [3]),
        ([STOP, replace(LIFTED, asserted_by="police")], [1]),
        ([STOP, replace(LIFTED, id="another")], [1]),
        ([STOP, replace(LIFTED, what="override")], [1]),
        ([GRANT, EXCLUDED, NO], [2]),
    ],
)
def test_a_restriction_stands_until_it_is_lifted(said: list[SharingFact], left: list[int]) -> None:
    history = numbered(said)
    assert [found.version for found in not_lifted(history)] == left
    assert standing_restrictions(ClientFacts(history), AT) == not_lifted(history)


def test_one_that_has_ended_was_not_lifted_and_stands_no_longer() -> None:
    over, lasting = replace(STOP, until=AT), replace(EXCLUDED, until=AT + timedelta(microseconds=1))
    history = numbered([over, lasting])
    assert not_lifted(history) == list(history)
    standing: list[Restricted] = standing_restrictions(ClientFacts(parts=(ClientFacts(history),)), AT)
    assert standing == [history[1]]


# --- agreements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agreements", "versions"),
    [
        ([AGREEMENT], [4]),
        ([replace(AGREEMENT, starts=TIMES[4])], []),
        ([replace(AGREEMENT, ends=AT)], []),
        ([replace(AGREEMENT, suspended_from=AT)], []),
        ([AGREEMENT, replace(AGREEMENT, version=5)], [5]),
        ([AGREEMENT, replace(AGREEMENT, version=5, starts=TIMES[4])], [4]),
        ([AGREEMENT, replace(AGREEMENT, version=5, ends=AT)], []),
        ([AGREEMENT, replace(AGREEMENT, id="another", version=2)], [2, 4]),
    ],
)
def test_of_an_agreement_one_version_is_in_force_or_none(agreements: list[Agreement], versions: list[int]) -> None:
    assert [found.version for found in agreements_in_force(Policy(agreements, KINDS), AT)] == versions


# --- retention --------------------------------------------------------------------------------------------------------


def test_an_installation_sets_periods_in_days_and_the_others_stay() -> None:
    set_here = periods({Category.HEALTH: 30})
    assert set_here == {**RETENTION, Category.HEALTH: timedelta(days=30)}
    assert RETENTION.keys() == set(Category)


def test_the_periods_are_those_of_the_page() -> None:
    page = (REFERENCE / "retention.md").read_text()
    rows = re.findall(r"^\| (`.*`) \| (\d) years? \|$", page, re.MULTILINE)
    named = {term.strip("`"): timedelta(days=365 * int(years)) for terms, years in rows for term in terms.split(", ")}
    needs = dict.fromkeys(NEEDS, named.pop("needs.*"))
    assert {Category(term): period for term, period in named.items()} | needs == RETENTION
    assert f"**{REST.days // 365} years** (`THROUGHGATE_REST_DAYS`)" in page
