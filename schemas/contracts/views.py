"""What may be seen of clients: the question to the door, and the way in which our services' lists put it.

A list shows personal fields by one question for all of its clients, with the token of whoever asked for the list: so
the door decides for that agency and that person, and not for the service. The service reads nothing of what it passes
on, keeps nothing of it, and asks again the next time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Literal, TypeVar
from uuid import UUID

import httpx
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field, ValidationError

from contracts.facts import Section
from contracts.leaving import Receipt
from contracts.vocabulary import SERVICE_PURPOSES, Category, Purpose, Service
from servicekit.envelope import StrictWire, Wire
from servicekit.problems import ProblemDetails

log = logging.getLogger(__name__)

MOST_CLIENTS = 200

Clients = Annotated[list[UUID], Field(min_length=1, max_length=MOST_CLIENTS)]
"""References of clients."""


class ViewRequest(StrictWire):
    """What may be seen of these clients for this purpose?"""

    clients: Clients
    purpose: Purpose
    categories: Annotated[list[Category], Field(min_length=1)]
    references_of: Service | None = None
    """Whose references these are, where one of our services lists the clients; otherwise your own."""


class View(Wire):
    """What may be seen of one client; without a receipt it is no client of yours."""

    client: UUID
    sections: list[Section] = []
    receipt: Receipt | None = None


class Views(Wire):
    """One view a client, in the order asked."""

    views: list[View]


class Shown(Wire):
    """What you may see of a line's client at this moment. Keep nothing of it: ask again to show again."""

    state: Literal["seen", "withheld", "unavailable"]
    """`withheld`: the door showed nothing; `unavailable`: the door did not decide, so nothing is shown."""
    reason: str | None = None
    """Why it is unavailable: `door-away`, or the code with which the door refused the question."""
    sections: list[Section] = []
    receipt: Receipt | None = None
    """Why this is seen, what of it is withheld, and what you must do with it."""


class ClientLine(Wire):
    """A line of a list about one client."""

    client: UUID
    shown: Shown | None = None
    """What you may see of the client; only where you asked for it with `show`."""


L = TypeVar("L", bound=ClientLine)
DOOR_AWAY = "door-away"


@asynccontextmanager
async def asking_the_door(app: FastAPI) -> AsyncIterator[None]:
    """While the API runs: its connections to the door's API. Other hosts are never sent a token."""
    url: str = app.state.settings.door_url
    async with httpx.AsyncClient(base_url=url, trust_env=False, follow_redirects=False) as door:
        app.state.door = door
        yield


class Showing:
    """What the caller wants to see beside a list, as a FastAPI dependency: nothing that it does not name."""

    def __init__(
        self,
        request: Request,
        response: Response,
        show: Annotated[
            list[Category], Query(description="Categories of the clients to show, as far as the door lets you")
        ] = [],  # noqa: B006 # FastAPI copies it
    ) -> None:
        self._request, self._response, self._categories = request, response, show

    async def beside(self, service: Service, lines: Sequence[L]) -> list[L]:
        """The lines of a list of this service, each with what the caller may see of its client.

        One question to the door for all of them, at most `MOST_CLIENTS`. When the door does not answer in time, or
        refuses, every line says so and shows nothing.
        """
        if not self._categories or not lines:
            return list(lines)
        self._response.headers["Cache-Control"] = "no-store"
        asked = ViewRequest(
            clients=sorted({line.client for line in lines}),
            purpose=SERVICE_PURPOSES[service],
            categories=sorted(set(self._categories)),
            references_of=service,
        )
        found = await _ask(self._request, asked)
        return [line.model_copy(update={"shown": found.get(line.client, _WITHHELD)}) for line in lines]


_WITHHELD = Shown(state="withheld")


async def _ask(request: Request, asked: ViewRequest) -> dict[UUID, Shown]:
    """What is shown of each client of whom the door shows something; or why it did not decide."""
    door: httpx.AsyncClient = request.app.state.door
    headers = {"Authorization": request.headers["Authorization"], "Content-Type": "application/json"}
    try:
        async with asyncio.timeout(request.app.state.settings.door_seconds):
            answer = await door.post("/views", content=asked.model_dump_json(by_alias=True), headers=headers)
        if answer.status_code in range(400, 500):
            return _unavailable(asked, ProblemDetails.model_validate_json(answer.content).code)
        answer.raise_for_status()
        views = Views.model_validate_json(answer.content).views
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValidationError) as error:
        log.warning("the door did not answer what may be seen: %s", type(error).__name__)  # its text may quote
        return _unavailable(asked, DOOR_AWAY)
    return {
        view.client: Shown(state="seen", sections=view.sections, receipt=view.receipt)
        for view in views
        if view.sections
    }


def _unavailable(asked: ViewRequest, reason: str) -> dict[UUID, Shown]:
    return dict.fromkeys(asked.clients, Shown(state="unavailable", reason=reason))
