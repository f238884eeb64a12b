"""Answers over HTTP: may I, what may be seen, who was told. Each is in the ledger before it is given, and is sealed."""

import asyncio
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import event as sql_events
from support.agency import event, eventually_true, terms
from support.commands import Commands
from support.door import override, quiet, recorded, reference_of, superuser

from consent.service import asking
from contracts.vocabulary import Category, Purpose
from servicekit.db import Database
from throughgate import told as told_command

SEEN = ["identity", "needs.accommodation", "risk"]


@pytest.fixture
def throughgate(lone_door: Any, tmp_path: Path) -> Commands:
    return Commands(lone_door.system, tmp_path)


async def seen(door: Any, agency: Any, clients: list[str], categories: list[str] = SEEN) -> list[dict[str, Any]]:
    """What an agency's practitioner sees."""
    body = {"clients": clients, "purpose": "referral", "categories": categories}
    async with agency.http() as http:
        answer = await http.post("/views", json=body)
        assert answer.status_code == 200, answer.text
        views: list[dict[str, Any]] = answer.json()["views"]
        return views


# --- may I ------------------------------------------------------------------------------------------------------------


async def test_may_i_says_what_would_make_it_possible(lone_door: Any, throughgate: Commands) -> None:
    client = (await lone_door.prison.answered(lone_door.recorded()))["client"]
    ask = [
        "may-i",
        client,
        "--as",
        lone_door.prison.name,
        "--recipient",
        lone_door.hostel.name,
        "--purpose",
        "referral",
    ]
    ask += ["--category", "identity", "--category", "risk"]
    code, said = await throughgate(*ask)
    assert code == 1, said
    assert "no   identity (no-consent)" in said
    assert "Ask the client for consent that names them." in said
    await lone_door.prison.answered(lone_door.consent(lone_door.hostel))
    code, said = await throughgate(*ask)
    assert code == 0
    assert "yes  identity, on consent, referral-" in said
    assert "no   risk (agreement-category)" in said


async def test_may_i_asks_of_many_at_once_and_tells_nothing_of_others(lone_door: Any, throughgate: Commands) -> None:
    client = (await lone_door.prison.answered(lone_door.recorded()))["client"]
    other = "5d0c8a52-7b0e-4f0a-9f58-3f4f0a6b1c11"
    ask = ["may-i", client, other, "--as", lone_door.prison.name, "--recipient", lone_door.hostel.name]
    code, said = await throughgate(*ask, "--purpose", "referral", "--category", "identity", "--json")
    assert code == 1
    verdicts = json.loads(said)
    assert [v["known"] for v in verdicts] == [True, False]
    assert verdicts[1]["decision"] is None


async def test_nothing_leaves_by_asking_and_the_question_is_sealed(lone_door: Any) -> None:
    client = await recorded(lone_door)
    before = len(await lone_door.hostel.received())
    body = {
        "clients": [client],
        "recipient": lone_door.hostel.name,
        "purpose": "referral",
        "categories": ["needs.accommodation"],
    }
    async with lone_door.prison.http() as http:
        verdict = (await http.post("/decisions", json=body)).json()["verdicts"][0]
    assert [p["category"] for p in verdict["permitted"]] == ["needs.accommodation"]
    await sealed(lone_door, verdict["decision"])
    assert len(await lone_door.hostel.received()) == before


@pytest.mark.parametrize("recipient", ["nobody", "referral"])
async def test_who_asks_for_nobody_or_for_a_service_of_ours_is_told_so(lone_door: Any, recipient: str) -> None:
    body = {"clients": [str(uuid4())], "recipient": recipient, "purpose": "referral", "categories": ["risk"]}
    async with lone_door.prison.http() as http:
        answer = await http.post("/decisions", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "no-such-recipient")


async def sealed(door: Any, decision: str) -> None:
    """A decision stands in the ledger at once, and in a batch after the discloser's next cycle."""
    async with superuser(door) as db:
        assert await db.fetchval("SELECT count(*) FROM ledger WHERE decision = $1", UUID(decision)) == 1

        async def in_a_batch() -> Any:
            return await db.fetchval(
                "SELECT true FROM ledger l JOIN head h ON (h.shard, h.sequence) = (l.shard, l.sequence)"
                " WHERE decision = $1 AND h.sent",
                UUID(decision),
            )

        await eventually_true(in_a_batch, "the decision to be sealed")


# --- what may be seen -------------------------------------------------------------------------------------------------


async def test_a_view_is_in_the_ledger_before_it_is_answered(lone_door: Any) -> None:
    await recorded(lone_door)
    reference = await reference_of(lone_door.hostel)
    view = (await seen(lone_door, lone_door.hostel, [reference]))[0]
    assert sorted(s["category"] for s in view["sections"]) == ["identity", "needs.accommodation"]
    await sealed(lone_door, view["receipt"]["decision"])


