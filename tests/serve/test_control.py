"""A running server says what it serves, and serves another variant when a friend asks for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from rys_gguf import LayerMap, Model, Plan, make_plan
from rys_gguf.engines.stock import Address, StockServer
from rys_gguf.errors import EngineFailed, InvalidOptions
from rys_gguf.patch.apply import parse_spec
from rys_gguf.serve import variant
from rys_gguf.serve.control import Control, controlled
from rys_gguf.serve.variant import serve_file, serve_plan
from tests import tiny
from tests.serve.test_variant import PROMPT, answers, ask, options

Json = dict[str, Any]

N_LAYERS = 6
SPECS = ("blocks:1,3", "blocks:0,4", "layers:0..2,1..5")
AS_JSON = {"Content-Type": "application/json"}


class Endpoint:
    """The endpoint of a changeable server, and the server."""

    def __init__(self, url: str, server: StockServer) -> None:
        self.url = urlsplit(url)
        self.server = server

    def ask(
        self,
        method: str = "GET",
        body: bytes | Json | None = None,
        path: str | None = None,
        **headers: str,
    ) -> tuple[int, Json]:
        """The status and the object that a request gets."""
        assert self.url.hostname is not None
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=60)
        with contextlib.closing(connection):
            sent = json.dumps(body).encode() if isinstance(body, dict) else body
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path or self.url.path, sent, given)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())

    def change(self, **wish: Any) -> tuple[int, Json]:
        """Ask for another variant; asked for its slots, the server sees at once that it idles."""
        with ThreadPoolExecutor(1) as pool:
            reply = pool.submit(self.ask, "PUT", wish, Content_Type="application/json")
            while not reply.done():
                ask(self.server, "/slots")
                time.sleep(0.02)
            return reply.result()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads at once."""
    return tiny.write(tmp_path_factory.mktemp("control") / "m.gguf", "llama", N_LAYERS)


@contextlib.contextmanager
def endpoint(
    source: Path,
    *arguments: str,
    changes: bool = True,
    keys: tuple[str, ...] = (),
    seconds: float = 20,
) -> Iterator[Endpoint]:
    """A server of the first variant with an endpoint beside it."""
    with Model(source) as model:

        def plan_of(spec: str | None, damp: float) -> Plan:
            same = LayerMap.identity(N_LAYERS)
            return make_plan(model, same if spec is None else parse_spec(model, spec, damp))

        plan = plan_of(SPECS[0], 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(variant, "require_live", lambda *_: None)
            with serve_plan(plan, options("live", *arguments), changeable=changes) as server:
                control = Control(server, plan, keys, plan_of if changes else None, seconds)
                with controlled(control, 0) as url:
                    yield Endpoint(url, server)


@pytest.fixture(scope="module")
def shared(source: Path) -> Iterator[Endpoint]:
    """One for all tests that leave it as it was."""
    with endpoint(source) as found:
        yield found


def fresh(source: Path, spec: str) -> list[Any]:
    """What a server answers that serves nothing but this variant."""
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse(spec, N_LAYERS))
        with serve_plan(plan, options()) as server:
            return answers(server)[:2]


def test_a_changed_server_answers_as_a_fresh_one(source: Path, shared: Endpoint) -> None:
    """With every probability, for other layer counts and for the model itself; files are gone."""
    for spec in (*SPECS[1:], SPECS[0]):
        kind, _, value = spec.partition(":")
        status, about = shared.change(**{kind: value})
        assert (status, about["spec"]) == (200, LayerMap.parse(spec, N_LAYERS).spec)
        assert answers(shared.server)[:2] == fresh(source, spec)
    assert shared.change()[1]["layer_map"] == list(range(N_LAYERS))
    with serve_file(source, options()) as server:
        assert answers(shared.server)[:3] == answers(server)[:3]
    assert shared.change(blocks="1,3")[0] == 200
    assert len([p for p in shared.server.folder.iterdir() if p.is_dir()]) == 1


def test_a_damped_window_is_served_too(source: Path, shared: Endpoint) -> None:
    """Its rescaled tensors are its own."""
    before = answers(shared.server)[:2]
    assert shared.change(blocks=["1,3"], damp=0.5)[0] == 200
    assert answers(shared.server)[:2] != before
    assert shared.change(blocks="1,3")[0] == 200
    assert answers(shared.server)[:2] == before


def probabilities(server: StockServer) -> Any:
    """Those of the tokens after a prompt that is computed as a whole.

    What is kept of a prompt would be computed in other batches, and so rounded in another way.
    """
    body = {"prompt": PROMPT, "n_predict": 2, "n_probs": 5, "temperature": 0, "cache_prompt": False}
    return ask(server, "/completion", {**body, "ignore_eos": True})["completion_probabilities"]


