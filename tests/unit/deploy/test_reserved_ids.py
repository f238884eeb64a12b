"""What Throughgate calls itself, no agency is called: not in the door's register, and not among Kafka's users."""

from typing import Any

import pytest

from consent.domain import Agency
from consent.service.desk import THE_DOOR
from consent.service.register import register_agency
from contracts.topics import TopicFileError, read_topics
from contracts.vocabulary import RESERVED_IDS, SERVICES, AgencyKind
from servicekit.auth import OPERATOR
from servicekit.problems import Problem
from throughgate.native.kafka import Kafka
from throughgate.provision import topics
from throughgate.system import PROCESSES

FILES = read_topics(topics.TOPIC_FILES)
OUR_OWN = {THE_DOOR, OPERATOR, *SERVICES, *topics.plan(FILES, []).users, Kafka().admin_user}


def test_all_that_is_our_own_is_reserved() -> None:
    assert {kind.kafka_user for kind in PROCESSES} - {""} <= OUR_OWN <= RESERVED_IDS


@pytest.mark.parametrize("id", sorted(RESERVED_IDS))
async def test_no_agency_gets_a_reserved_id(id: str) -> None:
    no_database: Any = None
    with pytest.raises(Problem, match="reserved-id"):
        await register_agency(no_database, Agency(id, AgencyKind.VCS), "Somebody")
    with pytest.raises(TopicFileError, match="keeps it for itself"):
        topics.plan(FILES, ["hmp-leeds", id])


@pytest.mark.parametrize("id", ["HMP-Leeds", "hmp.leeds", "x", "hmp_leeds\n"])
def test_an_agency_has_an_id_fit_for_topic_names(id: str) -> None:
    with pytest.raises(TopicFileError, match="lower-case"):
        topics.plan(FILES, [id])