async def test_a_view_waits_for_a_withdrawal_that_holds_the_client(lone_door: Any) -> None:
    """Whoever withdraws holds the client's row until the commit; a view decides with what was committed by then."""
    await recorded(lone_door)
    reference = await reference_of(lone_door.hostel)
    async with superuser(lone_door) as db:
        found = "SELECT client_id FROM reference WHERE id = $1"
        client = await db.fetchval(found, UUID(reference))
        transaction = db.transaction()
        await transaction.start()
        await db.execute("SELECT 1 FROM client WHERE id = $1 FOR UPDATE", client)
        looking = asyncio.create_task(seen(lone_door, lone_door.hostel, [reference]))
        await asyncio.sleep(0.7)
        assert not looking.done(), "it waits for the lock"
        await db.execute(
            "INSERT INTO sharing_fact (client_id, version, kind, asserted_by, event_id, body, recorded_at)"
            " SELECT id, version + 1, 'withdrawn', 'x', 'x', jsonb_build_object('version', version + 1, 'asserted_by',"
            " 'x', 'at', clock_timestamp(), 'scope', '{}'::jsonb), clock_timestamp() FROM client WHERE id = $1",
            client,
        )
        await db.execute("UPDATE client SET version = version + 1 WHERE id = $1", client)
        await transaction.commit()
    view = (await looking)[0]
    assert view["sections"] == []
    assert {w["rule"] for w in view["receipt"]["withheld"]} == {"consent-withdrawn"}


async def test_who_only_looked_is_told_to_erase(lone_door: Any) -> None:
    """A view counts as told: when it no longer may, the viewer gets a retraction, though nothing was sent to it."""
    prison, probation = lone_door.prison, lone_door.probation
    look_only = terms("referral", ["needs.accommodation"], subscription=False)
    await lone_door.operator.agree(f"look-{prison.name}", [prison.name], [probation.name], [look_only])
    await prison.answered(lone_door.recorded())
    mine = {"identifiers": lone_door.identifiers, "facts": {"risk": {"harm": "low"}}}
    client = (await probation.answered(event("client.recorded", probation.name, mine)))["client"]
    await prison.answered(lone_door.consent(probation))
    view = (await seen(lone_door, probation, [client]))[0]
    assert [s["category"] for s in view["sections"]] == ["needs.accommodation"]
    told = lone_door.withdrawal()
    await prison.answered(told)
    done = await prison.done(told["id"])
    assert probation.name in {r["recipient"] for r in done["recipients"]}


async def test_two_hundred_views_take_as_many_statements_as_two(lone_door: Any) -> None:
    prison = lone_door.prison
    replies = await asyncio.gather(
        *(
            prison.answered(
                event(
                    "client.recorded",
                    prison.name,
                    {"identifiers": [{"type": "CASE", "value": f"V-{n}"}], "facts": {"risk": {"harm": "low"}}},
                ),
                key=str(n),
            )
            for n in range(200)
        )
    )
    references = [UUID(reply["client"]) for reply in replies]
    database = Database(lone_door.system.environment("consent.main")["THROUGHGATE_DATABASE_URL"], 1, "test")
    counts = []
    statements: list[str] = []
    sql_events.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda _c, _u, statement, *_: statements.append(statement),
    )
    try:
        for some in (references[:2], references):
            statements.clear()

            async def look(session: Any, some: list[UUID] = some) -> Any:
                return await asking.view(
                    session, prison.name, some, "p-1", Purpose.REFERRAL, frozenset({Category.RISK})
                )

            assert len(await database.run(look)) == len(some)
            counts.append(len(statements))
    finally:
        await database.close()
    assert counts[0] == counts[1]
    assert counts[1] < 20
    one = [references[0]] * 200
    assert len(await seen(lone_door, prison, [str(r) for r in one])) == 1, "who is named often is answered once"
    asked = {"recipient": lone_door.hostel.name, "purpose": "referral", "categories": ["risk"]}
    async with prison.http() as http:
        said = await http.post("/decisions", json=asked | {"clients": [str(r) for r in one]})
    assert len(said.json()["verdicts"]) == 1
    many = await seen(lone_door, prison, [str(r) for r in references])
    assert len({v["receipt"]["decision"] for v in many}) == 200
    async with prison.http() as http:
        body = {"clients": [str(references[0])] * 201, "purpose": "referral", "categories": ["risk"]}
        assert (await http.post("/views", json=body)).status_code == 422


# --- who was told -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page is made of, and whether it is well formed as far as can be told without a browser."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(1 for name, _ in self.tags if name == tag)


