"""Who is calling: whatever is not a current token of our issuer for us is nobody."""

import base64
import hashlib
import hmac
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from servicekit import problems
from servicekit.auth import Caller, Verifier, require
from servicekit.problems import Problem
from servicekit.settings import ApiSettings
from servicekit.telemetry import SafeFormatter
from throughgate.issuer import Issuer


class Forge(Issuer):
    """An issuer that can be made to say anything."""

    @property
    def public(self) -> ed25519.Ed25519PublicKey:
        return self._key.public_key()

    def claims(self, **change: Any) -> dict[str, Any]:
        wanted = {
            "iss": self.name,
            "aud": "throughgate",
            "sub": "case-system",
            "agency": "hmp-leeds",
            "scope": "events:write agreements:read",
            "exp": time.time() + 600,
        } | change
        return {name: value for name, value in wanted.items() if value is not None}

    def made(
        self, key: Any = None, header: dict[str, Any] | None = None, algorithm: str = "EdDSA", **change: Any
    ) -> str:
        headers = {"kid": self._key_id} | (header or {})
        return jwt.encode(
            self.claims(**change), key or self._key, algorithm, {n: v for n, v in headers.items() if v is not None}
        )

    def by_hand(self, header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
        def part(value: bytes) -> str:
            return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

        text = f"{part(json.dumps(header | {'kid': self._key_id}).encode())}.{part(json.dumps(self.claims()).encode())}"
        return f"{text}.{part(sign(text.encode()))}"

    def hs256(self, secret: bytes) -> str:
        return self.by_hand({"alg": "HS256", "typ": "JWT"}, lambda text: hmac.digest(secret, text, hashlib.sha256))


def deep(forge: Forge) -> str:
    header = base64.urlsafe_b64encode(b'{"kid":' + b"[" * 20_000).rstrip(b"=").decode()
    return f"{header}.{forge.made().partition('.')[2]}"


REFUSED: dict[str, Callable[[Forge], str]] = {
    "nothing": lambda f: "",
    "nonsense": lambda f: "nonsense",
    "three parts of nonsense": lambda f: "a.b.c",
    "a practitioner without an id": lambda f: f.made(practitioner=""),
    "a practitioner who is only a space": lambda f: f.made(practitioner=" "),
    "an agency with a NUL": lambda f: f.made(agency="hmp\x00leeds"),
    "a subject with a NUL": lambda f: f.made(sub="cl\x00erk"),
    "several practitioners": lambda f: f.made(practitioner=["u-17", "u-18"]),
    "expired": lambda f: f.made(exp=time.time() - 1),
    "not yet valid": lambda f: f.made(nbf=time.time() + 60),
    "wrong audience": lambda f: f.made(aud="another"),
    "wrong issuer": lambda f: f.made(iss="another"),
    "no expiry": lambda f: f.made(exp=None),
    "no audience": lambda f: f.made(aud=None),
    "no issuer": lambda f: f.made(iss=None),
    "no agency": lambda f: f.made(agency=None),
    "no subject": lambda f: f.made(sub=None),
    "wrong key": lambda f: f.made(key=ed25519.Ed25519PrivateKey.generate()),
    "wrong key, in the header": lambda f: f.made(key=Forge()._key, header={"jwk": Forge().jwks()["keys"][0]}),
    "unknown key id": lambda f: f.made(header={"kid": "another"}),
    "no key id": lambda f: f.made(header={"kid": None}),
    "alg none": lambda f: f.by_hand({"alg": "none"}, lambda text: b""),
    "alg None": lambda f: f.by_hand({"alg": "None"}, lambda text: b""),
    "HS256 with the public key": lambda f: f.hs256(f.public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
    "HS256 with the public key as PEM": lambda f: f.hs256(
        f.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ),
    "HS256 with the public key as JWK": lambda f: f.hs256(f.jwks()["keys"][0]["x"].encode()),
    "HS256 with nothing": lambda f: f.hs256(b""),
    "RS256 with a key of one's own": lambda f: f.made(
        key=rsa.generate_private_key(public_exponent=65537, key_size=2048), algorithm="RS256"
    ),
    "claims changed": lambda f: ".".join(
        part if n != 1 else f.made(agency="probation").split(".")[1] for n, part in enumerate(f.made().split("."))
    ),
    "signature cut": lambda f: f.made()[:-4],
    "deeper than a reader goes": deep,
}


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture
def app(forge: Forge, tmp_path: Path) -> FastAPI:
    settings = ApiSettings(
        database_url="x",
        agency_database_url="x",
        jwks=str(forge.write_jwks(tmp_path / "jwks.json")),
        issuer=forge.name,
    )
    app = FastAPI()
    app.state.verifier = Verifier(settings)
    problems.install(app)

    @app.get("/who")
    async def who(caller: Annotated[Caller, Depends(require("events:write"))]) -> str:
        return caller.agency

    return app


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused(what: str, forge: Forge, app: FastAPI) -> None:
    with pytest.raises(Problem) as caught:
        app.state.verifier.verify(REFUSED[what](forge))
    assert (caught.value.code, caught.value.status) == ("not-authenticated", 401)


@contextmanager
def key_server(*answers: bytes | None) -> Iterator[str]:
    """The address of an identity provider that gives these key sets, one a request and then the last; None is 500."""
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.send_response(200 if body is not None else 500)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{SECRET}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SECRET = "Zq7Secret"


def refused(verifier: Verifier, token: str, caplog: pytest.LogCaptureFixture) -> tuple[str, int]:
    """Code and status; a failure of ours is told to operations, without address or token."""
    caplog.clear()
    with pytest.raises(Problem) as caught:
        verifier.verify(token)
    told = [SafeFormatter("consent-api").format(r) for r in caplog.records if r.levelno >= logging.ERROR]
    assert bool(told) is (caught.value.status >= 500)
    assert not any(SECRET in one or token in one for one in told)
    assert SECRET not in caught.value.detail
    return caught.value.code, caught.value.status


NOT_READABLE, NOBODY = ("keys-not-readable", 503), ("not-authenticated", 401)


@pytest.mark.parametrize(
    "kept", [None, b"", b"[]", b"null", b"{}", b'{"keys": []}', b'{"keys": 7}', b"\xff", b"[" * 20_000]
)
def test_a_key_set_that_cannot_be_read_is_no_fault_of_the_caller(
    kept: bytes | None, forge: Forge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / SECRET
    if kept is not None:
        path.write_bytes(kept)
    with key_server(kept) as url:
        for jwks in (str(path), url):
            verifier = Verifier(ApiSettings(database_url="x", agency_database_url="x", jwks=jwks, issuer=forge.name))
            assert refused(verifier, forge.made(), caplog) == NOT_READABLE
            assert refused(verifier, "nonsense", caplog) == NOBODY


def test_keys_are_known_while_the_identity_provider_is_away(forge: Forge, caplog: pytest.LogCaptureFixture) -> None:
    new = Forge()
    with key_server(json.dumps(forge.jwks()).encode()) as url:
        verifier = Verifier(ApiSettings(database_url="x", agency_database_url="x", jwks=url, issuer=forge.name))
        assert verifier.verify(forge.made()).agency == "hmp-leeds"
        assert refused(verifier, new.made(), caplog) == NOBODY
    assert verifier.verify(forge.made()).agency == "hmp-leeds"
    verifier._remote.cooldown_duration = 0  # type: ignore[union-attr] # as if half a minute had gone by
    assert refused(verifier, new.made(), caplog) == NOT_READABLE, "a key that we never saw may be good"
    assert verifier.verify(forge.made()).agency == "hmp-leeds"


def test_a_new_key_of_the_identity_provider_is_found(forge: Forge) -> None:
    new = Forge()
    both = {"keys": [*forge.jwks()["keys"], *new.jwks()["keys"]]}
    with key_server(json.dumps(forge.jwks()).encode(), json.dumps(both).encode()) as url:
        verifier = Verifier(ApiSettings(database_url="x", agency_database_url="x", jwks=url, issuer=forge.name))
        verifier._remote.cooldown_duration = 0  # type: ignore[union-attr]
        assert verifier.verify(forge.made()).agency == "hmp-leeds"
        assert verifier.verify(new.made()).agency == "hmp-leeds"


def test_an_api_without_a_key_set_does_not_start() -> None:
    start = """
from fastapi import FastAPI
from servicekit.run import serve
from servicekit.settings import ApiSettings
serve(FastAPI(), ApiSettings(database_url="x", agency_database_url="x", http_port=0), "consent-api")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THROUGHGATE_")}
    done = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    (told,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert told["level"] == "CRITICAL"
    assert "THROUGHGATE_JWKS is not set" in told["message"]


def test_a_current_token_says_who_calls(forge: Forge, app: FastAPI) -> None:
    caller = app.state.verifier.verify(forge.token("clerk", "hmp-leeds", ["a", "b"]))
    assert caller == Caller("hmp-leeds", frozenset({"a", "b"}), "clerk", practitioner=None)
    assert app.state.verifier.verify(forge.token("clerk", "x", [], practitioner="u-17 ")).practitioner == "u-17"
    assert app.state.verifier.verify(forge.made(scope=None)).scopes == frozenset()


def test_over_http(forge: Forge, app: FastAPI) -> None:
    with TestClient(app) as http:
        answers = [
            http.get("/who", headers=headers)
            for headers in (
                {},
                {"Authorization": "Basic eDp5"},
                {"Authorization": "Bearer nonsense"},
                {"Authorization": f"Bearer {forge.made(exp=1)}"},
                {"Authorization": f"Bearer {forge.made(scope='events:writer')}"},
                {"Authorization": f"Bearer {forge.made()}"},
            )
        ]
    assert [a.status_code for a in answers] == [401, 401, 401, 401, 403, 200]
    assert [a.json()["code"] for a in answers[:-1]] == [*["not-authenticated"] * 4, "scope-missing"]
    assert all(a.headers["content-type"] == "application/problem+json" for a in answers[:-1])
    assert [a.headers.get("www-authenticate") for a in answers] == [*["Bearer"] * 4, None, None]  # RFC 9110, 11.6.1
    assert answers[-1].json() == "hmp-leeds"
