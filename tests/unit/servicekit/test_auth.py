"""Who is calling: whatever is not a current token of our issuer for us is nobody."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
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
from servicekit.settings import Settings
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
    settings = Settings(
        database_url="x",
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


@pytest.mark.parametrize("jwks", ["", "/nowhere/jwks.json", "/dev/null"])
def test_without_a_key_set_nobody_is_known(jwks: str, forge: Forge) -> None:
    verifier = Verifier(Settings(database_url="x", jwks=jwks, issuer=forge.name))
    with pytest.raises(Problem, match="not-authenticated"):
        verifier.verify(forge.made())


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
    assert answers[-1].json() == "hmp-leeds"
