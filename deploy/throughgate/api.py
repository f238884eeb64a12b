"""A service's API as the commands and the story call it: in the name of an agency, with few scopes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Self

import httpx

from throughgate.reaching import CommandError, Surroundings, found_within


class Refused(CommandError):
    """The service answered, and not with what was asked. `status` is that of HTTP."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Api(AbstractContextManager["Api"]):
    """A connection to the API of a service, by default the door's. `agency` says in whose name.

    `patience` is for how many seconds it may be away before a call fails: asked again meanwhile, which is for calls
    that may be repeated.
    """

    def __init__(
        self, around: Surroundings, agency: str, *scopes: str, service: str = "consent", patience: float = 0.0
    ) -> None:
        self._name = "door" if service == "consent" else f"{service} service"
        self._url = around.urls[service]
        self._patience = patience
        headers = {"Authorization": f"Bearer {around.issuer.token(f'command@{agency}', agency, scopes)}"}
        self._client = httpx.Client(base_url=self._url, timeout=60.0, headers=headers if scopes else {})

    def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def get(self, path: str, *, accept: str = "application/json", **query: Any) -> httpx.Response:
        """What it answers to GET. Raises CommandError as `call` does."""
        return self.call("GET", path, params=query, headers={"Accept": accept})

    def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """What it answers to POST. Raises CommandError as `call` does."""
        return self.call("POST", path, json=body)

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """What it answers.

        Raises:
            Refused: it refuses, in its own words.
            CommandError: it does not answer.
        """

        def ask() -> httpx.Response | None:
            with suppress(httpx.HTTPError):
                return self._client.request(method, path, **options)
            return None

        answer = found_within(self._patience, ask)
        if answer is None:
            raise CommandError(f"The API of the {self._name} at {self._url} does not answer: is the system up?")
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
            sentence = f"The {self._name} refused it ({problem['code']}): {problem['title']}. {problem['detail']}"
        except (ValueError, KeyError, TypeError):
            sentence = f"The {self._name} answered with status {answer.status_code}."
        raise Refused(sentence, answer.status_code)
