"""The `throughgate` command."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx
import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from contracts import topic_names
from contracts.topics import read_topics
from throughgate import agreements, replay, tokens, told, verifying
from throughgate import demo as demonstration
from throughgate.case_system import CaseSystem, Received, make_event, read_message
from throughgate.issuer import Issuer
from throughgate.provision import databases as database_provision
from throughgate.provision import topics as topic_provision
from throughgate.reaching import (
    CommandError,
    Surroundings,
    found_within,
    needed,
    passwords_from_environment,
    records_on,
)
from throughgate.running import topics_of, whole_of
from throughgate.sentences import make_console
from throughgate.sentences import sentences as _sentences
from throughgate.story.cast import AGENCIES_FILE, Party, read_agencies
from throughgate.story.narrator import Narrator

app = typer.Typer(
    name="throughgate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Runs Throughgate and talks to it.

    Begin with `throughgate demo`: it starts the whole on this machine, real PostgreSQL and Kafka included, plays a
    story through it, shows what each partner was told and why the rest was withheld, and stops.

    `throughgate up` starts the whole and leaves it running. Then, in another terminal: `throughgate publish` an event
    as an agency would, `throughgate tail` a topic as an agency sees it, `throughgate withdraw` a client's consent,
    `throughgate story` once more. They find the running system of this checkout by themselves.
    """,
)
app.add_typer(agreements.app, name="agreement", rich_help_panel="With a system that runs")
STEPS = "For a real installation, and docker compose"
CLIENT = "With a system that runs"
REPLY_SECONDS = 30.0
ONE_LINE = str.maketrans("\r\n", "  ")
for command in (told.who_was_told, told.may_i, verifying.verify, replay.replay, tokens.token):
    app.command(rich_help_panel=CLIENT)(command)

AgenciesOption = Annotated[
    Path, typer.Option("--agencies", envvar="THROUGHGATE_AGENCIES", help="The file with the agencies that take part.")
]


def _agencies(path: Path) -> tuple[Party, ...]:
    try:
        return read_agencies(path)
    except OSError as error:
        raise CommandError(f"The agencies cannot be read from {path}: {error.strerror}.") from error
    except ValueError as error:
        raise CommandError(f"{error}.") from error


# --- running it ---


@app.command()
@_sentences
def demo(
    brokers: Annotated[int, typer.Option(help="How many Kafka brokers: 1 or 3.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running after the story, until Ctrl-C.")] = False,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill -9 each worker once while the story plays; it must end the same.")
    ] = False,
    agencies: AgenciesOption = AGENCIES_FILE,
) -> None:
    """Start the whole, play the story, show what came of it, stop.

    Nothing is left behind, and nothing is needed from outside: other systems on this machine keep their ports, and two
    checkouts can play side by side. A story that does not hold in every point ends with exit code 1, and its logs stay.
    """
    tell = Narrator(make_console())
    parties = _agencies(agencies)
    with demonstration.started(brokers, parties, tell, findable=keep) as whole:
        havoc = demonstration.Chaos(whole.system, tell) if chaos else None
        people = demonstration.play(whole.around, parties, tell, havoc)
        demonstration.search_for_people(whole, people, tell)
        demonstration.figures(whole, tell)
        if keep:
            logs = str(whole.system.run_dir / "logs")
            demonstration.where_to_look(whole.around, parties, logs, tell)
            demonstration.wait_for_the_end(tell)


@app.command()
@_sentences
def up(
    brokers: Annotated[int, typer.Option(help="How many Kafka brokers: 1 or 3.")] = 1,
    agencies: AgenciesOption = AGENCIES_FILE,
) -> None:
    """Start the whole and leave it running until Ctrl-C, without the story.

    Its agencies are registered and have their agreements, the services their directory, volunteers and gate partners.
    """
    tell = Narrator(make_console())
    parties = _agencies(agencies)
    with demonstration.started(brokers, parties, tell, findable=True) as whole:
        demonstration.furnish(whole.around, parties)
        demonstration.where_to_look(whole.around, parties, str(whole.system.run_dir / "logs"), tell)
        demonstration.wait_for_the_end(tell)


