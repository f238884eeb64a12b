"""A steady stream of clients, changes, consents and withdrawals, and what has to have come of it."""

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from contracts.leaving import RETRACTED
from support.agency import Agency, Operator, event, granted, terms, withdrawn
from throughgate.promises import Placed

CATEGORIES = ["identity", "needs.accommodation"]
PARTNERS = ["harbour-housing", "second-chance-mentors"]
AGENCIES = ["hmp-leeds", *PARTNERS]


async def agree(operator: Operator) -> None:
    """The prison tells both partners for referral, by consent, with a subscription."""
    await operator.register(hmp_leeds="prison", harbour_housing="vcs", second_chance_mentors="vcs")
    await operator.agree("leeds", ["hmp-leeds"], PARTNERS, [terms("referral", CATEGORIES)])


@dataclass
class Person:
    """A client of the load, and what was published about it, in order."""

    noms: str
    key: str = field(default_factory=lambda: uuid4().hex)
    changes: list[str] = field(default_factory=list)
    withdrawals: list[str] = field(default_factory=list)

    @property
    def identifiers(self) -> list[dict[str, str]]:
        """Its prison number."""
        return [{"type": "NOMS", "value": self.noms}]


class Load:
    """Publishes as the prison. Every change has a text of its own, by which it is found again."""

    def __init__(self, prison: Agency, people: int) -> None:
        self.prison = prison
        letters = "ABCDEFGHJK"
        self.people = [
            Person(f"{letters[n // 1000 % 10]}{n % 10_000:04}{letters[n % 10]}{letters[n // 10 % 10]}")
            for n in range(people)
        ]
        self._sent: list[Any] = []

    def change(self, person: Person) -> dict[str, Any]:
        """An event with the person's next change."""
        person.changes.append(uuid4().hex)
        facts = {
            "identity": {"givenName": "Robin", "familyName": "Fictional"},
            "needs.accommodation": {"level": "urgent", "summary": person.changes[-1]},
        }
        return event("client.recorded", self.prison.name, {"identifiers": person.identifiers, "facts": facts})

    def consent(self, person: Person) -> dict[str, Any]:
        """Consent for both partners, on a new form, given now."""
        data = granted(person.identifiers, PARTNERS, ["referral"], CATEGORIES)
        return event("consent.granted", self.prison.name, data)

    def withdrawal(self, person: Person) -> dict[str, Any]:
        """A withdrawal of everything, made now."""
        body = event("consent.withdrawn", self.prison.name, withdrawn(person.identifiers))
        person.withdrawals.append(body["id"])
        return body

    async def send(self, person: Person, *bodies: dict[str, Any]) -> None:
        """Publish without waiting for the broker; `settle` waits for all."""

        for body in bodies:
            self._sent.append(
                await self.prison.producer.send(
                    f"{self.prison.system.namespace}intake.{self.prison.name}",
                    json.dumps(body).encode(),
                    key=person.key.encode(),
                )
            )

    async def settle(self) -> None:
        """Wait until the brokers have all that was sent."""
        await asyncio.gather(*self._sent)
        self._sent.clear()

    async def introduce(self) -> None:
        """Record everyone and give consent."""
        for person in self.people:
            await self.send(person, self.change(person), self.consent(person))
        await self.settle()

    async def storm(self, seconds: float, withdrawals_a_second: float) -> int:
        """Changes at full rate for everyone; withdrawals at random, each amid changes and followed by new consent.

        Gives how many withdrawals: as many as are due in that time, however long a send had to wait.
        """
        clock = asyncio.get_running_loop().time
        begun, passed, count = clock(), 0.0, 0
        while passed < seconds:
            passed = min(clock() - begun, seconds)
            for person in random.sample(self.people, 20):
                await self.send(person, self.change(person))
            while count < int(passed * withdrawals_a_second):
                person = random.choice(self.people)
                await self.send(person, self.change(person), self.withdrawal(person), self.change(person))
                await self.send(person, self.consent(person))
                count += 1
            await asyncio.sleep(0)
        await self.settle()
        return count


def texts(records: list[Placed]) -> list[str]:
    """The texts of the changes in a topic, in its order, snapshots left out."""
    return [
        section["data"]["summary"]
        for record in records
        if record.event["type"] == "throughgate.client.changed.v1"
        for section in record.event["data"]["sections"]
        if section["category"] == "needs.accommodation"
    ]


def retractions(records: list[Placed]) -> list[Placed]:
    """The retractions in a topic."""
    return [record for record in records if record.event["type"] == RETRACTED]
