"""What a retraction leaves of the facts that a service keeps."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from contracts.cleared import Client, Section, Stop
from contracts.vocabulary import Category

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_tombstone_covers_what_was_decided_before_it(tombstone: int, decided_on: int) -> None:
    assert Client(uuid4(), tombstone).covered(decided_on) == (decided_on < tombstone)
    assert not Client(uuid4()).covered(decided_on)


@given(
    st.lists(
        st.tuples(st.sampled_from(["prison", "probation"]), st.sampled_from(Category), st.integers(0, 3))
        | st.builds(
            Stop,
            st.integers(1, 9),
            st.none() | st.frozensets(st.sampled_from(Category), min_size=1),
            st.none() | st.just(frozenset({"somebody"})),
        )
    )
)
def test_rows_written_one_by_one_are_what_is_known(events: list[tuple[str, Category, int] | Stop]) -> None:
    """`changed` names every section whose row differs from before, and only what a retraction takes back goes."""
    client, highest = Client(uuid4()), 0
    for event in events:
        before = dict(client.sections)
        if isinstance(event, Stop):
            client.forget(event, {Category.IDENTITY})
            highest = max(highest, event.version)
            taken = set() if event.recipients else {key for key in before if event.takes(key[1])}
            assert client.sections == {key: s for key, s in before.items() if key not in taken}
            avoided = event.recipients if event.recipients and event.takes(Category.IDENTITY) else frozenset()
            assert avoided <= client.avoided
            assert event.recipients or {c for c in Category if event.takes(c)} <= client.erased
            assert event.recipients or event.categories is not None or not client.avoided, "nothing is left of it"
        else:
            source, category, hours = event
            section = Section(source, category, NOW + timedelta(hours=hours), {})
            client.keep(section)
            assert client.sections[source, category] is section, "what came last, whatever time it carries"
        differs = {key for key in before.keys() | client.sections.keys() if before.get(key) != client.sections.get(key)}
        assert differs <= client.changed
    assert (client.tombstone or 0) == highest
    assert client.stopped == (client.tombstone is not None)
