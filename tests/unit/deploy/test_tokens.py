"""`throughgate token`: from a development issuer that is there; a sentence where none is."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner

from servicekit.auth import OPERATOR
from throughgate import running
from throughgate.cli import app
from throughgate.issuer import AUDIENCE, Issuer
from throughgate.reaching import Surroundings
from throughgate.tokens import SCOPES

URLS = {"consent": "http://127.0.0.1:1", "referral": "http://127.0.0.1:2"}
NOWHERE = {"THROUGHGATE_CONSENT_URL": "", "THROUGHGATE_ISSUER_KEY": ""}


def run(*words: str, **env: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["token", *words], env=NOWHERE | env)
    return done.exit_code, done.output


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Issuer:
    """That of a system of this checkout, which runs as far as its state file tells."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = Issuer()
    running.remember(Surroundings("", URLS, {}, made), made.save(tmp_path / "issuer-key.json"))
    return made


def claims(token: str, issuer: Issuer) -> dict[str, Any]:
    key = jwt.PyJWKSet.from_dict(issuer.jwks()).keys[0]
    read: dict[str, Any] = jwt.decode(token, key, ["EdDSA"], audience=AUDIENCE, issuer=issuer.name)
    return read


def test_it_is_signed_by_the_issuer_of_the_system_that_runs(issuer: Issuer) -> None:
    code, said = run("hmp-leeds", "--scope", "views:read", "--scope", "decisions:ask", "--practitioner", "s-17")
    assert code == 0, said
    told = claims(said.strip(), issuer)
    assert (told["agency"], told["scope"], told["practitioner"]) == ("hmp-leeds", "views:read decisions:ask", "s-17")
    assert told["exp"] - told["iat"] == 60 * 60


def test_a_programs_token_names_no_practitioner_and_ends_when_asked(issuer: Issuer) -> None:
    _, said = run("operator", "--scope", "operator", "--minutes", "5")
    told = claims(said.strip(), issuer)
    assert "practitioner" not in told
    assert told["exp"] - told["iat"] == 5 * 60


def test_a_shell_takes_it_with_the_addresses(issuer: Issuer) -> None:
    code, said = run("operator", "--scope", "operator", "--export")
    assert code == 0, said
    shell = ["sh", "-c", f'{said}\nprintf "%s " "$TOKEN" "$DOOR" "$REFERRAL"']
    token, *addresses = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.split()
    assert claims(token, issuer)["agency"] == "operator"
    assert addresses == [URLS["consent"], URLS["referral"]]


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "No system of this checkout is running"),
        ({"THROUGHGATE_CONSENT_URL": "https://door.example"}, "The issuer's key cannot be read from"),
        (
            {"THROUGHGATE_CONSENT_URL": "https://door.example", "THROUGHGATE_ISSUER_KEY": os.devnull},
            "The issuer's key cannot be read from",
        ),
    ],
)
def test_without_a_development_issuer_there_is_a_sentence(
    env: dict[str, str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = run("operator", "--scope", "operator", XDG_STATE_HOME=str(tmp_path), **env)
    assert code == 1
    assert said.startswith(reason)
    assert "in a real installation your agency's identity provider gives them" in said


def test_a_scope_that_no_route_asks_for_is_refused(issuer: Issuer) -> None:
    code, said = run("operator", "--scope", "operatr")
    assert code == 1
    assert "There is no scope operatr: choose of operator, identity" in said


def test_the_scopes_are_those_that_the_services_ask_for() -> None:
    services = running.CHECKOUT / "services"
    sources = [path.read_text() for path in services.glob("*/*/**/*.py")]
    asked = {found for text in sources for found in re.findall(r'require\("([a-z:-]+)"', text)}
    assert set(SCOPES) == asked | {OPERATOR, "subject-access"}  # the latter only adds to another
    page = (running.CHECKOUT / "docs" / "how-to" / "tokens.md").read_text()
    table = page.partition("## Scopes")[2]
    assert re.findall(r"^\| `([a-z:-]+)` \|", table, re.MULTILINE) == list(SCOPES)
