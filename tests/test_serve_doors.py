"""Who may ask and how: keys, hosts, sizes, configuration, and what Prometheus reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.errors import ConfigError
from serving.config import ServeConfig, is_loopback, read_keys
from serving.server import listen, url_of
from tests.serving_toy import Toy, calling, play, serving

KEY, OTHER = "k" * 32, "another-key-of-some-length"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.mark.parametrize(
    "header, status",
    [
        (None, 401),
        ("", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY}x", 401),
        (b"Bearer \xff\xfe", 401),
        (f"Bearer {KEY}", 200),
        (f"bearer {OTHER}", 200),
    ],
)
def test_only_a_key_opens_the_door(toy: Toy, header: Any, status: int) -> None:
    async def story() -> None:
        async with calling(toy.graph, keys=(KEY, OTHER)) as client:
            headers = {} if header is None else {"Authorization": header}
            for path in ("/ask", "/v1/chat/completions"):
                body = {"question": "Q1"} if path == "/ask" else {"messages": [{"role": "user", "content": "Q1"}]}
                response = await client.post(path, json=body, headers=headers)
                assert response.status_code == status
            if status == 401:
                assert response.json()["error"]["type"] == "authentication_error"
                assert response.headers["www-authenticate"] == "Bearer" and toy.runs == []

    play(story)


def test_probes_need_no_key_and_metrics_do(toy: Toy) -> None:
    async def story() -> None:
        async with calling(toy.graph, keys=(KEY,)) as client:
            assert (await client.get("/health")).json()["status"] == "ok"
            assert (await client.get("/ready")).json() == {"status": "ready", "running": 0, "waiting": 0}
            for path in ("/metrics", "/v1/models", "/openapi.json", "/nowhere"):
                assert (await client.get(path)).status_code == 401

    play(story)


def test_without_keys_other_names_for_this_machine_are_refused(toy: Toy) -> None:
    async def story() -> None:
        async with calling(toy.graph) as client:
            for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
                response = await client.post("/ask", json={"question": "Q1"}, headers={"Host": host})
                assert response.status_code == 403 and "loopback" in response.json()["error"]["message"]
            for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
                assert (await client.get("/health", headers={"Host": host})).status_code == 200
        async with calling(toy.graph, keys=(KEY,)) as client:
            assert (await client.get("/health", headers={"Host": "jade.example"})).status_code == 200

    play(story)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_whether_it_says_so_or_not(toy: Toy, chunked: bool) -> None:
    async def pieces() -> Any:
        for _ in range(5):
            yield b" " * 1000

    async def story() -> None:
        async with serving(toy.graph, max_body=4096) as served:
            content = pieces() if chunked else b" " * 5000
            response = await served.client.post("/ask", content=content, headers={"Content-Type": "application/json"})
            assert response.status_code == 413 and response.json()["error"]["code"] == "too_large"
            assert (await served.ask("Q1")).status_code == 200

    play(story)


def test_prometheus_reads_what_happened(toy: Toy) -> None:
    async def story() -> None:
        async with calling(toy.graph) as client:
            for question in ("Q1", "Q2", "boom", ""):
                await client.post("/ask", json={"question": question})
            await client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Q3"}]})
            response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(response.text)}
        found = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert found["jade_requests_total", "answered", "ask"] == 2
        assert found["jade_requests_total", "ask", "failed"] == 1
        assert found["jade_requests_total", "ask", "invalid"] == 1
        assert found["jade_requests_total", "answered", "chat"] == 1
        assert found["jade_runs_total", "ok"] == 3 and found["jade_runs_total", "crashed"] == 1
        assert found["jade_retrievals_total",] == sum(len(run.retrievals) for run in toy.runs) == 4
        calls = [call for run in toy.runs for call in run.calls]
        assert found["jade_model_calls_total", "planner"] == 4
        assert found["jade_tokens_total", "prompt"] == sum(len(call.prompt_ids) for call in calls)
        assert found["jade_tokens_total", "generated"] == sum(len(call.response_ids) for call in calls)
        assert found["jade_in_flight",] == found["jade_queue_length",] == 0
        assert found["jade_request_seconds_count", "ask"] == 2
        buckets = [value for key, value in found.items() if key[0] == "jade_request_seconds_bucket" and "ask" in key]
        assert buckets == sorted(buckets) and buckets[-1] == 2

    play(story)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"host": "0.0.0.0"}, "--api-key-file"),
        ({"host": "::"}, "JADE_API_KEY"),
        ({"host": "jade.example"}, "loopback|127.0.0.1"),
        ({"keys": ("short",)}, "at least 16"),
        ({"keys": ("with blanks in it it is no key",)}, "blanks"),
        ({"capacity": 0}, "capacity=0; allowed: 1 to 1024"),
        ({"queue": -1}, "queue=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"port": 70_000}, "port=70000"),
        ({"max_body": 1}, "max_body=1"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ServeConfig(**wrong)


def test_keys_make_any_host_possible_and_stay_out_of_sight() -> None:
    config = ServeConfig(host="0.0.0.0", keys=(KEY,))
    assert KEY not in repr(config)
    assert is_loopback("127.8.9.10") and is_loopback("::1") and not is_loopback("10.0.0.1")


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n  {OTHER}  \n{KEY}\n")
    assert read_keys(file, {}) == (KEY, OTHER)
    assert read_keys(file, {"JADE_API_KEY": "from-the-environment"}) == ("from-the-environment", KEY, OTHER)
    assert read_keys(None, {"JADE_API_KEY": " "}) == ()
    file.write_text("# none\n")
    for bad in (file, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="API key"):
            read_keys(bad, {})


def test_a_port_that_is_taken_is_named() -> None:
    with listen(ServeConfig(port=0)) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=f"port {port}"):
            listen(ServeConfig(port=port))
