"""What a served variant takes: made of pointers, and from its file; and whether the two agree.

usage: python scripts/serve_cost.py MODEL SPEC [--threads N] [--change SPEC]
       [-- SERVER_ARGUMENTS...]

Serves the model as it is, the variant that SPEC names (such as blocks:10,14) from pointers, and the
same from a file. Prints, for each, the time to the first answer, the memory of the server's process
(RSS, PSS: shared pages by their share, and what of it is not backed by files), the disk that was
taken meanwhile, and with nvidia-smi the memory in use on the GPUs. Then it compares what the two
variants write, with the probabilities of the likeliest tokens, bit for bit.

With --change a running server is changed to that map and back, ten times. Prints the median and the
longest time of a change, the memory of the process and of the GPUs after the first two changes and
after all of them, and whether the answers are those of a server that was started with the map.

LLAMA_SERVER chooses the build of llama.cpp; otherwise it is the package xllamacpp.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.stock import StockServer
from rys_gguf.formats.model import Model
from rys_gguf.patch.apply import parse_spec
from rys_gguf.patch.plan import Plan, make_plan
from rys_gguf.serve.variant import change_plan, serve_file, serve_plan
from rys_gguf.text import size
from scripts.live_cost import device_mib

PROMPTS = (
    "The capital of France is",
    "A prime number is one that",
    "Once upon a time, in a village by the sea, there lived",
)
N_CHANGES = 10
_FIELD = re.compile(r"^(Rss|Pss|Pss_Anon|Private_Clean|Private_Dirty): +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """What a server takes; memory in bytes, on GPUs in MiB beyond what was in use before."""

    seconds: float
    rss: int
    pss: int
    anonymous: int
    disk: str
    gpu: int | None
    answers: list[Any]


def measured(
    open_server: Callable[[Callable[[str], None]], AbstractContextManager[StockServer]],
) -> Cost:
    """Start a server, ask it, and look at its process while it runs."""
    told: list[str] = []
    before = device_mib()
    start = time.perf_counter()
    with open_server(told.append) as server:
        found = [completion(server, PROMPTS[0])]
        seconds = time.perf_counter() - start
        found += rest_of_answers(server)
        memory = memory_of(server.pid)
        gpu = None if before is None else (device_mib() or 0) - before
    disk = next((line for line in told if "disk" in line or "file" in line), "nothing")
    return Cost(seconds, memory["Rss"], memory["Pss"], memory.get("Pss_Anon", 0), disk, gpu, found)


def rest_of_answers(server: StockServer) -> list[Any]:
    """The answers to all questions but the first."""
    return [*(completion(server, prompt) for prompt in PROMPTS[1:]), chat(server)]


def change_often(plan: Plan, other: Plan, options: EngineOptions) -> None:
    """Change a running server to another plan and back, ask it, and print what that takes."""
    with serve_plan(other, options) as server:
        expected = answers_of(server)
    before = device_mib()
    seconds: list[float] = []
    same = True
    with serve_plan(plan, options, changeable=True) as server:
        first = answers_of(server)
        for n in range(N_CHANGES):
            start = time.perf_counter()
            change_plan(server, (other, plan)[n % 2], 30)
            seconds.append(time.perf_counter() - start)
            same = answers_of(server) == (expected, first)[n % 2] and same
            if n in {1, N_CHANGES - 1}:
                memory = memory_of(server.pid)
                gpu = "" if before is None else f", GPU {(device_mib() or 0) - before} MiB"
                print(f"after {n + 1} changes: PSS {size(memory['Pss'])}{gpu}")
    print(
        f"a change takes {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s; answers "
        f"are {'the same, bit for bit' if same else 'not the same'}"
    )


def answers_of(server: StockServer) -> list[Any]:
    """The answers to all questions."""
    return [completion(server, PROMPTS[0]), *rest_of_answers(server)]


def memory_of(pid: int) -> dict[str, int]:
    """The memory of a process in bytes, as Linux counts it (proc_pid_smaps(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    return {name: int(value) << 10 for name, value in _FIELD.findall(text)}


def completion(server: StockServer, prompt: str) -> Any:
    """What is written after a prompt, and the probabilities of the likeliest tokens."""
    body = {"prompt": prompt, "n_predict": 24, "temperature": 0, "n_probs": 20}
    reply = ask(server, "/completion", body)
    return [reply["content"], reply["completion_probabilities"]]


def chat(server: StockServer) -> Any:
    """An answer in a chat."""
    body = {
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip
    return ask(server, "/v1/chat/completions", body)["choices"]


def ask(server: StockServer, path: str, body: dict[str, Any]) -> Any:
    """The reply to a request."""
    request = urllib.request.Request(
        server.address.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def log_probabilities(value: Any) -> Iterator[float]:
    """Every log-probability in an answer, in order."""
    if isinstance(value, dict):
        if isinstance(value.get("logprob"), float):
            yield value["logprob"]
        for part in value.values():
            yield from log_probabilities(part)
    elif isinstance(value, list):
        for part in value:
            yield from log_probabilities(part)


def written_texts(answers: list[Any]) -> Iterator[str]:
    """What was written, without the probabilities."""
    for answer in answers:
        yield answer[0] if isinstance(answer[0], str) else answer[0]["message"]["content"]


def show(name: str, cost: Cost) -> None:
    """One line for a server."""
    gpu = "" if cost.gpu is None else f", GPU {cost.gpu} MiB"
    print(
        f"{name:9} first answer {cost.seconds:6.2f} s, RSS {size(cost.rss)}, PSS {size(cost.pss)} "
        f"({size(cost.anonymous)} anonymous){gpu}; disk: {cost.disk}"
    )


def main() -> None:
    """Measure, print, compare."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("model", type=Path)
    arguments.add_argument("spec")
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--change", metavar="SPEC")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    given = arguments.parse_args(words[:end])
    rest = ("-c", "2048", "--parallel", "1", *words[end + 1 :], "--port", "0")
    binary = find_engine()

    def options(kind: str) -> EngineOptions:
        return EngineOptions(binary, rest, kind, n_threads=given.threads)

    with Model(given.model) as model:
        plan = make_plan(model, parse_spec(model, given.spec))
        print(f"{'xllamacpp' if binary is None else binary}: {model.name}, {given.spec}")
        show("model", measured(lambda _: serve_file(given.model, options(SERVER))))
        pointed = measured(lambda say: serve_plan(plan, options(LIVE), say))
        show("pointers", pointed)
        again = measured(lambda say: serve_plan(plan, options(LIVE), say))
        show("again", again)
        written = measured(lambda say: serve_plan(plan, options(SERVER), say))
        show("file", written)
        if given.change is not None:
            change_often(plan, make_plan(model, parse_spec(model, given.change)), options(LIVE))
    texts = [list(written_texts(cost.answers)) for cost in (pointed, written)]
    distance = max(
        (abs(a - b) for a, b in zip(
            log_probabilities(pointed.answers), log_probabilities(written.answers), strict=False
        )),
        default=0.0,
    )  # fmt: skip
    same = "the same, bit for bit" if pointed.answers == written.answers else (
        f"{'the same texts' if texts[0] == texts[1] else 'other texts'}, {distance:.3g} nats apart"
    )  # fmt: skip
    print(f"answers of the two variants: {same}")
    if pointed.answers != again.answers:
        print("(the device does not repeat itself bit for bit)")


if __name__ == "__main__":
    main()
