"""What referral, matching and notifications read from their cleared topics, as the door would write it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from aiokafka import ConsumerRecord

from servicekit.envelope import encode

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
"""The `traceparent` of every record."""


def section(category: str, data: dict[str, Any], at: datetime | None = None) -> dict[str, Any]:
    """A section that the prison recorded, `at` or now."""
    return {"category": category, "source": "hmp-leeds", "recordedAt": at or datetime.now(UTC), "data": data}


class Cleared:
    """Makes the records of one service's cleared topic, each about one client."""

    def __init__(self, service: str, purpose: str) -> None:
        self._topic, self._purpose = f"cleared.{service}", purpose

    def snapshot(self, client: UUID, *sections: dict[str, Any], decided_on: int = 1, id: str | None = None) -> Any:
        """All that the service may know of a client."""
        return self.record("throughgate.client.snapshot.v1", client, self._disclosed(decided_on, *sections), id)

    def answered(self, type: str, client: UUID, provider: str, message: dict[str, Any], decided_on: int = 1) -> Any:
        """What a provider answered; `type` says to what."""
        data = self._disclosed(decided_on) | {"provider": provider, "message": message}
        return self.record(type, client, data)

    def settled(self, client: UUID, request: UUID, outcome: str) -> Any:
        """What became of a request."""
        withheld = [{"category": "identity", "source": "hmp-leeds", "rule": "no-agreement", "remedy": "Sign one."}]
        data = {"request": request, "outcome": outcome, "withheld": withheld if outcome == "denied" else []}
        return self.record("throughgate.request.settled.v1", client, data)

    def withdrawn(self, client: UUID, version: int, *purposes: str, **scope: list[str]) -> Any:
        """A retraction: of everything, or of what `scope` lists as `categories` and `recipients`."""
        data = {"retraction": uuid4(), "purposes": purposes or [self._purpose], "version": version} | scope
        return self.record("throughgate.client.withdrawn.v1", client, data)

    def record(self, type: str, client: UUID, data: dict[str, Any], id: str | None = None) -> Any:
        """An event of any type."""
        key = str(client).encode()
        value = encode(type, "/throughgate", data, subject=str(client), id=id)
        headers = (("traceparent", TRACE.encode()),)
        return ConsumerRecord(self._topic, 0, 0, 0, 0, key, value, 0, len(key), len(value), headers)

    def _disclosed(self, decided_on: int, *sections: dict[str, Any]) -> dict[str, Any]:
        receipt = {
            "decision": uuid4(),
            "decidedAt": datetime.now(UTC),
            "purpose": self._purpose,
            "decidedOn": decided_on,
            "permitted": [],
            "withheld": [],
            "obligations": [],
        }
        return {"purpose": self._purpose, "sections": sections, "receipt": receipt}
