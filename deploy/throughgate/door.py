"""The door's API as the commands call it: with a token of an agency, and of few scopes."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from throughgate import demo as demonstration
from throughgate.story.tokens import StoredIssuer
from throughgate.story.world import StoryError, Surroundings, passwords_from_environment


def door_of(*, tokens: bool = True) -> Surroundings:
    """Where the door is: THROUGHGATE_CONSENT_URL with THROUGHGATE_ISSUER_KEY, or the running system of this checkout.

    Without `tokens` no key is needed: for what the door tells everyone.

    Raises:
        StoryError: the key cannot be read, or nothing runs.
    """
    url = os.environ.get("THROUGHGATE_CONSENT_URL")
    if not url:
        return demonstration.running().around
    key = Path(os.environ.get("THROUGHGATE_ISSUER_KEY", "issuer-key.json"))
    try:
        return Surroundings("", {"consent": url}, {}, StoredIssuer.load(key) if tokens else StoredIssuer())
    except (OSError, ValueError) as error:
        raise StoryError(f"The issuer's key cannot be read from {key}: make one with throughgate issuer.") from error


def topics_of(agency: str) -> Surroundings:
    """Where an agency reads its topics: THROUGHGATE_KAFKA_SERVERS with its password, or the running system.

    Raises:
        StoryError: the password is missing, or nothing runs.
    """
    servers = os.environ.get("THROUGHGATE_KAFKA_SERVERS")
    if not servers:
        return demonstration.running().around
    namespace = os.environ.get("THROUGHGATE_NAMESPACE", "")
    return Surroundings(servers, {}, passwords_from_environment([agency]), StoredIssuer(), namespace)


class Door(AbstractContextManager["Door"]):
    """A connection to the door's API. `agency` says in whose name."""

    def __init__(self, around: Surroundings, agency: str, *scopes: str) -> None:
        self._url = around.urls["consent"]
        token = around.issuer.token(f"command@{agency}", agency, scopes)
        self._client = httpx.Client(
            base_url=self._url, timeout=60.0, headers={"Authorization": f"Bearer {token}"} if scopes else {}
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def get(self, path: str, *, accept: str = "application/json", **query: Any) -> httpx.Response:
        """What the door answers to GET. Raises StoryError for what it refuses, in its own words."""
        return self._answer(self._client.get, path, params=query, headers={"Accept": accept})

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """What the door answers to POST. Raises StoryError for what it refuses, in its own words."""
        return self._answer(self._client.post, path, json=body)

    def _answer(self, call: Any, path: str, **options: Any) -> httpx.Response:
        try:
            answer: httpx.Response = call(path, **options)
        except httpx.HTTPError as error:
            raise StoryError(f"The door's API at {self._url} does not answer: is the system up?") from error
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
            raise StoryError(f"The door refused it ({problem['code']}): {problem['title']}. {problem['detail']}")
        except (ValueError, KeyError, TypeError):
            raise StoryError(f"The door answered with status {answer.status_code}.") from None
