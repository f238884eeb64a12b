"""The door's API as the commands call it: with a token of an agency, and of few scopes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import httpx

from throughgate.story.world import StoryError, Surroundings


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