@pytest.fixture
async def story(lone_door: Any) -> str:
    """One client with an entry of every kind; gives the prison's reference."""
    prison = lone_door.prison
    client = await recorded(lone_door)  # told, and the mentors refused
    reference = await reference_of(lone_door.hostel)
    await seen(lone_door, lone_door.hostel, [reference])
    async with prison.http() as http:
        body = {"clients": [client], "recipient": lone_door.mentors.name, "purpose": "referral", "categories": ["risk"]}
        await http.post("/decisions", json=body)
    threat = override(lone_door, reason="<script>alert('a threat')</script> & \"more\"")
    await prison.answered(event("override.authorised", prison.name, threat))
    other = [{"type": "CASE", "value": f"L-{lone_door.number}"}]
    await prison.answered(
        event("client.recorded", prison.name, {"identifiers": other, "facts": {"risk": {"harm": "low"}}})
    )
    link = {"identifiers": lone_door.identifiers, "sameAs": other, "reason": "the same person"}
    linked = await prison.answered(event("identity.linked", prison.name, link))
    assert linked["type"].endswith("accepted.v1"), linked
    await prison.answered(lone_door.withdrawal())
    return client


async def test_the_answer_has_everything(
    lone_door: Any, story: str, throughgate: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await throughgate.who_was_told(story, lone_door.prison)
    kinds = {e["kind"] for e in told["entries"]}
    assert {"disclosure", "view", "consultation", "override", "combination", "refusal"} <= kinds
    assert not any(e["unreadable"] for e in told["entries"])
    async with superuser(lone_door) as db:
        clients = await db.fetch(
            "WITH RECURSIVE up AS (SELECT c.id, c.merged_into, c.parts FROM client c JOIN reference r"
            " ON r.client_id = c.id WHERE r.id = $1 UNION SELECT c.id, c.merged_into, c.parts FROM up u JOIN client c"
            " ON c.id = u.merged_into OR c.id = ANY(u.parts)) SELECT id FROM up",
            UUID(story),
        )
        kept = await db.fetchval(
            "SELECT count(*) FROM ledger WHERE client_id = ANY($1) AND kind NOT IN ('cancelled', 'reading')",
            [r["id"] for r in clients],
        )
    assert len(told["entries"]) == kept
    assert told["names"][lone_door.hostel.name] == lone_door.hostel.name
    code, said = await throughgate("who-was-told", story, "--as", lone_door.prison.name)
    assert code == 0
    assert f"{kept + 1} entries." in said, "that it was looked at before is one"
    monkeypatch.setattr(told_command, "PAGE", 2)
    assert (await throughgate.who_was_told(story, lone_door.prison))["entries"] == told["entries"]


async def test_whoever_reads_who_was_told_stands_there_from_then_on(
    lone_door: Any, story: str, throughgate: Commands
) -> None:
    """One entry a request, told to whoever gives the whole answer and to the agency that read."""
    prison, hostel = lone_door.prison, lone_door.hostel
    reference = await reference_of(hostel)

    async def read(agency: str, client: str, *scopes: str, by: str | None = None, **more: Any) -> Any:
        token = lone_door.system.issuer.token("clerk", agency, ["disclosures:read", *scopes], practitioner=by)
        async with httpx.AsyncClient(
            base_url=lone_door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}
        ) as http:
            answer = await http.get(f"/clients/{client}/disclosures", **more)
        assert answer.status_code == 200, answer.text
        return answer

    def readings(answer: Any) -> list[tuple[Any, ...]]:
        found = [e for e in answer.json()["entries"] if e["kind"] == "reading"]
        assert not any(e["permitted"] or e["withheld"] or e["purpose"] for e in found)
        told = ("by", "whole", "entries", "before")
        return [(e["recipient"], *(e["details"][name] for name in told)) for e in found]

    own = await read(hostel.name, reference, by="u-17")
    assert readings(own) == [], "who reads for the first time"
    of_hostel = (hostel.name, "u-17", False, len(own.json()["entries"]), None)
    whole = await read(prison.name, story, "subject-access")
    assert readings(whole) == [of_hostel]
    count = len(whole.json()["entries"])
    of_prison = (prison.name, "clerk", True, count, None)
    last = whole.json()["entries"][1]["entry"]
    assert readings(await read(hostel.name, reference)) == [of_hostel], "it does not learn who else looked"
    again = (hostel.name, "clerk", False, of_hostel[3] + 1, None)
    await read(prison.name, story, "subject-access", params={"limit": 1, "before": last})
    page = (prison.name, "clerk", True, 1, last)
    by_operator = await read("operator", reference, "subject-access", "operator")
    assert readings(by_operator) == [page, again, of_prison, of_hostel]
    shown = (await read(prison.name, story, "subject-access", headers={"Accept": "text/html"})).text
    assert shown.count("Looked at who was told.") == 5
    assert "u-17" not in shown
    assert "the operator of the system</td>" in shown
    async with superuser(lone_door) as db:
        entries = "SELECT count(*) FROM ledger WHERE kind = 'reading'"
        entered = await db.fetchval(entries)
        async with hostel.http() as http:
            assert (await http.get(f"/clients/{story}/disclosures")).status_code == 404
        assert await db.fetchval(entries) == entered
    await quiet(lone_door)
    code, said = await throughgate("verify", "--ledger", "--open", "--as", hostel.name)
    assert code == 0, said


