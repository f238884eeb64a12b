"""The system as the story meets it: the agencies' case systems on Kafka, and the services over HTTP."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaException

from throughgate.api import Api
from throughgate.case_system import CaseSystem
from throughgate.reaching import CommandError, Surroundings, found_within

T = TypeVar("T")
SCOPES = {
    "operator": ("operator", "agreements:read", "audit"),
    "agency": (
        "events:write",
        "disclosures:read",
        "subject-access",
        "agreements:read",
        "agreements:sign",
        "decisions:ask",
        "views:read",
    ),
    "referral": ("directory:write", "referrals:read", "operator"),
    "matching": ("volunteers:write", "matches:read", "operator"),
    "notifications": ("plans:write", "plans:read", "operator"),
}
"""What each of the story's callers may do."""
AWAY_SECONDS = 30.0
"""How long an API may be away, such as one whose process was killed."""


class Callers:
    """The services' APIs, called by whoever the story needs. Gives what they answer, as JSON."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._apis: dict[tuple[str, str], Api] = {}

    def close(self) -> None:
        """Disconnect."""
        for api in self._apis.values():
            api.close()

    def operator(self, method: str, path: str, **options: Any) -> Any:
        """Call the door as the operator."""
        return self._call("consent", "operator", SCOPES["operator"], method, path, **options)

    def agency(self, agency: str, method: str, path: str, **options: Any) -> Any:
        """Call the door as one of an agency's people."""
        return self._call("consent", agency, SCOPES["agency"], method, path, **options)

    def service(self, service: str, method: str, path: str, **options: Any) -> Any:
        """Call one of the three services as its co-ordinator."""
        return self._call(service, "operator", SCOPES[service], method, path, **options)

    def _call(self, service: str, agency: str, scopes: Sequence[str], method: str, path: str, **options: Any) -> Any:
        api = self._apis.get((service, agency))
        if api is None:
            api = Api(self._around, agency, *scopes, service=service, patience=AWAY_SECONDS)
            self._apis[service, agency] = api
        answer = api.call(method, path, **options)
        return answer.json() if answer.content else None


class World:
    """Everything that the story touches. `patience` is how long an effect may take before the story fails."""

    def __init__(self, around: Surroundings, agencies: Sequence[str], patience: float) -> None:
        self.around = around
        self.patience = patience
        self.waiting_for: Callable[[str], None] = lambda text: None
        """Told what is waited for, to show it."""
        self.api = Callers(around)
        self._systems: dict[str, CaseSystem] = {}
        try:
            for agency in agencies:
                self._systems[agency] = CaseSystem(around, agency)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect from everything."""
        for system in self._systems.values():
            system.close()
        self.api.close()

    def __getitem__(self, agency: str) -> CaseSystem:
        return self._systems[agency]

    def until(self, look: Callable[[], T | None], expected: str) -> T:
        """What `look` finds, as soon as it finds something that is neither None nor False.

        Raises:
            CommandError: it found nothing in time; the sentence says what was expected.
        """
        self.waiting_for(expected)
        found = found_within(self.patience, look)
        if found is None:
            raise CommandError(f"Expected within {self.patience:.0f} s, and it did not come: {expected}.")
        self.waiting_for("")
        return found


@contextmanager
def opened(around: Surroundings, agencies: Sequence[str], patience: float) -> Iterator[World]:
    """A world that is closed at the end."""
    world = World(around, agencies, patience)
    try:
        yield world
    finally:
        world.close()


def check(holds: bool, claim: str) -> None:
    """The story claims something: it fails when it is not so."""
    if not holds:
        raise CommandError(f"This must hold, and does not: {claim}.")


def try_to_read(around: Surroundings, agency: str, topic: str) -> str:
    """What Kafka says when `agency` opens `topic` to read it: the name of the error, or nothing when it lets it."""
    consumer = Consumer(around.kafka_config(agency) | {"group.id": f"{agency}.story"})
    try:
        found = consumer.list_topics(around.topic(topic), timeout=15).topics[around.topic(topic)]
        return "" if found.error is None else str(found.error.name())
    except KafkaException as error:
        return str(error.args[0].name())
    finally:
        consumer.close()
