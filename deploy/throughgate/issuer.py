"""Issues tokens for development and tests, with a key that is made at the start and never stored."""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE = "throughgate"


class Issuer:
    """Stands in for the identity provider of an installation."""

    def __init__(self, name: str = "throughgate-development") -> None:
        self.name = name
        self._key = Ed25519PrivateKey.generate()
        self._key_id = uuid.uuid4().hex

    def jwks(self) -> dict[str, Any]:
        """The public key set, by which services check our tokens."""
        key = jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [key | {"kid": self._key_id, "alg": "EdDSA", "use": "sig"}]}

    def write_jwks(self, path: Path) -> Path:
        """Write the public key set to a file."""
        path.write_text(json.dumps(self.jwks()))
        return path

    def token(
        self,
        subject: str,
        agency: str,
        scopes: Sequence[str],
        lifetime: float = 3600.0,
        practitioner: str | None = None,
    ) -> str:
        """A signed token that says who asks, for which agency, and what for; good for `lifetime` seconds.

        `practitioner`: the agency's own id of the person who asks; a program's token has none.
        """
        now = time.time()
        claims = {
            "iss": self.name,
            "aud": AUDIENCE,
            "sub": subject,
            "agency": agency,
            "scope": " ".join(scopes),
            "iat": int(now),
            "exp": int(now + lifetime),
            "jti": uuid.uuid4().hex,
        }
        if practitioner is not None:
            claims["practitioner"] = practitioner
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self._key_id})
