"""An issuer whose private key can be kept in a file, for a story that runs in another process than the system."""

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from throughgate.issuer import Issuer


class StoredIssuer(Issuer):
    """Signs like `Issuer`. For development only: whoever can read the file can be anyone."""

    def save(self, path: Path) -> Path:
        """Write the private key, readable by the owner only."""
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, json.dumps({"issuer": self.name, "kid": self._key_id, "key": pem.decode()}))
        return path

    @classmethod
    def load(cls, path: Path) -> "StoredIssuer":
        """The issuer that `save` wrote. Raises OSError, or ValueError for a file that is none."""
        try:
            kept = json.loads(path.read_text())
            found = cls(kept["issuer"])
            key = serialization.load_pem_private_key(kept["key"].encode(), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a key file of throughgate issuer") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} is not a key file of throughgate issuer")
        found._key, found._key_id = key, kept["kid"]
        return found


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)
