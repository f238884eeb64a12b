"""Who may read and write which topic, tried by every user on every topic of a provisioned system."""

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from support import servers

from contracts.vocabulary import SERVICE_PURPOSES
from throughgate.case_system import CaseSystem
from throughgate.issuer import Issuer
from throughgate.reaching import CommandError, Surroundings
from throughgate.system import System

pytestmark = pytest.mark.xdist_group("permissions")

AGENCIES = ["hmp-leeds", "hmp-leeds-2", "hostel"]
SERVICES = list(SERVICE_PURPOSES)
USERS = [*AGENCIES, *SERVICES, "consent-intake", "consent-discloser"]

WRITES: dict[str, set[str]] = {
    **{f"intake.{a}": {a} for a in AGENCIES},
    **{f"replies.{a}": {"consent-intake", "consent-discloser"} for a in AGENCIES},
    **{f"partner.{a}": {"consent-discloser"} for a in AGENCIES},
    **{f"cleared.{s}": {"consent-discloser"} for s in SERVICES},
    **{f"requests.{s}": {s} for s in SERVICES},
    "heads": {"consent-discloser"},
}
READS: dict[str, set[str]] = {
    **{f"intake.{a}": {"consent-intake"} for a in AGENCIES},
    **{f"replies.{a}": {a, "consent-discloser", "consent-intake"} for a in AGENCIES},
    **{f"partner.{a}": {a, "consent-discloser", "consent-intake"} for a in AGENCIES},
    **{f"cleared.{s}": {s, "consent-discloser", "consent-intake"} for s in SERVICES},
    **{f"requests.{s}": {"consent-intake"} for s in SERVICES},
    "heads": {*AGENCIES, "consent-discloser", "consent-intake"},
}
"""By topic. Whoever is not named may not."""
DENIED = KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.fixture(scope="module")
def system(address: servers.Address) -> System:
    """Topics, users and permissions, and one record in every topic; no process runs."""
    system = System(servers.RunningPostgres(address), servers.RunningKafka(address), AGENCIES, namespace="permissions-")
    system.provision_kafka()
    assert produced(system, system.kafka.admin_user) == dict.fromkeys(WRITES, True)
    return system


def produced(system: System, user: str) -> dict[str, bool]:
    """Whether a user can write, by topic."""
    found: dict[str, bool] = {}

    def told(topic: str, error: KafkaError | None) -> None:
        assert error is None or error.code() == DENIED, error
        found[topic] = error is None

    def listener(topic: str):  # type: ignore[no-untyped-def]
        return lambda error, _: told(topic, error)

    producer = Producer(system.kafka.client_config(user))
    for topic in WRITES:
        producer.produce(system.namespace + topic, b"x", partition=0, on_delivery=listener(topic))
    assert producer.flush(30) == 0
    return found


def visible(system: System, user: str) -> set[str]:
    """The topics whose names and places a user can see: those that it may read or write."""
    found = AdminClient(system.kafka.client_config(user)).list_topics(timeout=20).topics
    return {t.removeprefix(system.namespace) for t in found if t.startswith(system.namespace)}


def consumed(system: System, user: str) -> set[str]:
    """The topics that a user can read."""
    waiting = visible(system, user)  # of others the client says nothing, and waits
    consumer = Consumer(system.kafka.client_config(user) | {"group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(system.namespace + topic, 0, 0) for topic in waiting])
    found: set[str] = set()
    try:
        for _ in range(100):
            message: Message | None = consumer.poll(1) if waiting else None
            if message is None or message.topic() is None:
                continue  # it has no group either
            topic, error = str(message.topic()).removeprefix(system.namespace), message.error()
            assert error is None or error.code() == DENIED, error
            waiting.discard(topic)
            if error is None:
                found.add(topic)
            if not waiting:
                break
    finally:
        consumer.close()
    assert not waiting
    return found


def test_what_was_provisioned_can_be_used_at_once(address: servers.Address) -> None:
    agencies = [f"agency-{n}" for n in range(20)]
    for n in range(3):
        system = System(
            servers.RunningPostgres(address), servers.RunningKafka(address), agencies, namespace=f"at-once-{n}-"
        )
        system.provision_kafka()
        for agency in agencies[-2:]:
            producer = Producer(system.kafka.client_config(agency))
            shown = producer.list_topics(f"{system.namespace}partner.{agency}", timeout=20).topics
            assert all(t.error is None for t in shown.values())


@pytest.mark.parametrize("user", USERS)
def test_a_user_writes_its_own_topics_and_no_other(user: str, system: System) -> None:
    assert produced(system, user) == {topic: user in users for topic, users in WRITES.items()}


@pytest.mark.parametrize("user", USERS)
def test_a_user_reads_its_own_topics_and_no_other(user: str, system: System) -> None:
    assert consumed(system, user) == {topic for topic, users in READS.items() if user in users}
    assert visible(system, user) == {topic for topic in WRITES if user in WRITES[topic] | READS[topic]}


def test_a_case_system_says_in_one_way_that_a_topic_is_not_its_to_write(system: System) -> None:
    # the producer hears of it from the broker, and from then on says so itself, before anything is sent
    kafka = system.kafka
    around = Surroundings(
        kafka.bootstrap, {}, {"hostel": kafka.password("hostel")}, Issuer(), namespace=system.namespace
    )
    hostel = CaseSystem(around, "hostel")
    try:
        for _ in range(3):
            with pytest.raises(CommandError, match=r"hostel could not write to .*TOPIC_AUTHORIZATION_FAILED"):
                hostel.publish(b"{}", "x", topic=around.topic("intake.hmp-leeds"))
    finally:
        hostel.close()


@pytest.mark.parametrize(
    ("user", "group", "may"),
    [
        ("hostel", "hostel.anything", True),
        ("hostel", "hostel", False),
        ("hostel", "hmp-leeds.anything", False),
        ("hmp-leeds", "hmp-leeds-2.anything", False),
        ("hostel", "consent-intake", False),
        ("hostel", "referral", False),
        ("referral", "referral", True),
        ("referral", "matching", False),
        ("consent-intake", "consent-intake", True),
    ],
)
def test_a_user_has_groups_of_its_own(user: str, group: str, may: bool, system: System) -> None:
    admin = AdminClient(system.kafka.client_config(user))
    asked = ConsumerGroupTopicPartitions(system.namespace + group, [TopicPartition(system.namespace + "heads", 0)])
    (answer,) = admin.list_consumer_group_offsets([asked], request_timeout=20).values()
    error = answer.exception(20)
    assert (error is None) is may
    assert error is None or error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED


@pytest.mark.parametrize("user", [u for u in USERS if u != "consent-discloser"])
def test_nobody_can_fence_the_discloser(user: str, system: System) -> None:
    producer = Producer(system.kafka.client_config(user) | {"transactional.id": f"{system.namespace}discloser-0"})
    with pytest.raises(KafkaException) as caught:
        producer.init_transactions(20)
    assert caught.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_a_password_of_another_opens_nothing(system: System) -> None:
    errors: list[KafkaError] = []
    mistaken = {"sasl.password": system.kafka.password("hmp-leeds"), "error_cb": errors.append}
    producer = Producer(system.kafka.client_config("hostel") | mistaken)
    for _ in range(100):
        producer.poll(0.2)
        if errors:
            break
    assert errors[0].code() == KafkaError._AUTHENTICATION
    with pytest.raises(KafkaException):
        producer.list_topics(timeout=1)
