"""Topics, users and access rules of Kafka, made from `schemas/topics/*.yaml` and a list of agencies.

`contracts.topics` reads the files, `plan` says what there has to be (pure, so that it can be tested and shown), `apply`
makes it so.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    TopicMetadata,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from pydantic import TypeAdapter, ValidationError

from contracts.topics import TopicFile, TopicFileError
from contracts.vocabulary import RESERVED_IDS, SERVICE_PURPOSES, AgencyId

DOOR_USERS = ("consent-intake", "consent-discloser")
TOPIC_FILES = Path(__file__).resolve().parents[3] / "schemas" / "topics"
"""Where the files lie in a checkout."""

_AGENCY: TypeAdapter[str] = TypeAdapter(AgencyId)
_TIMEOUT = 30.0
_SCRAM_ITERATIONS = 4096


@dataclass(frozen=True)
class Topic:
    """A topic that there has to be."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, order=True)
class Acl:
    """One permission. `kind` is topic, group, transactional_id or broker; `prefixed` makes `name` a
    prefix.
    """

    user: str
    operation: str
    kind: str
    name: str
    prefixed: bool = False


@dataclass(frozen=True)
class Plan:
    """All that there has to be. `users` need a password each when it is applied."""

    topics: tuple[Topic, ...]
    users: tuple[str, ...]
    acls: tuple[Acl, ...]


@dataclass
class Applied:
    """What `apply` changed, and `differing`: topics whose partition count is not as planned, which is never
    changed.
    """

    created: list[str] = field(default_factory=list)
    reconfigured: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    removed: list[Acl] = field(default_factory=list)


def plan(files: Iterable[TopicFile], agencies: Sequence[str], namespace: str = "") -> Plan:
    """What these files and agencies come to. `namespace` is put before topics, groups and transactional ids.

    A group prefix of an agency ends in a full stop, which no agency's id may contain: so no agency's prefix
    is the beginning of another's. Raises TopicFileError for an id that is not fit for topic names or is
    reserved.
    """
    for agency in agencies:
        try:
            _AGENCY.validate_python(agency)
        except ValidationError as error:
            raise TopicFileError(
                f"{agency!r} cannot be an agency's id: it is not lower-case letters, digits, -."
            ) from error
        if agency in RESERVED_IDS:
            raise TopicFileError(f"{agency!r} cannot be an agency's id: Throughgate keeps it for itself.")
    topics: dict[str, Topic] = {}
    acls: set[Acl] = set()
    users = [*DOOR_USERS, *SERVICE_PURPOSES, *agencies]
    for file in files:
        for names in _expansions(file, agencies):
            topic = namespace + file.name.format(**names)
            topics[topic] = Topic(topic, file.partitions, _config(file))
        for names in _all_users(file, agencies):
            topic = namespace + file.name.format(**names)
            for writer in file.writers:
                user = writer.user.format(**names)
                acls |= {
                    Acl(user, "write", "topic", topic),
                    Acl(user, "idempotent_write", "broker", "kafka-cluster"),
                }
                if writer.transactional_id_prefix:
                    acls.add(
                        Acl(
                            user,
                            "write",
                            "transactional_id",
                            namespace + writer.transactional_id_prefix,
                            True,
                        )
                    )
            for reader in file.readers:
                user = reader.user.format(**names)
                acls.add(Acl(user, "read", "topic", topic))
                if reader.group:
                    acls.add(Acl(user, "read", "group", namespace + reader.group.format(**names)))
                if reader.group_prefix:
                    prefix = reader.group_prefix.format(**names)
                    if not prefix.endswith("."):
                        raise TopicFileError(
                            f"{file.name}: the group prefix {reader.group_prefix} must end in a full stop."
                        )
                    acls.add(Acl(user, "read", "group", namespace + prefix, True))
    return Plan(tuple(topics.values()), tuple(users), tuple(sorted(acls)))


def _expansions(file: TopicFile, agencies: Sequence[str]) -> list[dict[str, str]]:
    if "{agency}" in file.name:
        return [{"agency": a} for a in agencies]
    if "{service}" in file.name:
        return [{"service": s} for s in SERVICE_PURPOSES]
    return [{}]


def _all_users(file: TopicFile, agencies: Sequence[str]) -> list[dict[str, str]]:
    """As `_expansions`, but a topic for all (heads) has each agency among its users."""
    shared = "{" not in file.name and any("{agency}" in r.user for r in file.readers)
    return [{"agency": a} for a in agencies] if shared else _expansions(file, agencies)