@app.command(rich_help_panel=CLIENT)
@_sentences
def story(
    agencies: AgenciesOption = AGENCIES_FILE,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the system to be ready.")] = 60.0,
) -> None:
    """Play the story against a system that is up, with new people each time.

    Where: the running system of this checkout, or what the environment says: THROUGHGATE_KAFKA_SERVERS,
    THROUGHGATE_CONSENT_URL, THROUGHGATE_REFERRAL_URL, THROUGHGATE_MATCHING_URL, THROUGHGATE_NOTIFICATIONS_URL,
    THROUGHGATE_ISSUER_KEY (from `throughgate issuer`), and each agency's Kafka password in
    THROUGHGATE_KAFKA_PASSWORD_HMP_LEEDS and so on, or all of them in THROUGHGATE_PASSWORDS_FILE. Optionally
    THROUGHGATE_NAMESPACE, THROUGHGATE_KAFKA_CA_FILE, and THROUGHGATE_TRACES_URL of a small trace receiver.

    The notifications processes must run with THROUGHGATE_CLOCK=adjustable.
    """
    tell = Narrator(make_console())
    parties = _agencies(agencies)
    around = whole_of([p.id for p in parties])
    _wait_ready(around, wait)
    demonstration.play(around, parties, tell)


def _wait_ready(around: Surroundings, seconds: float) -> None:
    waiting = dict(around.urls)

    def all_ready() -> bool:
        for service, url in around.urls.items():
            with suppress(httpx.HTTPError):
                if service in waiting and httpx.get(f"{url}/readyz", timeout=5).is_success:
                    del waiting[service]
        return not waiting

    if not found_within(seconds, all_ready):
        late = ", ".join(f"{service} at {url}" for service, url in waiting.items())
        raise CommandError(f"Not every API was ready in {seconds:.0f} s: {late}; is the system up?")


# --- talking to it ---


@contextmanager
def _case_system(agency: str) -> Iterator[CaseSystem]:
    system = CaseSystem(topics_of(agency), agency)
    try:
        yield system
    finally:
        system.close()


def _reply(
    system: CaseSystem,
    look: Callable[[Received], bool],
    expected: str,
    otherwise: str = "look into the logs of the door.",
) -> Received:
    found = found_within(REPLY_SECONDS, lambda: next((r for r in system.replies() if look(r)), None))
    if found is None:
        raise CommandError(f"{expected} did not come in {REPLY_SECONDS:.0f} s: {otherwise}")
    return found


def _publish(system: CaseSystem, value: bytes) -> Received:
    """Publish, and give the reply. The key is the client's first identifier, made unrecognisable."""
    event: Any = None
    with suppress(ValueError):
        event = json.loads(value)
    id, identifier = None, {"type": "", "value": ""}
    with suppress(KeyError, TypeError, IndexError):
        id = event["id"]
        first = event["data"]["identifiers"][0]
        identifier = {"type": str(first["type"]), "value": str(first["value"])}
    _, *place = system.publish(value, system.key_for(identifier))

    def answers(reply: Received) -> bool:
        if reply.type == "event.rejected":
            return [reply.data["partition"], reply.data["offset"]] == place
        return reply.type == "event.accepted" and reply.data["event"] == id

    return _reply(system, answers, "The reply")


@app.command(rich_help_panel=CLIENT)
@_sentences
def publish(
    agency: Annotated[str, typer.Argument(help="Who publishes, such as hmp-leeds.")],
    file: Annotated[
        Path,
        typer.Argument(help="A CloudEvents event as JSON, such as those in schemas/examples; - reads standard input."),
    ],
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Give it a new id and the present time, and this agency as source.")
    ] = False,
) -> None:
    """Publish one event to the running system, as AGENCY's case system would, and print the reply.

    The same event twice gets the same answer: `--fresh` makes it another one. Exit code 1 when it was rejected.
    """
    try:
        value = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    if fresh:
        try:
            event = json.loads(value)
            new = make_event(agency, "", event["data"])
            value = json.dumps(event | {n: new[n] for n in ("id", "time", "source")}).encode()
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{file} is not an event in JSON, so it cannot be made a fresh one.") from error
    with _case_system(agency) as system:
        reply = _publish(system, value)
    typer.echo(json.dumps(reply.event, indent=2))
    if reply.type == "event.rejected":
        raise typer.Exit(1)


def _recipient(name: str) -> dict[str, str]:
    """Whom a no names, as an event has it: `agency`, `agency/service`, or `kind@area`."""
    if "/" in name:
        agency, service = name.split("/", 1)
        return {"agency": agency, "service": service}
    if "@" in name:
        kind, area = name.split("@", 1)
        return {"kind": kind, "area": area}
    return {"agency": name}