def streamed(server: StockServer, n: int) -> Generator[str, None, None]:
    """The pieces of an answer of `n` tokens as they arrive."""
    address = server.address
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    body = {"prompt": PROMPT, "n_predict": n, "temperature": 0, "ignore_eos": True, "stream": True}
    with contextlib.closing(connection):
        connection.request("POST", "/completion", json.dumps(body), AS_JSON)
        for line in connection.getresponse():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])["content"]


def test_what_is_being_answered_ends_as_it_began(shared: Endpoint) -> None:
    """The change waits for it; what comes after it gets the other variant."""
    whole = "".join(streamed(shared.server, 300))
    stream = streamed(shared.server, 300)
    text = next(stream)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(shared.change, blocks="0,4")
        time.sleep(0.05)
        assert not reply.done()
        text += "".join(stream)
        assert reply.result()[0] == 200
    assert text == whole
    assert "".join(streamed(shared.server, 300)) != whole
    assert shared.change(blocks="1,3")[0] == 200


def test_a_server_that_does_not_get_idle_is_not_changed(source: Path) -> None:
    """It says so, and goes on."""
    with endpoint(source, "-n", "100000", "--context-shift", seconds=0.3) as busy:
        stream = streamed(busy.server, 100_000)
        next(stream)
        status, reply = busy.ask("PUT", {"blocks": "0,4"}, Content_Type="application/json")
        assert status == 409
        assert "was being answered for 0.3 s" in reply["error"]["message"]
        assert next(stream) is not None
        stream.close()
        assert busy.ask()[1]["spec"] == SPECS[0]


def test_requests_that_come_meanwhile_are_answered(source: Path, shared: Endpoint) -> None:
    """By the one or by the other variant, and none fails."""
    is_over = threading.Event()
    found = []

    def go_on() -> None:
        while not is_over.is_set():
            found.append(probabilities(shared.server))

    known = [probabilities(shared.server)]
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(go_on) for _ in range(2)]
        try:
            for blocks in ("0,4", "1,3") * 3:
                assert shared.change(blocks=blocks)[0] == 200
        finally:
            is_over.set()
        for other in others:
            other.result()
    assert shared.change(blocks="0,4")[0] == 200
    known.append(probabilities(shared.server))
    assert shared.change(blocks="1,3")[0] == 200
    assert len(found) > 6
    assert all(answer in known for answer in found)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_changes_take_no_memory(shared: Endpoint) -> None:
    """Nor files that stay open."""

    def held() -> tuple[int, int]:
        text = Path(f"/proc/{shared.server.pid}/smaps_rollup").read_text()
        (line,) = (line for line in text.splitlines() if line.startswith("Pss_Anon"))
        return int(line.split()[1]), len(list(Path(f"/proc/{shared.server.pid}/fd").iterdir()))

    def change_often(n: int) -> None:
        for blocks in ("0,4", "1,3") * n:
            assert shared.change(blocks=blocks)[0] == 200

    change_often(2)
    before = held()
    change_often(10)
    after = held()
    assert after[0] - before[0] < 3000  # kB; one context more each time would be 20 times 1,000
    assert after[1] <= before[1] + 2


