"""Bytes that are none of our events, or of which one could not be applied: what can be made of them anyway."""

import re
import unicodedata
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Any

import orjson

_BASE64 = re.compile(r'"data_base64"\s*:\s*"([^"]+)"?')
_NO_BASE64 = re.compile(r"\\[nrt]|[^0-9A-Za-z_-]")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def unescaped(value: bytes) -> str:
    """Bytes as text, whatever their encoding, with the escapes of JSON for slashes and by number undone. Without NULs,
    UTF-16 reads like UTF-8 as far as numbers go.
    """
    text = value.replace(b"\0", b"").decode("utf-8", "replace").replace("\\/", "/")
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), text)


def normal(text: str) -> str:
    """Letters and digits in their usual form: people paste wide ones, and ones set as symbols."""
    return unicodedata.normalize("NFKC", text)


def json_of(value: bytes) -> Any:
    """What the JSON says; None where it is none."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def packed_in(text: str) -> Iterator[bytes]:
    """What stands in it as base64, as far as it goes."""
    for match in _BASE64.finditer(text):
        letters = _NO_BASE64.sub("", match[1].replace("+", "-").replace("/", "_"))
        yield urlsafe_b64decode(letters[: len(letters) // 4 * 4] if len(letters) % 4 == 1 else letters + "==")


def data_of(event: Any) -> dict[str, Any]:
    """The data of an event, or what came without its envelope; empty where that is no object."""
    data = event.get("data", event) if isinstance(event, dict) else None
    return data if isinstance(data, dict) else {}