def _config(file: TopicFile) -> dict[str, str]:
    return {
        "retention.ms": str(file.retention_ms),
        # Kafka deletes closed segments only: with these, nothing is kept longer than the retention and a quarter of it.
        "segment.ms": str(max(file.retention_ms // 4, 600_000)),
        # Of when it came, whatever clock its publisher has: else what is mirrored, or old, would be deleted unread.
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(file.max_message_bytes),
        "cleanup.policy": file.cleanup_policy,
    }


def apply(
    plan: Plan,
    admin: AdminClient,
    passwords: Mapping[str, str],
    *,
    brokers: int = 1,
    prune: bool = False,
    namespace: str = "",
) -> Applied:
    """Make it so; what is there already stays, so it can be run as often as one likes.

    Replication is three, two of them in sync, where there are three brokers or more. `prune` also takes away
    the permissions that the users of the plan have on names in `namespace` and that the plan does not give.
    `passwords` is by user; a KeyError names the one that is missing. Raises KafkaException.
    """
    done = Applied()
    credentials: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(
            user,
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _SCRAM_ITERATIONS),
            passwords[user].encode(),
        )
        for user in plan.users
    ]
    # all four are under way at once
    users = admin.alter_user_scram_credentials(credentials, request_timeout=_TIMEOUT)
    acls = admin.create_acls([_binding(a) for a in plan.acls], request_timeout=_TIMEOUT)
    replicas = 3 if brokers >= 3 else 1
    config = {"min.insync.replicas": "2" if replicas == 3 else "1"}
    topics = admin.create_topics(
        [
            NewTopic(
                t.name,
                num_partitions=t.partitions,
                replication_factor=replicas,
                config={**t.config, **config},
            )
            for t in plan.topics
        ],
        operation_timeout=_TIMEOUT,
        request_timeout=_TIMEOUT,
    )
    if prune:
        done.removed = _prune(plan, admin, namespace)
    existing = []
    for topic in plan.topics:
        try:
            topics[topic.name].result()
            done.created.append(topic.name)
        except KafkaException as e:
            if e.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
            existing.append(topic)
    if existing:
        _reconfigure(existing, admin, done)
    for future in [*users.values(), *acls.values()]:
        future.result()
    _wait_until_shown(plan, admin)
    return done


def _wait_until_shown(plan: Plan, admin: AdminClient) -> None:
    """Return once a broker shows the topics with their leaders, the users and the permissions: the controller answers
    before that, and whoever connected at once would be refused. Of several brokers the others may still be behind.

    Raises:
        KafkaException: `_TIMED_OUT`, it does not in `_TIMEOUT` seconds.
    """
    until = time.monotonic() + _TIMEOUT
    topics, users, acls = {t.name for t in plan.topics}, set(plan.users), set(plan.acls)
    while True:
        if topics:
            topics -= {name for name, topic in admin.list_topics(timeout=_TIMEOUT).topics.items() if _is_ready(topic)}
        if users:
            described: Any = admin.describe_user_scram_credentials(sorted(users), request_timeout=_TIMEOUT)
            users -= {user for user, future in described.items() if future.exception(_TIMEOUT) is None}
        if acls:
            acls -= set(map(_acl, _bindings(admin)))
        if not (topics or users or acls):
            return
        if time.monotonic() > until:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "What was made is not shown by the brokers yet."))
        time.sleep(0.02)


def _is_ready(topic: TopicMetadata) -> bool:
    return topic.error is None and bool(topic.partitions) and all(p.leader >= 0 for p in topic.partitions.values())


def _reconfigure(topics: Sequence[Topic], admin: AdminClient, done: Applied) -> None:
    metadata = admin.list_topics(timeout=_TIMEOUT).topics
    done.differing = [t.name for t in topics if len(metadata[t.name].partitions) != t.partitions]
    resources = {ConfigResource(ConfigResource.Type.TOPIC, t.name): t for t in topics}
    described = admin.describe_configs(list(resources), request_timeout=_TIMEOUT)
    changes = []
    for resource, found in described.items():
        topic = resources[resource]
        now = {name: entry.value for name, entry in found.result().items()}
        wrong = {name: value for name, value in topic.config.items() if now.get(name) != value}
        if wrong:
            entries = [
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in wrong.items()
            ]
            changes.append(ConfigResource(ConfigResource.Type.TOPIC, topic.name, incremental_configs=entries))
            done.reconfigured.append(topic.name)
    if changes:
        for future in admin.incremental_alter_configs(changes, request_timeout=_TIMEOUT).values():
            future.result()


def _prune(plan: Plan, admin: AdminClient, namespace: str) -> list[Acl]:
    ours = {f"User:{u}" for u in plan.users}
    wanted = set(plan.acls)
    extra = [
        acl
        for binding in _bindings(admin)
        if binding.principal in ours
        and binding.restype != ResourceType.BROKER
        and binding.name.startswith(namespace)
        and (acl := _acl(binding)) not in wanted
    ]
    if extra:
        filters = [_binding(a, AclBindingFilter) for a in extra]
        removals: Mapping[Any, Future[Any]] = admin.delete_acls(filters, request_timeout=_TIMEOUT)
        for future in removals.values():
            future.result()
    return extra


def _bindings(admin: AdminClient) -> list[AclBinding]:
    """Every permission that there is."""
    anything: Any = None  # the annotations of the client leave out that None matches all
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    found: list[AclBinding] = admin.describe_acls(everything, request_timeout=_TIMEOUT).result()
    return found


def _binding(acl: Acl, make: Callable[..., Any] = AclBinding) -> Any:
    return make(
        ResourceType[acl.kind.upper()],
        acl.name,
        ResourcePatternType.PREFIXED if acl.prefixed else ResourcePatternType.LITERAL,
        f"User:{acl.user}",
        "*",
        AclOperation[acl.operation.upper()],
        AclPermissionType.ALLOW,
    )


def _acl(binding: Any) -> Acl:
    return Acl(
        binding.principal.removeprefix("User:"),
        binding.operation.name.lower(),
        binding.restype.name.lower(),
        binding.name,
        binding.resource_pattern_type == ResourcePatternType.PREFIXED,
    )
