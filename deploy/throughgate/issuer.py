"""Issues tokens for development and tests. A real installation has its identity provider for that."""

import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE = "throughgate"


class Issuer:
    """Stands in for the identity provider of an installation, with a key that is made anew unless it is loaded.

    For development only: whoever can read a file of `save` can be anyone.
    """

    def __init__(self) -> None:
        self.name = "throughgate-development"
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

    def save(self, path: Path) -> Path:
        """Write the private key, readable by the owner only."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, json.dumps({"issuer": self.name, "kid": self._key_id, "key": pem.decode()}))
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """The issuer that `save` wrote. Raises OSError, or ValueError for a file that is none."""
        try:
            kept = json.loads(path.read_text())
            found = cls()
            found.name, found._key_id = kept["issuer"], kept["kid"]
            key = serialization.load_pem_private_key(kept["key"].encode(), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a key file of throughgate issuer") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is not a key file of throughgate issuer")
        found._key = key
        return found

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


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
