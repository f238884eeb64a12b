"""Runs the `throughgate` command against a system under test, as an agency or its operator would."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from support.agency import Agency
from support.door import but_readings
from throughgate.cli import app
from throughgate.reaching import variable
from throughgate.system import System


@dataclass
class Commands:
    """The command with an environment that points to `system`; keys lie in `folder`."""

    system: System
    folder: Path

    def environment(self) -> dict[str, str]:
        """What a person would have set."""
        key = self.folder / "issuer-key.json"
        if not key.exists():
            self.system.issuer.save(key)
        password = "THROUGHGATE_KAFKA_PASSWORD_"
        return {
            "THROUGHGATE_CONSENT_URL": self.system.urls["consent"],
            "THROUGHGATE_ISSUER_KEY": str(key),
            "THROUGHGATE_KAFKA_SERVERS": self.system.kafka.bootstrap,
            "THROUGHGATE_NAMESPACE": self.system.namespace,
            "THROUGHGATE_DATABASE_URL": self.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"],
            **{variable(password, a): self.system.kafka.password(a) for a in self.system.agencies},
        }

    async def who_was_told(self, client: str, agency: Agency) -> dict[str, Any]:
        """What the command `who-was-told` gives an agency of a client, without who looked at it."""
        code, said = await self("who-was-told", client, "--as", agency.name, "--json")
        assert code == 0, said
        return but_readings(json.loads(said))

    async def __call__(self, *arguments: Any, env: dict[str, str] | None = None) -> tuple[int, str]:
        """Its exit code and all that it printed. `env` instead of the environment that points to the system."""
        environment = self.environment() if env is None else env
        words = [str(argument) for argument in arguments]
        done = await asyncio.to_thread(lambda: CliRunner().invoke(app, words, env=environment))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output
