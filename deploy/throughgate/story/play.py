"""What happens in the story, and what must come of it. Every step waits for its effect and checks what it claims."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

from contracts import topic_names
from contracts.vocabulary import LONDON, SERVICE_PURPOSES
from throughgate import traces
from throughgate.case_system import Received, make_event
from throughgate.promises import Placed, behind_retraction
from throughgate.reaching import CommandError
from throughgate.story import cast, setting
from throughgate.story.cast import (
    ACCOMMODATION,
    CONSENTED,
    HOUSING,
    MENTORS,
    POLICE,
    PRISON,
    PROBATION,
    VOLUNTARY,
    Cast,
    Party,
    Person,
)
from throughgate.story.narrator import Narrator
from throughgate.story.world import World, check, try_to_read

TOLD_BY_CONSENT = (*VOLUNTARY, *SERVICE_PURPOSES)
"""Whoever learns of a client by consent only."""


@dataclass
class Told:
    """What came of the story, for its end."""

    received: dict[str, list[Received]]
    ledger: dict[str, list[dict[str, Any]]]
    """By the client's given name."""
    trace: list[str] = field(default_factory=list)
    trace_id: str = ""


class Story:
    """One telling. `on_step` is told each step's number before it begins, and how many there are; it may do mischief,
    so that spans may be missing from the trace, and nothing else."""

    def __init__(
        self,
        world: World,
        people: Cast,
        agencies: Sequence[Party],
        narrator: Narrator,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.world = world
        self.people = people
        self.agencies = agencies
        self.tell = narrator
        self._on_step = on_step
        self._references: dict[tuple[str, str], str] = {}
        self._first: dict[str, Any] = {}
        self._traced: tuple[str, str, int, int] = ("", "", 0, 0)
        self._plans_before: set[str] = set()
        self._plan = ""
        self._referral = ""
        self._offer = ""
        world.waiting_for = narrator.waiting

    def play(self) -> Told:
        """Play every step.

        Raises:
            CommandError: something did not come out as it must.
        """
        tobias = self.people.tobias.given
        steps: list[tuple[str, Callable[[], None]]] = [
            ("The operator registers five agencies and what they have agreed", self.register),
            ("Each service is told what it works with: places, volunteers, who waits at the gate", self.equip),
            (f"The prison and probation record {tobias}, each under numbers of its own", self.record),
            (f"{tobias} was not asked yet: nothing leaves on consent", self.nothing_before_consent),
            (f"{tobias} consents: two charities, three purposes, four categories", self.consent),
            ("A referral is made from the need, and Harbour Housing accepts it", self.referral),
            ("A round finds a mentor, and Second Chance Mentors accepts the offer", self.mentor),
            ("The release date changes: the plan moves", self.move_release),
            ("Three more clients, each with another answer to the question of consent", self.others),
            ("The old release date comes: only who is still due that day is told of", self.old_date),
            (f"The morning of release of {tobias}: decided again, then told", self.morning),
            ("The release is put off at the last moment: the steps are planned anew", self.put_off),
            ("Bad input: each gets an answer that a person can act on, and the next event flows", self.bad_input),
            ("One partner tries another's topic", self.wrong_topic),
            (f"{tobias} withdraws", self.withdraw),
            (
                "The prison goes on recording: nothing more reaches the charities, probation still learns",
                self.afterwards,
            ),
            ("What the services made of it", self.consequences),
        ]
        try:
            for number, (title, act) in enumerate(steps):
                if self._on_step:
                    self._on_step(number, len(steps))
                with self.tell.step(title):
                    act()
        finally:
            self.world.waiting_for("")
        return self._told()

    # --- what the steps share ---

    def publish(
        self, agency: str, person: Person, type: str, data: Mapping[str, Any], *, traceparent: str = "", **envelope: Any
    ) -> dict[str, Any]:
        """Publish about a person, wait for the door to accept it, and give the reply's data."""
        event = make_event(agency, type, data, **envelope)
        self._send(agency, event, person.noms_id, traceparent)
        reply = self._accepted(agency, event["id"])
        if reply.get("client"):
            self._references[agency, person.noms] = reply["client"]
        self._first.setdefault("event", event)
        return reply

    def _send(
        self, agency: str, event: Mapping[str, Any], identifier: Mapping[str, str], traceparent: str = ""
    ) -> None:
        system = self.world[agency]
        system.publish(_bytes(event), system.key_for(identifier), traceparent=traceparent)

    def _accepted(self, agency: str, event_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            for reply in self.world[agency].replies():
                if reply.data.get("event") == event_id and reply.type == "event.rejected":
                    raise CommandError(f"The door rejected an event of {agency}: {reply.data['code']}")
                if reply.data.get("event") == event_id and reply.type == "event.accepted":
                    return reply.data
            return None

        return self.world.until(look, f"the door accepts what {agency} published")

    def told(
        self, agency: str, type: str, what: Callable[[Received], bool] = lambda record: True, why: str = ""
    ) -> Received:
        """Wait until a record of this type, for which `what` holds, stands on the agency's partner topic."""
        return self.world.until(
            lambda: next((r for r in self.world[agency].told() if r.type == type and what(r)), None),
            why or f"{agency} is sent a {type}",
        )

    def reference(self, agency: str, person: Person) -> str:
        """The reference under which the door told the agency of the person."""
        return self._references[agency, person.noms]

    def ledger(self, person: Person, after: int = 0) -> list[dict[str, Any]]:
        """Who was told what of this person and who was refused, newest first."""
        answer = self.world.api.agency(
            PRISON, "GET", f"/clients/{self.reference(PRISON, person)}/disclosures", params={"limit": 500}
        )
        entries: list[dict[str, Any]] = [e for e in answer["entries"] if e["entry"] > after]
        return entries

    def refused(self, person: Person, recipients: Iterable[str], rule: str, after: int = 0) -> dict[str, str]:
        """Wait until the ledger says that each of `recipients` was refused by `rule`; gives the remedies."""
        wanted = set(recipients)

        def look() -> dict[str, str] | None:
            found = {
                e["recipient"]: w["remedy"]
                for e in self.ledger(person, after)
                if e["outcome"] == "refused"
                for w in e["withheld"]
                if w["rule"] == rule
            }
            return {r: found[r] for r in sorted(wanted)} if wanted <= found.keys() else None

        return self.world.until(look, f"the ledger says {rule} for {', '.join(sorted(wanted))}")

    def referral_state(self, referral: str) -> dict[str, Any]:
        """The referral as the referral service has it."""
        found: dict[str, Any] = self.world.api.service("referral", "GET", f"/referrals/{referral}")
        return found

    def match_state(self, offer: str) -> dict[str, Any]:
        """The match as the matching service has it."""
        matches = self.world.api.service("matching", "GET", "/matches", params={"limit": 200})
        return next((m for m in matches if m["id"] == offer), {"state": "none", "history": []})

    def plan_state(self) -> dict[str, Any]:
        """The release plan as the notifications service has it, its steps counted by state."""
        found: dict[str, Any] = self.world.api.service("notifications", "GET", f"/plans/{self._plan}")
        counted: dict[str, int] = {}
        for step in found["steps"]:
            counted[step["state"]] = counted.get(step["state"], 0) + 1
        return found | {"counted": counted}

    # --- the steps ---

    def register(self) -> None:
        """The register."""
        for fact in setting.register(self.world.api, self.agencies):
            self.tell.fact(fact)

    def equip(self) -> None:
        """Directory, volunteers, gate partners, clock."""
        for fact in setting.equip(self.world.api):
            self.tell.fact(fact)
        setting.set_clock(self.world.api, datetime.now(UTC))
        plans = self.world.api.service("notifications", "GET", "/plans", params={"limit": 200})
        self._plans_before = {plan["id"] for plan in plans}

    def record(self) -> None:
        """The same person from two case systems."""
        tobias = self.people.tobias
        facts = tobias.recorded_by_prison(self.people.release)
        self.publish(PRISON, tobias, "client.recorded", {"identifiers": [tobias.noms_id], "facts": facts})
        self.tell.fact(f"{PRISON} recorded {', '.join(sorted(facts))}")
        self.publish(
            PROBATION,
            tobias,
            "client.recorded",
            {"identifiers": [tobias.noms_id, tobias.crn_id], "facts": {"risk": {"harm": "medium"}}},
        )
        check(
            self.reference(PRISON, tobias) != self.reference(PROBATION, tobias),
            "each agency knows the client by a reference of its own",
        )
        self.tell.fact(f"{PROBATION} recorded risk; one client, and each agency got a reference of its own")
        there = self.told(
            PROBATION, "client.changed", lambda r: "custody-and-release" in r.categories, "probation learns by statute"
        )
        check(there.consents == [], "what rests on the statute needs no consent")
        check(
            set(there.categories) == {"identity", "contact", "custody-and-release", "risk"},
            "probation is told what the statutory agreement names and no more",
        )
        self.told(PRISON, "client.changed", lambda r: r.categories == ["risk"], "the prison learns of probation's risk")
        self.tell.fact(f"{PROBATION} was told {', '.join(there.categories)}: rests on {there.rests_on}")

    def nothing_before_consent(self) -> None:
        """No consent, no permit."""
        remedies = self.refused(self.people.tobias, TOLD_BY_CONSENT, "no-consent")
        for agency in (*VOLUNTARY, POLICE):
            self.world.until(self.world[agency].has_read_to_the_end, f"{agency} has read its topic to the end")
            check(not self.world[agency].told(), f"{agency} was told nothing")
        self.tell.fact(f"refused by rule no-consent: {', '.join(sorted(remedies))}")
        self.tell.fact(f"what would make it possible: {remedies[HOUSING]}")

    def consent(self) -> None:
        """The permit begins: a snapshot, cut to what was agreed."""
        tobias = self.people.tobias
        traceparent, trace, span = traces.new_traceparent()
        begun = time.time_ns()
        data = cast.consent(
            tobias, f"LEI-{tobias.noms}-1", datetime.now(UTC), [{"agency": HOUSING}, {"agency": MENTORS}]
        )
        event = make_event(PRISON, "consent.granted", data)
        self._send(PRISON, event, tobias.noms_id, traceparent)
        self._traced = trace, span, begun, time.time_ns()
        self._accepted(PRISON, event["id"])
        seen = {}
        for agency in VOLUNTARY:
            record = self.told(agency, "client.snapshot")
            seen[agency] = record
            self._references[agency, tobias.noms] = record.subject
            self._cut_to_consent(record, tobias, agency)
            withheld = {(w["category"], w["rule"]) for w in record.data["receipt"]["withheld"]}
            check(("contact", "no-consent") in withheld, f"{agency}'s receipt says that contact was withheld and why")
            check(
                "health" not in {category for category, _ in withheld},
                f"{agency} does not even learn that something of health is known: no agreement names it",
            )
        check(seen[HOUSING].subject != seen[MENTORS].subject, "two partners cannot join what they were told")
        record = seen[HOUSING]
        self.tell.fact(f"{HOUSING} was sent {', '.join(record.categories)}: rests on {record.rests_on}")
        for w in record.data["receipt"]["withheld"]:
            if w["source"] == PRISON:
                self.tell.fact(f"withheld {w['category']} ({w['rule']}): {w['remedy']}")
        self.tell.fact("of health the receipts say nothing: that something is known is not theirs to know either")

    def _cut_to_consent(self, record: Received, person: Person, agency: str) -> None:
        check(
            set(record.categories) <= set(CONSENTED), f"{agency} was sent only what {person.given} agreed to be shared"
        )
        text = json.dumps(record.event, ensure_ascii=False)
        hidden = (person.address, person.phone, person.email, person.health, person.noms, person.crn)
        check(not any(value in text for value in hidden), f"no contact detail, diagnosis or number reached {agency}")

    def referral(self) -> None:
        """Sent, and answered through the provider's own intake topic."""
        tobias = self.people.tobias
        record = self.told(HOUSING, "referral.sent", lambda r: r.subject == self.reference(HOUSING, tobias))
        self._cut_to_consent(record, tobias, HOUSING)
        message = record.data["message"]
        self._referral = message["referral"]
        check(message["pathway"] == ACCOMMODATION, "the referral is for accommodation")
        self.tell.fact(f"{HOUSING} was sent a referral with {', '.join(record.categories)}")
        self._answer_referral(record, "accepted")
        history = [line["state"] for line in self.referral_state(self._referral)["history"]]
        self.tell.fact(f"referral: {' → '.join(history)}")

    def _answer_referral(self, sent: Received, answer: str, reason: str | None = None) -> None:
        referral = sent.data["message"]["referral"]
        data = {
            "identifiers": [{"type": "THROUGHGATE", "value": sent.subject}],
            "referral": referral,
            "answer": answer,
            **({"reason": reason} if reason else {}),
        }
        self._answer(HOUSING, "referral.answered", data)
        self.world.until(
            lambda: self.referral_state(referral)["state"] == answer, f"the referral service says {answer}"
        )

    def _answer(self, agency: str, type: str, data: Mapping[str, Any]) -> None:
        event = make_event(agency, type, data)
        self._send(agency, event, data["identifiers"][0])
        self._accepted(agency, event["id"])

    def mentor(self) -> None:
        """Offered and accepted."""
        tobias = self.people.tobias
        record = self.told(MENTORS, "mentoring.offered", lambda r: r.subject == self.reference(MENTORS, tobias))
        self._cut_to_consent(record, tobias, MENTORS)
        self._offer = record.data["message"]["offer"]
        check(
            record.data["message"]["mentor"] == str(cast.MENTOR), "the volunteer whose check has expired is not offered"
        )
        self.tell.fact(f"{MENTORS} was offered a mentor with {', '.join(record.categories)}")
        self._accept_offer(record)
        history = [line["state"] for line in self.match_state(self._offer)["history"]]
        self.tell.fact(f"match: {' → '.join(history)}")

    def _accept_offer(self, offered: Received) -> None:
        offer = offered.data["message"]["offer"]
        data = {
            "identifiers": [{"type": "THROUGHGATE", "value": offered.subject}],
            "offer": offer,
            "answer": "accepted",
        }
        self._answer(MENTORS, "mentoring.offer-answered", data)
        self.world.until(lambda: self.match_state(offer)["state"] == "active", "the matching service says active")

    def move_release(self) -> None:
        """A changed date moves every step."""
        tobias, api = self.people.tobias, self.world.api

        def new_plan() -> str | None:
            plans = api.service("notifications", "GET", "/plans", params={"limit": 200})
            fresh = [p["id"] for p in plans if p["id"] not in self._plans_before and p["steps"].get("planned") == 2]
            return fresh[0] if fresh else None

        self._plan = self.world.until(new_plan, "the notifications service has a release plan with two steps")
        before = self.plan_state()
        self.tell.fact(f"release on {self.people.release:%A %d %B}: two steps planned, the day before and the morning")
        self._record_release(tobias, self._moved_to)
        self.world.until(
            lambda: all(
                step["changedAt"] > old["changedAt"]
                for step, old in zip(self.plan_state()["steps"], before["steps"], strict=True)
            ),
            "both steps of the plan move to the new date",
        )
        check(self.plan_state()["counted"] == {"planned": 2}, "a moved step is not a second step")
        self.tell.fact(f"moved to {self._moved_to:%A %d %B}: the same two steps, moved")
        for agency in VOLUNTARY:
            changed = self.told(
                agency,
                "client.changed",
                lambda r: any(s["data"].get("releaseDate") == self._moved_to.isoformat() for s in r.data["sections"]),
            )
            self._cut_to_consent(changed, tobias, agency)
        self.tell.fact(f"{HOUSING} and {MENTORS} were told of the change, each for its purpose")

    @property
    def _moved_to(self) -> date:
        return self.people.release + timedelta(days=7)

    def _record_release(self, person: Person, release: date) -> None:
        facts = {"custody-and-release": cast.custody(release)}
        self.publish(PRISON, person, "client.recorded", {"identifiers": [person.noms_id], "facts": facts})

    def others(self) -> None:
        """Three more: everything, one purpose, nothing."""
        people = self.people
        for person in (people.marisol, people.idris, people.winifred):
            facts = person.recorded_by_prison(people.release)
            self.publish(PRISON, person, "client.recorded", {"identifiers": [person.noms_id], "facts": facts})
        kind = [{"kind": "vcs", "area": "leeds"}]
        for person, recipients, purposes in (
            (people.marisol, kind, cast.PURPOSES),
            (people.idris, [{"agency": HOUSING}], ("referral",)),
        ):
            data = cast.consent(person, f"LEI-{person.noms}-1", datetime.now(UTC), recipients, purposes)
            self.publish(PRISON, person, "consent.granted", data)
        self._marisol()
        idris = self._subject_of(people.idris, HOUSING)
        self._answer_referral(self.told(HOUSING, "referral.sent", lambda r: r.subject == idris), "accepted")
        refused = self.refused(people.idris, [MENTORS, "matching", "notifications"], "no-consent")
        self.tell.fact(f"{people.idris.given} agreed to a referral only: {', '.join(sorted(refused))} were refused")
        refused = self.refused(people.winifred, TOLD_BY_CONSENT, "no-consent")
        for agency in VOLUNTARY:
            text = json.dumps([r.event for r in self.world[agency].told()])
            check(people.winifred.family not in text, f"{agency} was told nothing of {people.winifred.given}")
        check(
            people.idris.family not in json.dumps([r.event for r in self.world[MENTORS].told()]),
            f"{MENTORS} was told nothing of {people.idris.given}",
        )
        self.tell.fact(f"{people.winifred.given} was never asked: nobody was told who needs consent to be")

    def _marisol(self) -> None:
        marisol = self.people.marisol
        here, there = (self._subject_of(marisol, agency) for agency in VOLUNTARY)
        self._references[MENTORS, marisol.noms] = there
        first = self.told(HOUSING, "referral.sent", lambda r: r.subject == here)
        self._answer_referral(first, "declined", "full")
        second = self.told(
            HOUSING,
            "referral.sent",
            lambda r: r.subject == here and r.data["message"]["service"] != first.data["message"]["service"],
            "the next best place is asked at once",
        )
        self._answer_referral(second, "accepted")
        self._accept_offer(self.told(MENTORS, "mentoring.offered", lambda r: r.subject == there))
        self.tell.fact(
            f"{marisol.given} agreed to every charity in Leeds: the hostel is full, the lodgings take her, a mentor too"
        )

    def _subject_of(self, person: Person, agency: str) -> str:
        record = self.told(
            agency,
            "client.snapshot",
            lambda r: any(s["data"].get("familyName") == person.family for s in r.data["sections"]),
            f"{agency} is sent a snapshot of {person.given}",
        )
        self._cut_to_consent(record, person, agency)
        return record.subject

    def old_date(self) -> None:
        """The clock at the old date: who is due is told of, who was moved is not."""
        there = self.reference(MENTORS, self.people.marisol)
        setting.set_clock(self.world.api, _london(self.people.release, 7, 5))
        self.tell.fact(f"the clock is brought to {self.people.release:%A %d %B}, 07:05 in London")
        record = self._step(there, "morning-of-release")
        self._cut_to_consent(record, self.people.marisol, MENTORS)
        check(
            self.plan_state()["counted"] == {"planned": 2}, "what was moved to another day is not told on the old one"
        )
        self.tell.fact(
            f"{MENTORS} was told of the release of {self.people.marisol.given}; "
            f"both steps of {self.people.tobias.given} still wait for their day"
        )

    def morning(self) -> None:
        """Day before, morning of release."""
        subject = self.reference(MENTORS, self.people.tobias)
        days = (("day-before", self._moved_to - timedelta(days=1), 9), ("morning-of-release", self._moved_to, 7))
        for step, day, hour in days:
            setting.set_clock(self.world.api, _london(day, hour, 5))
            record = self._step(subject, step)
            steps = {s["id"] for s in self.plan_state()["steps"]}
            check(record.data["message"]["stepReference"] in steps, "the step belongs to the plan that moved")
            check(record.data["purpose"] == "release-notification", "it is told for the release and nothing else")
            self._cut_to_consent(record, self.people.tobias, MENTORS)
            self.tell.fact(
                f"{day:%A %d %B}, {hour:02d}:05: {step} with {', '.join(record.categories)}: {record.rests_on}"
            )
        self.world.until(lambda: self.plan_state()["counted"] == {"sent": 2}, "the plan says that both steps were sent")

    def _step(self, subject: str, step: str) -> Received:
        return self.told(
            MENTORS,
            "release.step-due",
            lambda r: r.subject == subject and r.data["message"]["step"] == step,
            f"{MENTORS} is sent the step {step}",
        )

    def put_off(self) -> None:
        """What was told is never told twice; what is new is planned."""
        later = self._moved_to + timedelta(days=7)
        self._record_release(self.people.tobias, later)
        self.world.until(
            lambda: self.plan_state()["counted"] == {"sent": 2, "planned": 2},
            "two new steps are planned beside the two that were sent",
        )
        self.tell.fact(f"now {later:%A %d %B}: two steps sent, two planned")

    def bad_input(self) -> None:
        """Rejections."""
        tobias, first = self.people.tobias, self._first["event"]
        system, facts = self.world[PRISON], {"risk": {"harm": "low"}}
        about = {"identifiers": [tobias.noms_id], "facts": facts}
        nobody = cast.consent(tobias, "LEI-nobody", datetime.now(UTC), [{"agency": HOUSING}]) | {
            "identifiers": [{"type": "CASE", "value": f"nobody-{tobias.noms}"}]
        }
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        large = {"identifiers": [tobias.noms_id], "facts": {"family": {"summary": "x" * 2_000_000}}}
        bad = [
            ("cut off in the middle", json.dumps(first).encode()[:-40], "malformed-json"),
            ("a type that we do not know", _bytes(make_event(PRISON, "client.praised", about)), "unknown-type"),
            ("probation's name as source", _bytes(make_event(PROBATION, "client.recorded", about)), "wrong-agency"),
            ("no identifier", _bytes(make_event(PRISON, "client.recorded", {"facts": facts})), "invalid-event"),
            ("tomorrow's time", _bytes(make_event(PRISON, "client.recorded", about, time=tomorrow)), "time-in-future"),
            ("two megabytes", _bytes(make_event(PRISON, "client.recorded", large)), "too-large"),
            ("a client whom nobody recorded", _bytes(make_event(PRISON, "consent.granted", nobody)), "unknown-client"),
            ("an id used again", _bytes(make_event(PRISON, "client.recorded", about, id=first["id"])), "id-used-again"),
        ]
        key = system.key_for(tobias.noms_id)
        places = [system.publish(value, key) for _, value, _ in bad]
        again = system.publish(_bytes(first), key)
        for (what, _, code), place in zip(bad, places, strict=True):
            rejection = self.world.until(partial(self._rejection, place), f"a rejection of {what}")
            check(rejection["code"] == code, f"{what} is rejected as {code}, not as {rejection['code']}")
            self.tell.fact(f"{what}: {code}. {rejection['detail']}")
        check(again[2] > places[-1][2], "the events of one client keep their order")
        self.world.until(
            lambda: len([r for r in system.all_replies() if r.data.get("event") == first["id"]]) >= 3,
            "the same event again gets an answer",
        )
        answers = {
            r.event["id"] for r in system.replies() if r.data.get("event") == first["id"] and r.type == "event.accepted"
        }
        check(len(answers) == 1, "the same event again gets its first answer again")
        self.tell.fact("the very first event again: its first answer again")
        self.publish(
            PRISON, tobias, "client.recorded", {"identifiers": [tobias.noms_id], "facts": {"risk": {"harm": "medium"}}}
        )
        self.tell.fact("and the next good event was accepted")

    def _rejection(self, place: tuple[str, int, int]) -> dict[str, Any] | None:
        where = place[0].removeprefix(self.world.around.namespace), *place[1:]
        for reply in self.world[PRISON].replies():
            data = reply.data
            if reply.type == "event.rejected" and (data["topic"], data["partition"], data["offset"]) == where:
                return data
        return None

    def wrong_topic(self) -> None:
        """Access rules."""
        refusal = try_to_read(self.world.around, MENTORS, topic_names.partner(HOUSING))
        check(refusal == "TOPIC_AUTHORIZATION_FAILED", f"Kafka refuses {MENTORS} another's topic (it said {refusal!r})")
        self.tell.fact(f"{MENTORS} reads partner.{HOUSING}: TopicAuthorizationFailed")
        intake = self.world.around.topic(topic_names.intake(PRISON))
        try:
            self.world[HOUSING].publish(b"{}", "x", topic=intake)
        except CommandError as error:
            check("TOPIC_AUTHORIZATION_FAILED" in str(error), f"Kafka refuses to let {HOUSING} speak for {PRISON}")
        else:
            raise CommandError(f"{HOUSING} could write to intake.{PRISON}.")
        self.tell.fact(f"{HOUSING} writes to intake.{PRISON}: TopicAuthorizationFailed")

    def withdraw(self) -> None:
        """Done per recipient, with the place where it stands."""
        tobias, system = self.people.tobias, self.world[PRISON]
        data = {
            "identifiers": [tobias.noms_id],
            "withdrawnAt": datetime.now(UTC).isoformat(),
            "scope": "everything",
        }
        begun = time.monotonic()
        withdrawal = self.publish(PRISON, tobias, "consent.withdrawn", data)["withdrawal"]
        done = self.world.until(
            lambda: next(
                (
                    r.data["recipients"]
                    for r in system.replies()
                    if r.type == "withdrawal.done" and r.data["withdrawal"] == withdrawal
                ),
                None,
            ),
            "the withdrawal is done for every recipient",
        )
        took = (time.monotonic() - begun) * 1000
        check(
            {d["recipient"] for d in done} == {*TOLD_BY_CONSENT, PRISON, PROBATION},
            "it is done for everyone who was ever sent or queued anything, and nobody else",
        )
        self.tell.fact(f"done for {len(done)} recipients, {took:.0f} ms after it was published:")
        for d in sorted(done, key=lambda d: d["topic"]):
            self.tell.fact(f"  {d['recipient']:<22} {d['topic']}, partition {d['partition']}, offset {d['offset']}")
        for d in done:
            if d["recipient"] in VOLUNTARY:
                self._stands_there(d)
        self.world.until(
            lambda: (
                {
                    r["recipient"]
                    for r in self.world.api.agency(PRISON, "GET", f"/withdrawals/{withdrawal}")["recipients"]
                    if r["acknowledgedAt"]
                }
                >= set(SERVICE_PURPOSES)
            ),
            "our three services acknowledge that they stopped and erased",
        )
        self.tell.fact(f"{', '.join(SERVICE_PURPOSES)} acknowledged: stopped and erased")

    def _stands_there(self, done: Mapping[str, Any]) -> None:
        agency = done["recipient"]
        place = (self.world.around.topic(done["topic"]), done["partition"], done["offset"])
        found = self.told(agency, "client.withdrawn", lambda r: r.place == place, f"{agency} reads its retraction")
        check(
            found.subject == self.reference(agency, self.people.tobias),
            f"{agency} is told to stop under the reference that it knows",
        )

    def afterwards(self) -> None:
        """The proof of the pudding."""
        tobias = self.people.tobias
        mark = max(e["entry"] for e in self.ledger(tobias))
        facts = tobias.recorded_by_prison(self._moved_to + timedelta(days=14)) | {"contact": {"phone": "0113 496 0900"}}
        self.publish(PRISON, tobias, "client.recorded", {"identifiers": [tobias.noms_id], "facts": facts})
        record = self.told(
            PROBATION,
            "client.changed",
            lambda r: any(s["data"].get("phone") == "0113 496 0900" for s in r.data["sections"]),
            "probation is told what rests on the statute",
        )
        check(record.consents == [], "it rests on no consent")
        self.tell.fact(f"{PROBATION} was told {', '.join(record.categories)}: rests on {record.rests_on}")
        remedies = self.refused(tobias, TOLD_BY_CONSENT, "consent-withdrawn", mark)
        for agency in (*VOLUNTARY, POLICE):
            self.world.until(self.world[agency].has_read_to_the_end, f"{agency} has read its topic to the end")
            behind = behind_retraction(
                Placed(r.partition, r.offset, dict(r.event)) for r in self.world[agency].told(repeats=True)
            )
            check(not behind, f"nothing on partner.{agency} stands behind a retraction and rests on what it took back")
        check(not self.world[POLICE].told(), f"{POLICE} was told nothing at all")
        self.tell.fact(f"refused by rule consent-withdrawn: {', '.join(sorted(remedies))}")
        self.tell.fact("read back to the end: nothing stands behind a retraction that rests on what was withdrawn")
        marisol = self.people.marisol
        self._record_release(marisol, self.people.release + timedelta(days=1))
        self.told(
            HOUSING,
            "client.changed",
            lambda r: any(
                s["data"].get("releaseDate") == (self.people.release + timedelta(days=1)).isoformat()
                for s in r.data["sections"]
            ),
            f"{HOUSING} still learns of {marisol.given}",
        )
        self.tell.fact(f"{marisol.given} did not withdraw: {HOUSING} still learns of her")

    def consequences(self) -> None:
        """Closed, ended, cancelled."""
        referral = self.world.until(
            lambda: r if (r := self.referral_state(self._referral))["state"] == "withdrawn" else None,
            "the referral is withdrawn",
        )
        last = referral["history"][-1]
        check(last["reason"] == "sharing-taken-back", "the referral ended because sharing was taken back")
        self.tell.fact(f"referral: {' → '.join(h['state'] for h in referral['history'])} ({last['reason']})")
        match = self.world.until(
            lambda: m if (m := self.match_state(self._offer))["state"] == "ended" else None, "the match is ended"
        )
        check(match["reason"] == "sharing-taken-back", "the match ended because sharing was taken back")
        self.tell.fact(f"match: {' → '.join(h['state'] for h in match['history'])} ({match['reason']})")
        plan = self.world.until(
            lambda: p if (p := self.plan_state())["state"] == "cancelled" else None, "the plan is cancelled"
        )
        check(plan["reason"] == "sharing-taken-back", "the plan was cancelled because sharing was taken back")
        check(plan["counted"] == {"sent": 2, "cancelled": 2}, "every step that was still planned is cancelled")
        self.tell.fact(f"release plan: cancelled ({plan['reason']}); two steps were sent before, two cancelled")
        setting.set_clock(self.world.api, datetime.now(UTC))

    # --- the end ---

    def _told(self) -> Told:
        personal = [value for person in self.people.people for value in person.personal_values()]
        for party in self.agencies:
            for record in self.world[party.id].received:
                outside = f"{record.key} {dict(record.headers)}"
                check(
                    not any(v in outside for v in personal), f"no personal data stands in a key or header of {party.id}"
                )
            for record in self.world[party.id].told():
                check(record.key == record.subject, f"{party.id}'s records are keyed by its own reference")
        told = Told(
            {party.id: self.world[party.id].told() for party in self.agencies},
            {person.given: self.ledger(person) for person in self.people.people},
            trace_id=self._traced[0],
        )
        url = self.world.around.traces_url
        if url and traces.reachable(url):
            told.trace = self._trace(url)
        return told

    def _trace(self, url: str) -> list[str]:
        trace, span, begun, ended = self._traced
        last = f"send throughgate.referral.sent.v1 to partner.{HOUSING}"
        spans = traces.fetch(url, trace, lambda spans: any(s.name == last for s in spans))
        spans.append(traces.Span(trace, span, "", PRISON, f"publish to intake.{PRISON}", begun, ended))
        whole = {span.parent for span in spans} <= {"", *(span.id for span in spans)}
        mischief = self._on_step is not None
        check(
            mischief or (whole and any(s.name == last for s in spans)),
            f"one trace leads from intake.{PRISON} to partner.{HOUSING}",
        )
        return traces.draw(spans, lambda s: s.name == last)


def _bytes(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event).encode()


def _london(day: date, hour: int, minute: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=LONDON)


__all__ = ["Story", "Told"]
