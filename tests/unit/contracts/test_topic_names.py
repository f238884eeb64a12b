"""Topics are called in the code what they are called in their files."""

import pytest

from contracts import topic_names
from contracts.make import SCHEMAS
from contracts.topics import read_topics


def test_the_names_are_those_of_the_files() -> None:
    agencies = (topic_names.intake, topic_names.replies, topic_names.partner)
    services = (topic_names.cleared, topic_names.requests)
    made = {name("{agency}") for name in agencies} | {name("{service}") for name in services} | {topic_names.HEADS}
    assert made == {file.name for file in read_topics(SCHEMAS / "topics")}


@pytest.mark.parametrize("namespace", ["", "two-", "two."])
def test_a_name_is_taken_apart(namespace: str) -> None:
    assert topic_names.parts(namespace + topic_names.partner("hmp-leeds"), namespace) == ("partner", "hmp-leeds")
    assert topic_names.parts(namespace + topic_names.HEADS, namespace) == ("heads", "")
    assert topic_names.parts(namespace + topic_names.intake("hmp-leeds"))[1] == "hmp-leeds", "whose, not knowing where"