async def test_who_reads_while_everything_is_erased_is_answered_what_is_left_of_it(lone_door: Any) -> None:
    """Entered with the key of before, it could be read by nobody and would be closed by no erasure."""
    client = UUID(await recorded(lone_door))
    async with superuser(lone_door) as db, lone_door.prison.http() as http:
        row = await db.fetchrow(
            "SELECT c.id, c.key FROM client c JOIN reference r ON r.client_id = c.id WHERE r.id = $1", client
        )
        transaction = db.transaction()
        await transaction.start()
        await db.execute("UPDATE client SET key = NULL WHERE id = $1", row["id"])
        reading = asyncio.create_task(http.get(f"/clients/{client}/disclosures"))
        await asyncio.sleep(0.7)
        assert not reading.done(), "it waits for the lock"
        await transaction.commit()
        answer = await reading
        await db.execute("UPDATE client SET key = $2 WHERE id = $1", *row)
        of_client = "SELECT count(*) FROM ledger WHERE kind = 'reading' AND client_id = $1"
        assert await db.fetchval(of_client, row["id"]) == 0
    assert answer.status_code == 200, answer.text
    assert all(entry["erased"] for entry in answer.json()["entries"])


async def test_the_page_has_every_entry_and_can_be_read_by_everyone(
    lone_door: Any, story: str, throughgate: Commands, tmp_path: Path
) -> None:
    name = {"name": "Hostel <b>Harbour</b> & Sons", "kind": "vcs", "area": "leeds"}
    await lone_door.operator.call("PUT", f"/agencies/{lone_door.hostel.name}", name)
    told = await throughgate.who_was_told(story, lone_door.prison)
    file = tmp_path / "page.html"
    code, said = await throughgate("who-was-told", story, "--as", lone_door.prison.name, "--page", file)
    assert code == 0, said
    text = file.read_text()
    page = Page(text)
    assert page.open == [], "every element is closed"
    assert text.startswith("<!DOCTYPE html>")
    for entry in told["entries"]:
        assert entry["decision"] in page.text
    assert page.count("tr") - page.count("thead") >= len(told["entries"])
    # escaped: it is there as text, and not as an element
    assert "a threat" not in text, "an agency's own words may name a victim"
    assert "staff-1" not in text
    assert "staff-2" not in text
    assert "a threat" in json.dumps(told), "who answers the client can read them"
    assert "Hostel <b>Harbour</b> & Sons" in page.text
    assert page.count("script") == page.count("b") == page.count("img") == page.count("link") == 0
    # accessible
    assert ("html", {"lang": "en-GB"}) in page.tags
    assert page.count("h1") == page.count("main") == page.count("title") == 1
    assert page.count("table") == page.count("caption") > 3
    assert all("scope" in attributes for name, attributes in page.tags if name == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    # nothing from elsewhere, and fit to print
    assert not any({"src", "href", "onclick"} & attributes.keys() for _, attributes in page.tags)
    assert "url(" not in text
    assert "@media print" in text
    # in words
    for words in ("to refer you to a service", "your consent", "need: where to live", "No consent names"):
        assert words in page.text


async def test_the_page_is_the_clients_answer_only(lone_door: Any, story: str) -> None:
    reference = await reference_of(lone_door.hostel)
    async with lone_door.hostel.http() as http:
        answer = await http.get(f"/clients/{reference}/disclosures", headers={"Accept": "text/html"})
        assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
        answer = await http.get(f"/clients/{reference}/disclosures")
        entries = answer.json()["entries"]
    assert answer.headers["cache-control"] == "no-store"
    assert not any("a threat" in json.dumps(entry) for entry in entries), "an override is for its agency and the client"
    token = lone_door.system.issuer.token("p", lone_door.prison.name, ["disclosures:read", "subject-access"])
    async with httpx.AsyncClient(
        base_url=lone_door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}
    ) as http:
        wanted = [("Accept", "application/xhtml+xml"), ("Accept", "text/html;q=0.9")]
        answer = await http.get(f"/clients/{story}/disclosures", headers=wanted)
    assert f"Reference: {story}" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