@app.command(rich_help_panel=CLIENT)
@_sentences
def withdraw(
    agency: Annotated[str, typer.Argument(help="Who publishes the withdrawal, such as hmp-leeds.")],
    reference: Annotated[
        UUID, typer.Argument(help="The client's reference at that agency: `client` in the reply to its events.")
    ],
    recipients: Annotated[
        list[str] | None,
        typer.Option(
            "--recipient",
            help="For whom only: an agency, one service of it as `harbour-housing/beds`, or every agency of a kind in"
            " an area as `vcs@leeds`. May be given again. By default for everybody.",
        ),
    ] = None,
) -> None:
    """Publish that a client withdrew consent, wait until it is done, and print where each retraction stands."""
    begun = time.monotonic()
    with _case_system(agency) as system:
        data: dict[str, Any] = {
            "identifiers": [{"type": "THROUGHGATE", "value": str(reference)}],
            "withdrawnAt": datetime.now(UTC).isoformat(),
            "scope": "listed" if recipients else "everything",
        }
        if recipients:
            data["recipients"] = [_recipient(one) for one in recipients]
        reply = _publish(system, json.dumps(make_event(agency, "consent.withdrawn", data)).encode())
        if reply.type == "event.rejected":
            raise CommandError(f"Rejected ({reply.data['code']}): {reply.data['detail']}")
        withdrawal = reply.data["withdrawal"]
        done = _reply(
            system,
            lambda r: r.type == "withdrawal.done" and r.data["withdrawal"] == withdrawal,
            "That the withdrawal is done everywhere",
            "it is recorded, and nothing new is permitted; for some recipient it waits until its topic can be written. "
            f"GET /withdrawals/{withdrawal} tells you for whom it is done; the operator sees who is missing at "
            "GET /retractions/overdue?hours=0.",
        )
    took = (time.monotonic() - begun) * 1000
    recipients = done.data["recipients"]
    whom = f"{len(recipients)} recipients that you may know of; for all others too" if recipients else "everyone"
    typer.echo(f"Withdrawal {withdrawal} is done for {whom}, {took:.0f} ms after it was published.")
    for r in sorted(recipients, key=lambda r: str(r["topic"])):
        typer.echo(f"  {r['recipient']:<24} {r['topic']}  partition {r['partition']}  offset {r['offset']}")
    if not recipients:
        typer.echo("  Nobody that you may know of was ever sent or queued anything of this client.")


@app.command(rich_help_panel=CLIENT)
@_sentences
def tail(
    topic: Annotated[str, typer.Argument(help="Such as partner.harbour-housing, or replies.hmp-leeds.")],
    agency: Annotated[str, typer.Option("--as", help="Who reads; by default the agency in the topic's name.")] = "",
    follow: Annotated[bool, typer.Option(help="Go on reading until Ctrl-C.")] = True,
) -> None:
    """Print what stands on a topic, one JSON event a line, as an agency sees it; committed records only.

    Try another's topic with `--as`, and see Kafka refuse.
    """
    reader = agency or topic_names.parts(topic)[1]
    if not reader:
        raise CommandError(f"Say who reads {topic}: --as AGENCY.")
    try:
        for message in records_on(topics_of(reader), reader, topic, follow=follow):
            if (record := read_message(message)) is not None:
                place = {"partition": record.partition, "offset": record.offset, "key": record.key}
                # As it stands there, for `throughgate verify` reads it again, but on one line: outside of its strings
                # JSON may be broken into lines, and inside no character but these two would end one.
                event = record.value.decode(errors="replace").translate(ONE_LINE)
                typer.echo(f'{json.dumps(place)[:-1]}, "event": {event}}}')
    except KeyboardInterrupt:
        if not follow:
            raise


# --- installing it ---


