"""Who is calling: a signed JWT with agency and scopes, verified against a key set (RFC 7519, RFC 7517)."""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from servicekit.envelope import PRACTITIONER
from servicekit.problems import Problem
from servicekit.settings import ApiSettings

log = logging.getLogger(__name__)

OPERATOR = "operator"
"""The scope of whoever runs the system; in what is recorded, also the name in which they act."""
ALGORITHMS = ["EdDSA", "ES256", "RS256"]
"""Asymmetric only: a key set is public, so a symmetric algorithm in a token must never be believed."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The agency that calls, what it may do, and which of its people or programs it is."""

    agency: str
    scopes: frozenset[str]
    subject: str
    practitioner: str | None = None
    """The agency's own id of the person who asks. None: a program asks, and nobody knows who will read the answer."""

    @property
    def is_operator(self) -> bool:
        """Whether it acts for whoever runs the system."""
        return OPERATOR in self.scopes

    @property
    def within(self) -> str | None:
        """The agency that the caller is held to: its own; None for an operator, who is held to none."""
        return None if self.is_operator else self.agency


class Verifier:
    """Checks tokens against the issuer's key set, read from a file or fetched and cached by PyJWT."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._remote = jwt.PyJWKClient(settings.jwks) if settings.jwks.startswith(("http://", "https://")) else None

    def verify(self, token: str) -> Caller:
        """The caller that the token names.

        Raises:
            Problem: 401, the token is missing, expired, or not signed by our issuer for us; 503, the issuer's keys
                cannot be read, so nobody can tell.
        """
        try:
            claims = jwt.decode(
                token,
                self._key(token),
                algorithms=ALGORITHMS,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options={"require": ["exp", "iss", "aud", "sub", "agency"]},
            )
            scopes = frozenset(str(claims.get("scope", "")).split())
            practitioner = claims.get("practitioner")
            if practitioner is not None:
                practitioner = practitioner.strip() if isinstance(practitioner, str) else ""
                if not re.fullmatch(PRACTITIONER, practitioner):
                    raise ValueError("the claim practitioner is no id")
            agency, subject = str(claims["agency"]), str(claims["sub"])
            if not (agency.isprintable() and subject.isprintable()):
                raise ValueError("a claim is no id")
            return Caller(agency, scopes, subject, practitioner)
        except (jwt.PyJWTError, ValueError, KeyError) as error:
            raise _unauthorised() from error

    def _key(self, token: str) -> jwt.PyJWK:
        kid = jwt.get_unverified_header(token)["kid"]
        try:
            if self._remote:
                keys = self._remote.get_jwk_set()
            else:
                keys = jwt.PyJWKSet.from_dict(json.loads(Path(self._settings.jwks).read_text()))
        except Exception as error:  # whatever it is: a key set that cannot be read is not the caller's doing
            raise _keys_not_readable(error) from error
        if self._remote is None:
            return keys[kid]
        try:
            return self._remote.get_signing_key(kid)  # the issuer may have a new key: asks it again, now and then
        except jwt.PyJWKClientConnectionError as error:
            raise _keys_not_readable(error) from error


def _keys_not_readable(error: Exception) -> Problem:
    log.error("the key set of the token issuer cannot be read, so nobody who calls is known: %s", type(error).__name__)
    return Problem(
        "keys-not-readable",
        "We cannot tell who is calling",
        "The keys of the token issuer cannot be read at the moment. Keep your token, and ask again later.",
        503,
    )


def _unauthorised() -> Problem:
    return Problem(
        "not-authenticated",
        "We do not know who is calling",
        "Send an Authorization header with a current bearer token from the token issuer of this system.",
        401,
        headers={"WWW-Authenticate": "Bearer"},
    )


def scope_missing(scope: str, otherwise: str = "") -> Problem:
    """What a caller without `scope` is told. `otherwise`: what it can do without."""
    return Problem(
        "scope-missing", "You may not do this", f"Ask the operator for a token with the scope {scope}{otherwise}.", 403
    )


_bearer = HTTPBearer(auto_error=False, description="JWT with the claims agency and scope")


def require(*scopes: str) -> Callable[..., Awaitable[Caller]]:
    """A FastAPI dependency that gives the caller, who must hold one of `scopes`; who holds none is told the first.

    Raises:
        Problem: 401 without a valid token, 403 without such a scope, 503 while the issuer's keys cannot be read.
    """

    async def caller(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> Caller:
        if credentials is None:
            raise _unauthorised()
        verifier: Verifier = request.app.state.verifier
        found = await asyncio.to_thread(verifier.verify, credentials.credentials)
        request.state.caller = found
        if found.scopes.isdisjoint(scopes):
            raise scope_missing(scopes[0])
        return found

    return caller
