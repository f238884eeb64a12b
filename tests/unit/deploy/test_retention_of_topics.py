"""Topics with personal data forget, and within the time that their files state."""

import pytest

from contracts.topics import read_topics
from throughgate.provision import topics

WEEK = 7 * 24 * 3600 * 1000


@pytest.mark.parametrize("name", ["partner", "cleared", "intake", "replies", "requests"])
def test_topics_with_personal_data_forget(name: str) -> None:
    plan = topics.plan(read_topics(topics.TOPIC_FILES), ["hostel"], "")
    some = [t for t in plan.topics if t.name.startswith(f"{name}.")]
    assert some
    for topic in some:
        assert topic.config["cleanup.policy"] == "delete"
        assert int(topic.config["retention.ms"]) <= WEEK
        assert int(topic.config["segment.ms"]) <= int(topic.config["retention.ms"]) // 4, (
            "else it stays in an open file"
        )