@app.command(rich_help_panel=STEPS)
@_sentences
def provision(
    agencies: AgenciesOption = AGENCIES_FILE,
    topics: Annotated[
        Path, typer.Option(envvar="THROUGHGATE_TOPICS", help="The folder with the topic files.")
    ] = topic_provision.TOPIC_FILES,
    prune: Annotated[bool, typer.Option("--prune", help="Take away permissions that no file names.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for Kafka.")] = 60.0,
) -> None:
    """Make Kafka topics, users and permissions from the topic files and the list of agencies. May be run again.

    Environment: THROUGHGATE_KAFKA_SERVERS, THROUGHGATE_KAFKA_ADMIN_USER, THROUGHGATE_KAFKA_ADMIN_PASSWORD; each user's
    password in THROUGHGATE_KAFKA_PASSWORD_HMP_LEEDS, THROUGHGATE_KAFKA_PASSWORD_CONSENT_INTAKE and so on, or all of
    them as lines user=password in THROUGHGATE_PASSWORDS_FILE. Optionally THROUGHGATE_NAMESPACE, and
    THROUGHGATE_KAFKA_BROKERS (how many there are, 1 if not said).
    """
    namespace = os.environ.get("THROUGHGATE_NAMESPACE", "")
    plan = topic_provision.plan(read_topics(topics), [p.id for p in _agencies(agencies)], namespace)
    passwords = passwords_from_environment(plan.users)
    servers, user = needed("THROUGHGATE_KAFKA_SERVERS"), needed("THROUGHGATE_KAFKA_ADMIN_USER")
    admin_around = Surroundings(servers, {}, {user: needed("THROUGHGATE_KAFKA_ADMIN_PASSWORD")}, Issuer())
    admin = AdminClient(admin_around.kafka_config(user))

    def answers() -> bool:
        with suppress(KafkaException):
            admin.list_topics(timeout=5)
            return True
        return False

    if not found_within(wait, answers):
        raise CommandError(f"Kafka at {servers} does not answer to {user}: is it up, and the password right?")
    brokers = int(os.environ.get("THROUGHGATE_KAFKA_BROKERS", "1"))
    done = topic_provision.apply(plan, admin, passwords, brokers=brokers, prune=prune, namespace=namespace)
    typer.echo(
        f"{len(plan.topics)} topics ({len(done.created)} new, {len(done.reconfigured)} reconfigured), "
        f"{len(plan.users)} users, {len(plan.acls)} permissions ({len(done.removed)} taken away)."
    )
    if done.differing:
        raise CommandError(
            f"These topics have another number of partitions, which is never changed: {', '.join(done.differing)}."
        )


@app.command(rich_help_panel=STEPS)
@_sentences
def databases(
    wait: Annotated[float, typer.Option(help="Seconds to wait for PostgreSQL.")] = 60.0,
) -> None:
    """Make each service's database and its four roles. May be run again; migrations are each service's own step.

    Environment: THROUGHGATE_POSTGRES_URL (postgresql://, of an administrator); each role's password in
    THROUGHGATE_DATABASE_PASSWORD_CONSENT_OWNER, THROUGHGATE_DATABASE_PASSWORD_CONSENT_API and so on, or all of them as
    lines role=password in THROUGHGATE_PASSWORDS_FILE.
    """
    wanted = list(database_provision.databases().values())
    roles = [role for database in wanted for role in database.roles]
    passwords = passwords_from_environment(roles, "THROUGHGATE_DATABASE_PASSWORD_")
    url = needed("THROUGHGATE_POSTGRES_URL")

    def provisioned() -> bool:
        with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            asyncio.run(database_provision.provision(url, wanted, passwords.__getitem__))
            return True
        return False

    if not found_within(wait, provisioned):
        raise CommandError(f"PostgreSQL did not answer in {wait:.0f} s: is it up, and THROUGHGATE_POSTGRES_URL right?")
    typer.echo(f"{len(wanted)} databases and {len(roles)} roles are there: {', '.join(d.name for d in wanted)}.")


@app.command(rich_help_panel=STEPS)
@_sentences
def issuer(
    folder: Annotated[Path, typer.Option("--dir", help="Where to write; the key stays when it is there already.")],
) -> None:
    """Make a development issuer: a private key (issuer-key.json, mode 0600) and its public key set (jwks.json).

    Services read jwks.json (THROUGHGATE_JWKS); `throughgate story` signs its tokens with the key
    (THROUGHGATE_ISSUER_KEY). A real installation uses its identity provider instead.
    """
    key = folder / "issuer-key.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = Issuer.load(key) if key.exists() else Issuer()
        if not key.exists():
            made.save(key)
        public = made.write_jwks(folder / "jwks.json")
        public.chmod(0o644)
    except OSError as error:
        raise CommandError(f"The issuer's key cannot be kept in {folder}: {error.strerror}.") from error
    except ValueError as error:
        raise CommandError(f"{error}: remove it, and run this again.") from error
    typer.echo(f"{key} and {public}")


def main() -> None:
    """The entry point."""
    app()


__all__ = ["app", "main"]

if __name__ == "__main__":
    main()
