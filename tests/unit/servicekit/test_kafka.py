"""Where a key goes: as with every other client of Kafka, or a client's records would stand in two partitions."""

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from servicekit.kafka import _partition


@given(st.binary(max_size=50), st.integers(1, 12))
def test_a_key_goes_where_others_put_it(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert _partition(key, partitions, partitions) == DefaultPartitioner()(key, partitions, partitions)


def test_what_has_no_key_goes_where_there_is_a_leader() -> None:
    assert {_partition(None, [0, 1, 2], [1]) for _ in range(20)} == {1}
