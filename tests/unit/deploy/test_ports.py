"""Whoever asks for a free port gets one that nobody else was given, though nothing listens on it yet."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from throughgate.native import process


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    few = process.PORTS[:2000]  # of which 500 drawn at random repeat each other for certain
    monkeypatch.setattr(process, "PORTS", few)
    monkeypatch.setattr(process, "_given", set())
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: process.free_port(), range(500)))
    assert len(set(given)) == 500
    assert set(given) <= set(few)
