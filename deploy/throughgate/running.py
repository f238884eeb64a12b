"""Where the system is that a command talks to: what the environment names, else the running one of this checkout.

What `throughgate up` runs is described in a file of this checkout's state folder (mode 0600: it has the Kafka passwords
in it), so that `throughgate publish` and the like need no arguments. It goes when the system stops.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from contracts.vocabulary import SERVICES
from throughgate.issuer import Issuer, write_private
from throughgate.reaching import CommandError, Surroundings, needed, passwords_from_environment

CHECKOUT = Path(__file__).resolve().parents[2]


def state_folder() -> Path:
    """This checkout's own folder for what runs: below `$XDG_STATE_HOME`, by default `~/.local/state`."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = base / "throughgate" / hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:12]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _state_file() -> Path:
    return state_folder() / "system.json"


def remember(around: Surroundings, key: Path) -> None:
    """Let other commands find the system that this process runs. `key` is the file of its issuer's key."""
    kept = {
        "pid": os.getpid(),
        "kafka": around.kafka_servers,
        "urls": dict(around.urls),
        "passwords": dict(around.passwords),
        "namespace": around.namespace,
        "traces": around.traces_url,
        "database": around.database,
        "key": str(key),
    }
    write_private(_state_file(), json.dumps(kept, indent=1))


def forget() -> None:
    """It stops: nobody is to look for it."""
    _state_file().unlink(missing_ok=True)


def _running() -> Surroundings:
    try:
        kept = json.loads(_state_file().read_text())
        issuer = Issuer.load(Path(kept["key"]))
        alive = psutil.pid_exists(kept["pid"])
    except (OSError, ValueError, KeyError):
        alive = False
    if not alive:
        raise CommandError("No system of this checkout is running: start one with throughgate up, in another terminal.")
    return Surroundings(
        kept["kafka"], kept["urls"], kept["passwords"], issuer, kept["namespace"], kept["traces"], kept["database"]
    )


def whole_of(agencies: Sequence[str]) -> Surroundings:
    """All of it: what THROUGHGATE_KAFKA_SERVERS, THROUGHGATE_<SERVICE>_URL, THROUGHGATE_ISSUER_KEY and the agencies'
    passwords say, where the first is set.

    Raises:
        CommandError: something of these is missing, and the sentence names it; or nothing runs.
    """
    servers = os.environ.get("THROUGHGATE_KAFKA_SERVERS")
    if not servers:
        return _running()
    return Surroundings(
        servers,
        {service: needed(f"THROUGHGATE_{service.upper()}_URL") for service in SERVICES},
        issuer=_issuer(Path(needed("THROUGHGATE_ISSUER_KEY"))),
        passwords=passwords_from_environment(agencies),
        namespace=os.environ.get("THROUGHGATE_NAMESPACE", ""),
        traces_url=os.environ.get("THROUGHGATE_TRACES_URL", ""),
        database=os.environ.get("THROUGHGATE_DATABASE_URL", ""),
    )


def door_of(*, tokens: bool = True) -> Surroundings:
    """Where the door is: THROUGHGATE_CONSENT_URL with THROUGHGATE_ISSUER_KEY, or the running system of this checkout.

    Without `tokens` no key is needed: for what the door tells everyone.

    Raises:
        CommandError: the key cannot be read, or nothing runs.
    """
    url = os.environ.get("THROUGHGATE_CONSENT_URL")
    if not url:
        return _running()
    key = Path(os.environ.get("THROUGHGATE_ISSUER_KEY") or "issuer-key.json")
    return Surroundings("", {"consent": url}, {}, _issuer(key) if tokens else Issuer())


def topics_of(agency: str) -> Surroundings:
    """Where an agency reads its topics: THROUGHGATE_KAFKA_SERVERS with its password, or the running system.

    Raises:
        CommandError: the password is missing, or nothing runs.
    """
    servers = os.environ.get("THROUGHGATE_KAFKA_SERVERS")
    if not servers:
        return _running()
    namespace = os.environ.get("THROUGHGATE_NAMESPACE", "")
    return Surroundings(servers, {}, passwords_from_environment([agency]), Issuer(), namespace)


def _issuer(key: Path) -> Issuer:
    try:
        return Issuer.load(key)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"The issuer's key cannot be read from {key}: name it in THROUGHGATE_ISSUER_KEY,"
            " or make one with throughgate issuer."
        ) from error
