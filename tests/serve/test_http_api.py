"""The HTTP API as its clients see it, over real sockets: submitting, looking, deciding, and what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from agentraft_ray import InMemoryCheckpointStore, Task, wrap
from agentraft_ray.cluster.serve.guard import Rates
from agentraft_ray.cluster.serve.settings import ServeSettings, refuse_open_door, tokens_of
from agentraft_ray.cluster.serve.tokens import Tokens, new_token, read_tokens
from agentraft_ray.cluster.sources import made
from agentraft_ray.errors import InvalidConfig
from tests.serve.served import BOSS, HERE, LIMITS, READER, SENDER, TOKENS, frames_of, gate, memo, served


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The detail of the problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:agentraft:{kind}", problem
    return str(problem["detail"])


# --- runs --------------------------------------------------------------------------------------------------------------------


async def test_a_run_is_submitted_followed_approved_and_read() -> None:
    async with served() as server:
        client = server.client
        answer = await client.post("/v1/runs", json={"pipeline": "memo", "goal": "rollbacks", "inputs": {"n": 7}, "run_id": "memo-1"})
        assert (answer.status_code, answer.json()) == (201, {"run_id": "memo-1", "created": True})
        assert answer.headers["location"] == "/v1/runs/memo-1"
        run = await server.status("memo-1", "waiting")
        [wait] = run["waits"]
        assert (wait["step"], wait["about"]) == ("publish", "output")
        assert [node["status"] for node in run["graph"]] == ["committed", "committed", "waiting"]
        output = (await client.get("/v1/runs/memo-1/output", params={"step": "draft"})).json()
        assert output["value"] == {"text": "draft from sources on rollbacks", "n": 7}
        following = asyncio.create_task(server.events("memo-1"))
        wrong = {"step": "publish", "digest": "0" * 64}
        assert "another output" in refused(await client.post("/v1/runs/memo-1/approve", json=wrong), 409, "conflict")
        right = {"step": "publish", "digest": wait["digest"], "note": "good"}
        assert (await client.post("/v1/runs/memo-1/approve", json=right)).status_code == 202
        run = await server.status("memo-1", "succeeded")
        assert (run["committed"], run["steps"]) == (3, 3)
        events = await following
        assert [one["event"] for one in events if one["event"] not in {"run_claimed", "run_parked"}] == [
            "run_start",
            "step_committed",
            "step_committed",
            "command_taken",
            "step_committed",
            "run_success",
        ]
        assert [one["id"] for one in events] == [one["data"]["id"] for one in events]
        taken = next(one for one in (await client.get("/v1/runs/memo-1/timeline")).json()["entries"] if one["kind"] == "command")
        assert taken["detail"] == "approve by local: good"
        audit = (await client.get("/v1/runs/memo-1/audit")).json()
        assert (audit["commits"], audit["problems"]) == (3, [])


async def test_the_same_request_again_makes_no_second_run_and_another_one_under_its_key_is_refused() -> None:
    async with served() as server:
        key = {"Idempotency-Key": "order-17"}
        first = await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "g"}, headers=key)
        again = await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "g"}, headers=key)
        assert (first.status_code, again.status_code) == (201, 200)
        assert (first.json()["run_id"], again.json()) == (again.json()["run_id"], {**first.json(), "created": False})
        other = await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "another"}, headers=key)
        refused(other, 409, "run-id-conflict")
        own = [await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "g", "run_id": "mine"}) for _ in range(2)]
        assert [one.status_code for one in own] == [201, 200]
        await server.status("mine", "succeeded")
        assert len((await server.client.get("/v1/runs")).json()["runs"]) == 2
        await server.services.ledger.prune()
        gone = await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "g", "run_id": "mine"})
        assert "succeeded" in refused(gone, 410, "run-expired")


async def test_runs_are_listed_by_pages_and_filters() -> None:
    async with served() as server:
        for number in range(7):
            await server.submit(run_id=f"q{number}", goal="even" if number % 2 == 0 else "odd")
        await server.submit("memo", run_id="m0")
        for number in range(7):
            await server.status(f"q{number}", "succeeded")
        await server.status("m0", "waiting")
        found: list[str] = []
        params: dict[str, Any] = {"limit": 3}
        while True:
            page = (await server.client.get("/v1/runs", params=params)).json()
            found += [run["run_id"] for run in page["runs"]]
            if page["next"] is None:
                break
            params["after"] = page["next"]
        assert found[0] == "m0"
        assert sorted(found[1:]) == [f"q{number}" for number in range(7)]
        for query, wanted in (
            ({"status": ["waiting", "failed"]}, {"m0"}),
            ({"pipeline": "quick", "text": "even"}, {"q0", "q2", "q4", "q6"}),
            ({"status": "cancelled"}, set()),
        ):
            page = (await server.client.get("/v1/runs", params=query)).json()
            assert {run["run_id"] for run in page["runs"]} == wanted, query
        for query in ({"status": "done"}, {"limit": 0}, {"limit": 501}, {"after": "nowhere"}):
            refused(await server.client.get("/v1/runs", params=query), 422, "invalid")


async def test_runs_are_cancelled_denied_and_forked() -> None:
    async with served() as server:
        client = server.client
        await server.submit("slow", run_id="slow")
        await server.until("slow", lambda run: run["committed"] == 1)
        answer = await client.post("/v1/runs/slow/cancel")
        assert (answer.status_code, answer.json()["is_ended"]) == (202, False)
        await server.status("slow", "cancelled")
        assert (await client.post("/v1/runs/slow/cancel")).json()["is_ended"] is True
        forked = await client.post("/v1/runs/slow/fork", json={"step": "wait", "run_id": "slow-2"})
        assert (forked.status_code, forked.json()) == (201, {"run_id": "slow-2", "is_driven": True})
        again = await client.post("/v1/runs/slow/fork", json={"step": "wait", "run_id": "slow-2"})
        assert again.status_code == 201
        run = await server.until("slow-2", lambda run: run["committed"] == 1)
        assert run["forked_from"] == "slow"
        gate("slow-2").set()
        await server.status("slow-2", "succeeded")
        await server.submit("memo", run_id="memo")
        await server.status("memo", "waiting")
        assert (await client.post("/v1/runs/memo/deny", json={"step": "publish", "note": "shorter"})).status_code == 202
        run = await server.until("memo", lambda run: run["status"] == "waiting" and run["attempts"] > 3)
        assert run["steps_shown"][2]["attempts"] == 2
        for path, body, kind in (
            ("memo/approve", {"step": "draft"}, "conflict"),
            ("memo/fork", {"step": "nothing"}, "conflict"),
            ("slow/approve", {"step": "wait"}, "conflict"),
        ):
            refused(await client.post(f"/v1/runs/{path}", json=body), 409, kind)


async def test_decisions_under_one_key_are_taken_once() -> None:
    async with served(drives=False) as server:
        await wrap(memo, store=server.services.ledger.store, limits=LIMITS).run(Task("t", id="r"))  # type: ignore[arg-type]
        key = {"Idempotency-Key": "d1"}
        for _ in range(3):
            assert (await server.client.post("/v1/runs/r/approve", json={"step": "publish"}, headers=key)).status_code == 202
        assert len(await server.services.ledger.store.inbox("r")) == 1


async def test_what_is_not_there_or_not_served_is_said_in_plain_words() -> None:
    async with served() as server:
        client = server.client
        for path in ("nowhere", "nowhere/timeline", "nowhere/events", "nowhere/audit", "nowhere/output?step=x"):
            assert "no run 'nowhere'" in refused(await client.get(f"/v1/runs/{path}"), 404, "run-not-found")
        for path in ("cancel", "approve", "deny", "fork"):
            body = None if path == "cancel" else {"step": "s"}
            refused(await client.post(f"/v1/runs/nowhere/{path}", json=body), 404, "run-not-found")
        body = {"pipeline": "os:system", "goal": "rm"}
        assert "is not served here; there are: memo, quick" in refused(await client.post("/v1/runs", json=body), 422, "invalid")
        refused(await client.get("/v1/nothing"), 404, "not-found")
        refused(await client.delete("/v1/runs"), 405, "method")
        refused(await client.get("/v1/runs/bad%20id"), 422, "invalid")
        for text in (b"{", b"[]", b'{"pipeline": "quick"}', b'{"pipeline": "quick", "goal": "g", "more": 1}', b"[" * 100_000, b"\xff"):
            answer = await client.post("/v1/runs", content=text, headers={"content-type": "application/json"})
            assert answer.status_code in {400, 422}, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
        for goal, inputs in (("g", {"t": "\ud800"}), ("g", {"n": 2**70}), ("g", {"n": json.loads("[" * 300 + "]" * 300)})):
            content = json.dumps({"pipeline": "quick", "goal": goal, "inputs": inputs})
            answer = await client.post("/v1/runs", content=content, headers={"content-type": "application/json"})
            refused(answer, 422, "not-plain-data")


async def test_a_server_without_pipelines_leaves_decisions_to_who_drives_the_runs() -> None:
    store = InMemoryCheckpointStore(limits=LIMITS)
    async with served(store, drives=False) as server, wrap(memo, store=store, limits=LIMITS) as driver:
        handle = await driver.submit(Task("t", id="r"))
        await server.status("r", "waiting")
        assert (await server.client.post("/v1/runs/r/approve", json={"step": "publish"})).status_code == 202
        assert (await handle.result()).success
        forked = await server.client.post("/v1/runs/r/fork", json={"step": "draft"})
        assert forked.json()["is_driven"] is False
        assert (await server.client.get("/v1/pipelines")).json() == []


async def test_a_server_goes_on_with_the_runs_of_its_pipelines_that_nobody_drives() -> None:
    store = InMemoryCheckpointStore(limits=LIMITS)
    async with served(store) as server:
        await server.submit("slow", run_id="drained")
        await server.submit("memo", run_id="waits")
        await server.until("drained", lambda run: run["committed"] == 1)
        await server.status("waits", "waiting")
    gate("drained").set()
    await wrap(memo, store=store, limits=LIMITS).run(Task("of the same path under other settings", id="other"))
    async with served(store) as server:
        await server.status("drained", "succeeded")
        await server.client.post("/v1/runs/waits/approve", json={"step": "publish"})
        await server.status("waits", "succeeded")
        assert (await server.client.get("/v1/runs/other")).json()["status"] == "waiting"


# --- streams -----------------------------------------------------------------------------------------------------------------


async def test_a_stream_that_reconnects_misses_no_event_and_gets_none_twice() -> None:
    async with served() as server:
        await server.submit("shaky", run_id="r")
        await server.status("r", "succeeded")
        whole = await server.events("r")
        assert [one["event"] for one in whole] == [
            "run_start",
            "step_failed",
            "step_rollback",
            "step_retry",
            "step_committed",
            "step_committed",
            "run_success",
        ]
        for cut in range(1, len(whole)):
            first = await server.events("r", stop=cut)
            assert first + await server.events("r", first[-1]["id"]) == whole
        assert await server.events("r", whole[-1]["id"]) == []
        for last, status, kind in (("other:1:0", 422, "invalid"), ("r:x:0", 422, "invalid")):
            refused(await server.client.get("/v1/runs/r/events", headers={"Last-Event-ID": last}), status, kind)
        async with server.client.stream("GET", "/v1/runs/r/events", params={"after": "r:99:0"}) as answer:
            [problem] = [one async for one in frames_of(answer)]
        assert (problem["event"], problem["data"]["type"]) == ("problem", "urn:agentraft:log-rewound")


async def test_a_silent_stream_says_that_it_is_there_and_ends_with_the_server() -> None:
    async with served(heartbeat_s=0.05) as server:
        await server.submit("memo", run_id="r")
        await server.status("r", "waiting")
        lines: list[str] = []

        async def listen() -> None:
            async with server.client.stream("GET", "/v1/runs/r/events") as answer:
                assert answer.headers["cache-control"] == "no-store"
                async for line in answer.aiter_lines():
                    lines.append(line)  # noqa: PERF401 - as they come

        listening = asyncio.create_task(listen())
        async with asyncio.timeout(10):
            while lines.count(": still here") < 3:
                await asyncio.sleep(0.01)
            server.services.closing.set()
            await listening
    assert lines[0] == "retry: 1000"


async def test_streams_are_limited_and_one_that_its_client_leaves_makes_room() -> None:
    async with served(streams_max=1, heartbeat_s=0.05) as server:
        await server.submit("memo", run_id="r")
        async with server.client.stream("GET", "/v1/runs/r/events") as answer:
            lines = answer.aiter_lines()  # kept: with it goes the connection
            await anext(lines)
            refused(await server.client.get("/v1/pulse"), 503, "store-unavailable")
        async with asyncio.timeout(10):
            while server.services.streams:
                await asyncio.sleep(0.01)
        async with server.client.stream("GET", "/v1/pulse") as answer:
            assert answer.status_code == 200


async def test_the_pulse_tells_what_moves() -> None:
    async with served() as server, server.client.stream("GET", "/v1/pulse") as answer:
        beats = frames_of(answer)
        assert (await anext(beats))["data"]["is_partial"] is True
        await server.submit("shaky", run_id="r")
        ended: list[Any] = []
        async with asyncio.timeout(10):
            async for beat in beats:
                ended += [change for change in beat["data"]["changed"] if change[1] == "succeeded"]
                if ended:
                    break
        assert ended == [["r", "succeeded", 6]]
        verifiers = (await server.client.get("/v1/verifiers")).json()
        assert [(one["judged"], one["rejected"]) for one in verifiers if one["verifier"] == "mock"] == [(3, 1)]
        breakers = (await server.client.get("/v1/breakers")).json()
        assert [(one["scope"], one["state"], one["failures"], one["outcomes"]) for one in breakers][:1] == [("shaky/say", "closed", 1, 2)]


# --- who may ---------------------------------------------------------------------------------------------------------------


async def test_requests_without_a_token_or_with_a_wrong_one_get_nothing() -> None:
    async with served(tokens=TOKENS, token=BOSS) as server:
        await server.submit("memo", run_id="r")
        paths = ["/v1/runs", "/v1/runs/r", "/v1/runs/r/events", "/v1/pulse", "/v1/me", "/v1/openapi.json", "/v1/nothing"]
        for header in (None, "Bearer wrong", "Bearer", "Basic abc", f"Bearer {BOSS}x", BOSS, "Bearer " + "x" * 5_000):
            async with httpx.AsyncClient(base_url=server.url) as stranger:
                headers = {} if header is None else {"Authorization": header}
                for path in paths[:2] if header else paths:
                    answer = await stranger.get(path, headers=headers)
                    if answer.status_code != 429:
                        refused(answer, 401, "no-token")
                        assert answer.headers["www-authenticate"].startswith("Bearer")
                    assert "memo" not in answer.text
                answer = await stranger.post("/v1/runs/r/cancel", headers=headers)
                assert answer.status_code in {401, 429}
        assert (await server.client.get("/v1/runs/r")).json()["status"] != "cancelled"
        async with httpx.AsyncClient(base_url=server.url) as stranger:
            assert (await stranger.get("/")).status_code == 200


async def test_a_token_may_do_what_its_scopes_say() -> None:
    async with served(tokens=TOKENS, token=BOSS) as server:
        await server.submit("memo", run_id="r")
        await server.status("r", "waiting")

        async def asks(secret: str, method: str, path: str, **words: Any) -> int:
            answer = await server.client.request(method, path, headers={"Authorization": f"Bearer {secret}"}, **words)
            if answer.status_code == 403:
                refused(answer, 403, "scope")
            return answer.status_code

        submission = {"pipeline": "quick", "goal": "g"}
        assert [await asks(secret, "GET", "/v1/runs/r") for secret in (READER, SENDER, BOSS)] == [200, 403, 200]
        assert [await asks(one, "POST", "/v1/runs", json=submission) for one in (READER, SENDER, BOSS)] == [403, 201, 201]
        decision = {"step": "publish"}
        assert [await asks(one, "POST", "/v1/runs/r/approve", json=decision) for one in (READER, SENDER, BOSS)] == [403, 403, 202]
        await server.status("r", "succeeded")
        entries = (await server.client.get("/v1/runs/r/timeline")).json()["entries"]
        assert [one["detail"] for one in entries if one["kind"] == "command"] == ["approve by boss"]
        me = (await server.client.get("/v1/me")).json()
        assert (me["name"], me["scopes"]) == ("boss", ["operate", "read", "submit"])
        key = {"Idempotency-Key": "same"}
        made = [
            (await server.client.post("/v1/runs", json=submission, headers={**key, "Authorization": f"Bearer {one}"})).json()["run_id"]
            for one in (SENDER, BOSS)
        ]
        assert made[0] != made[1], "a key is one client's own"


async def test_a_server_without_tokens_answers_this_machine_alone_and_no_page_of_another_site() -> None:
    async with served() as server:
        for host in ("evil.example", "evil.example:80", ""):
            refused(await server.client.get("/v1/runs", headers={"host": host}), 403, "wrong-host")
        body = {"pipeline": "quick", "goal": "g"}
        origin = {"origin": "http://evil.example"}
        refused(await server.client.post("/v1/runs", json=body, headers=origin), 403, "wrong-origin")
        assert (await server.client.post("/v1/runs", json=body, headers={"origin": server.url})).status_code == 201
    async with served(allowed_hosts=("agents.example",)) as server:
        assert (await server.client.get("/v1/runs", headers={"host": "agents.example"})).status_code == 200


def test_a_server_beyond_loopback_needs_tokens() -> None:
    for host in ("0.0.0.0", "::", "10.1.2.3", "agents.example"):
        with pytest.raises(InvalidConfig, match="make a token"):
            refuse_open_door(host, Tokens(()))
        refuse_open_door(host, read_tokens(new_token("ann")[1], "here"))
    for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"):
        refuse_open_door(host, Tokens(()))


def test_tokens_are_read_from_lines_that_make_sense(tmp_path: Any) -> None:
    secret, line = new_token("ann", ["read", "operate"])
    found = read_tokens(f"# people\n\n{line}  # Ann\n", "here").find(secret)
    assert found is not None
    assert (found.name, found.scopes) == ("ann", {"read", "operate"})
    assert secret not in line
    for text in ("", "# nobody", "ann read", "ann read xyz", "ann write " + "0" * 64, "a/b read " + "0" * 64, f"ann read, {'0' * 64}"):
        with pytest.raises(InvalidConfig, match="token"):
            read_tokens(text, "here")
    for name, scopes in (("", ["read"]), ("ann", []), ("ann", ["root"]), ("a b", ["read"])):
        with pytest.raises(InvalidConfig):
            new_token(name, scopes)
    file = tmp_path / "tokens"
    file.write_text(line)
    assert len(tokens_of(ServeSettings(tokens_file=file))) == 1
    with pytest.raises(InvalidConfig, match="cannot be read"):
        tokens_of(ServeSettings(tokens_file=tmp_path / "none"))


# --- limits ------------------------------------------------------------------------------------------------------------------


async def test_requests_that_are_too_large_too_slow_or_too_many_are_refused() -> None:
    async with served(body_bytes_max=1_000, body_s=1.0) as server:
        big = {"pipeline": "quick", "goal": "x" * 2_000}
        assert "1,000 bytes" in refused(await server.client.post("/v1/runs", json=big), 413, "too-large")

        async def raw(*parts: bytes) -> bytes:
            """What the server answers to these parts, the last of which is not the end of the request."""
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
            for part in (b"POST /v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n", *parts):
                writer.write(part)
            answer = await reader.readuntil(b"\r\n")
            writer.close()
            return answer

        async with asyncio.timeout(20):
            chunked = b"Transfer-Encoding: chunked\r\n\r\n"
            assert b" 413 " in await raw(chunked, *[b"190\r\n" + b"x" * 400 + b"\r\n"] * 3)
            assert b" 408 " in await raw(chunked, b"1\r\n{\r\n")
            assert b" 408 " in await raw(b"Content-Length: 100\r\n\r\n{")
            assert b" 413 " in await raw(b"Content-Length: 100000\r\n\r\n{")
    async with served(requests_per_s=0.001, requests_burst=3) as server:
        answers = [await server.client.get("/v1/me") for _ in range(5)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
        refused(answers[3], 429, "too-many")
        assert int(answers[3].headers["retry-after"]) > 100
    async with served(runs_max=1) as server:
        await server.submit("memo", run_id="r")
        answer = await server.client.post("/v1/runs", json={"pipeline": "quick", "goal": "g"})
        assert "submit again" in refused(answer, 503, "store-unavailable")
        assert answer.headers["retry-after"] == "1"


def test_rates_fill_up_again_and_are_each_clients_own() -> None:
    now = [0.0]
    rates = Rates(2.0, 3, clock=lambda: now[0])
    assert [rates.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert rates.wait_s("b") == 0
    now[0] = 0.5
    assert [rates.wait_s("a") for _ in range(2)] == [0, 0.5]
    now[0] = 100.0
    assert [rates.wait_s("a") for _ in range(4)] == [0, 0, 0, 0.5]


async def test_pages_and_answers_carry_their_protection() -> None:
    async with served() as server:
        for path in ("/", "/static/index.html", "/v1/runs", "/v1/nothing", "/healthz"):
            headers = (await server.client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers
        assert (await server.client.get("/v1/runs")).headers["cache-control"] == "no-store"
        assert (await server.client.get("/static/../app.py")).status_code == 404
        assert (await server.client.get("/static/%2e%2e/app.py")).status_code == 404


def test_settings_of_a_server_are_checked(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agentraft.toml").write_text(
        f'shards = 2\n[serve]\nport = 9000\n[serve.pipelines]\nmemo = "{HERE}:memo"\nother = {{path = "{HERE}:quick", max_retries = 1}}\n'
    )
    settings = made(ServeSettings)
    assert settings.port == 9000
    assert settings.pipelines["memo"].path == f"{HERE}:memo"
    assert settings.pipelines["other"].run_settings().retry.max_retries == 1
    assert made(ServeSettings, pipelines=["a:b"]).pipelines["a:b"].path == "a:b"
    monkeypatch.setenv("AGENTRAFT_SERVE_PORT", "x")
    with pytest.raises(InvalidConfig, match=r"server settings: port: .*\[serve\] in agentraft.toml"):
        made(ServeSettings)