def test_a_variant_that_gets_no_weights_is_not_served(
    shared: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried before the other one is given up."""
    headers = variant._headers
    wrong = (("blk.0.attn_q.weight", "blk.0.ffn_up.weight"),)
    monkeypatch.setattr(
        variant, "_headers", lambda *given: [replace(h, pairs=wrong) for h in headers(*given)]
    )
    before = probabilities(shared.server)
    status, reply = shared.change(blocks="0,4")
    assert status == 500
    assert "differ in type or shape" in reply["error"]["message"]
    assert probabilities(shared.server) == before
    assert shared.ask()[1]["spec"] == SPECS[0]


@pytest.mark.skipif(sys.platform != "linux", reason="changes need Linux")
def test_a_server_that_has_died_is_not_changed(source: Path) -> None:
    """The reply says so."""
    with endpoint(source) as dying:
        os.kill(dying.server.pid, signal.SIGKILL)
        status, reply = dying.ask("PUT", {"blocks": "0,4"}, Content_Type="application/json")
        assert status == 500
        assert "ended while it changed (SIGKILL)" in reply["error"]["message"]


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"blocks": "1,30"}, "30 is past the end: j is at most 6"),
        ({"layers": "0..5"}, "this is the model as it is"),
        ({"blocks": "1,3", "layers": "0..5"}, "both blocks and layers, or neither"),
        ({"damp": 0.5}, "both blocks and layers, or neither"),
        ({"blocks": 3}, "blocks or layers is not text"),
        ({"blocks": [3]}, "blocks or layers is not text"),
        ({"blocks": "1,3", "damp": 2}, "damp is not a number from 0 to 1"),
        ({"blocks": "1,3", "damp": True}, "damp is not a number from 0 to 1"),
        ({"blocks": "1,3", "damp": "x"}, "damp is not a number from 0 to 1"),
        ({"window": "1,3"}, "window means nothing here"),
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_message(
    shared: Endpoint, body: bytes | Json, message: str
) -> None:
    """As `plan` words it where the map is wrong; nothing changes."""
    status, reply = shared.ask("PUT", body, Content_Type="application/json")
    assert status == 400
    assert message in reply["error"]["message"]
    assert shared.ask()[1]["spec"] == SPECS[0]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Host": "rys.example:80"}),
        (403, {"Host": "127.0.0.1.example"}),
        (403, {"Host": ""}),
        (403, {"Origin": "http://127.0.0.1"}),
        (403, {"Origin": "null"}),
        (403, {"Sec_Fetch_Site": "cross-site"}),
        (415, {"Content_Type": "text/plain"}),
        (413, {"Content_Length": str(1 << 16 | 1)}),
        (413, {"Content_Length": "9" * 5000}),
        (411, {"Content_Length": "-1"}),
        (411, {"Content_Length": "\xb2"}),
        (404, {"path": "/rys/../x"}),
    ],
)
def test_web_pages_and_odd_requests_are_refused(
    shared: Endpoint, status: int, headers: dict[str, str]
) -> None:
    """Whatever they ask for."""
    given = {"Content_Type": "application/json", **headers}
    found, reply = shared.ask("POST", {"blocks": "0,4"}, **given)
    assert (found, reply["error"]["code"]) == (status, status)
    assert shared.ask()[1]["spec"] == SPECS[0]


def test_a_body_that_does_not_come_holds_up_nobody(shared: Endpoint) -> None:
    """Others are answered meanwhile."""
    assert shared.url.hostname is not None
    connection = http.client.HTTPConnection(shared.url.hostname, shared.url.port)
    with contextlib.closing(connection):
        connection.putrequest("PUT", "/rys")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders()
        assert shared.ask()[0] == 200


def test_changes_are_off_unless_they_are_allowed(source: Path) -> None:
    """And a key of the server is needed here, too."""
    with endpoint(source, changes=False, keys=("secret", "other")) as closed:
        refused: list[dict[str, Any]] = [
            {},
            {"Authorization": "Bearer nosecret"},
            {"X_Api_Key": "\xe9"},
        ]
        for wrong in refused:
            assert closed.ask(**wrong)[0] == 401
        accepted: list[dict[str, Any]] = [
            {"Authorization": "Bearer secret"},
            {"X_Api_Key": "other"},
        ]
        for key in accepted:
            assert closed.ask(**key)[1]["engine"] == "pointers"
        status, reply = closed.ask(
            "PUT", {"blocks": "0,4"}, Content_Type="application/json", Authorization="Bearer secret"
        )
        assert status == 403
        assert "--allow-changes" in reply["error"]["message"]
        again = Control(closed.server, some_plan(source))
        with (
            pytest.raises(EngineFailed, match="is taken: name another one with --control"),
            controlled(again, closed.url.port or 0),
        ):
            pass


def some_plan(source: Path) -> Plan:
    """Some plan."""
    with Model(source) as model:
        return make_plan(model, LayerMap.parse(SPECS[0], N_LAYERS))


def test_the_keys_are_those_of_the_server(tmp_path: Path) -> None:
    """In its arguments, its environment and its file."""
    file = tmp_path / "keys"
    file.write_text("# comment\nd\n\n")
    address = Address.of(["--api-key", "a,b", "--api_key", "c", "--api-key-file", str(file)])
    assert address.keys({"LLAMA_API_KEY": "e"}) == {"a", "b", "c", "d", "e"}
    assert address.arguments.count("c") == 1
    assert Address.of([]).keys({}) == set()
    with pytest.raises(InvalidOptions, match=r"--api-key-file .*none: cannot be read"):
        Address.of(["--api-key-file", str(tmp_path / "none")]).keys({})


def test_a_server_that_cannot_change_is_not_started(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written cannot be changed, so there is no fallback."""

    def fail(*_: object) -> None:
        raise EngineFailed("the self-test failed")

    monkeypatch.setattr(variant, "require_live", fail)
    with Model(source) as model:
        plan = make_plan(model, LayerMap.parse(SPECS[0], N_LAYERS))
        with (
            pytest.raises(EngineFailed, match="self-test"),
            serve_plan(plan, options("auto"), changeable=True),
        ):
            pass
