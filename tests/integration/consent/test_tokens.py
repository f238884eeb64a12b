"""A token of `throughgate token` opens what its scope says, for its agency, at the door that runs; and nothing else."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.commands import Commands
from support.door import recorded, reference_of


@pytest.fixture
def throughgate(door: Any, tmp_path: Path) -> Commands:
    return Commands(door.system, tmp_path)


async def with_token(throughgate: Commands, *words: str) -> httpx.AsyncClient:
    code, token = await throughgate("token", *words)
    assert code == 0, token
    headers = {"Authorization": f"Bearer {token.strip()}"}
    return httpx.AsyncClient(base_url=throughgate.system.urls["consent"], headers=headers, timeout=20)


async def test_the_door_takes_it_for_its_scope_only(throughgate: Commands) -> None:
    async with await with_token(throughgate, "operator", "--scope", "operator") as http:
        assert (await http.get("/holds")).status_code == (await http.get("/agreements")).status_code == 200
        refused = await http.get(f"/clients/{uuid4()}/disclosures")
    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")


async def test_the_door_answers_the_agency_that_it_names(door: Any, throughgate: Commands) -> None:
    await recorded(door)
    question = {"clients": [await reference_of(door.hostel)], "purpose": "referral", "categories": ["identity"]}
    seen = {}
    for agency in (door.hostel.name, door.mentors.name):
        words = agency, "--scope", "views:read", "--practitioner", "staff-1"
        async with await with_token(throughgate, *words) as http:
            answer = await http.post("/views", json=question)
        assert answer.status_code == 200, answer.text
        seen[agency] = [section["category"] for section in answer.json()["views"][0]["sections"]]
    assert seen == {door.hostel.name: ["identity"], door.mentors.name: []}, "a reference is one agency's only"
