"""`throughgate tail` and whatever else reads a topic to its end: all of it, and each record as it stands there."""

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from support import servers
from support.commands import Commands

from throughgate.issuer import Issuer
from throughgate.reaching import Surroundings, records_on
from throughgate.system import System

pytestmark = pytest.mark.xdist_group("tail")

KIB = 1024


class LittleAtATime(Surroundings):
    """A reader that is sent a few records and no more before it has taken them."""

    def kafka_config(self, user: str) -> dict[str, Any]:
        few = {"queued.min.messages": 1, "queued.max.messages.kbytes": 1, "max.partition.fetch.bytes": 8 * KIB}
        return super().kafka_config(user) | few | {"fetch.queue.backoff.ms": 5}


@pytest.fixture(scope="module")
def system(address: servers.Address) -> System:
    """Topics, users and permissions; no process runs."""
    system = System(servers.RunningPostgres(address), servers.RunningKafka(address), ["hostel"], namespace="tail-")
    system.provision_kafka()
    return system


def write(system: System, topic: str, partition: int, *values: bytes) -> None:
    small = {"batch.num.messages": 5}  # brokers send no less than a batch
    producer = Producer(system.kafka.client_config(system.kafka.admin_user) | small)
    for value in values:
        producer.produce(system.namespace + topic, value, partition=partition)
    assert producer.flush(30) == 0


def test_a_topic_is_read_to_the_end_of_every_partition_however_often_one_ends(system: System) -> None:
    kafka = system.kafka
    around = LittleAtATime(
        kafka.bootstrap, {}, {"hostel": kafka.password("hostel")}, Issuer(), namespace=system.namespace
    )
    write(system, "partner.hostel", 1, *(b"x" * KIB for _ in range(200)))
    read = [0, 0]
    for message in records_on(around, "hostel", "partner.hostel"):
        partition = message.partition() or 0
        read[partition] += 1
        if partition == 1 and read[1] % 10 == 1:  # the other partition grows, and ends, again and again meanwhile
            write(system, "partner.hostel", 0, b"{}")
    assert read[1] == 200
    assert read[0] > 1, "it ended more than once"


async def test_each_record_is_one_line_and_says_what_it_says(system: System, tmp_path: Path) -> None:
    said = {"said": "one\u0085two\u2028three\u2029four", "n": 1}
    written = [json.dumps(said, ensure_ascii=False), json.dumps(said, indent=1).replace("\n", "\r\n")]
    write(system, "replies.hostel", 0, *(one.encode() for one in written))
    code, output = await Commands(system, tmp_path)("tail", "replies.hostel", "--no-follow")
    assert code == 0, output
    lines = [json.loads(line) for line in output.encode().splitlines()]  # bytes: as `throughgate verify` reads a file
    assert [line["event"] for line in lines] == [said, said]
