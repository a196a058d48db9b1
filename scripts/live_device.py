"""What variants take in memory in the live engine, and whether a live context follows its weights.

usage: python scripts/live_device.py MODEL [--variants 20] [--size 4]

Memory is what nvidia-smi shows in use, without it the child's own pages (RssAnon). The second part
changes the window of a variant again and again while its context goes on, and asks prompts of equal
lengths several times after each change, as CUDA replays a graph only then. It is done twice: as the
live engine does it, and with llama.cpp's reuse of graphs left on, which shows what the engine would
get wrong otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.checks.pointers import loaded_plan
from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.live import link
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import Session
from rys_gguf.formats.model import Model
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.hollow import hollow, is_tied
from rys_gguf.patch.plan import Plan, make_plan
from rys_gguf.search.space import Windows, every
from scripts.live_cost import device_mib

N_PROMPTS, N_TOKENS = 16, 120
LENGTHS = (N_TOKENS, 1)  # a prompt, and a single token
N_EQUAL = 4
N_CHANGES = 6


def memory(session: Session) -> float:
    """MiB in use on the GPUs, or of the engine's own pages."""
    if (used := device_mib()) is not None:
        return used
    status = Path(f"/proc/{session.pid}/status").read_text("ascii")
    line = next(text for text in status.splitlines() if text.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def prompts_of(n_vocab: int, n: int, length: int) -> list[tuple[int, ...]]:
    """Random prompts, the same ones every time."""
    rng = np.random.default_rng(length)
    return [tuple(rng.integers(0, n_vocab, length).tolist()) for _ in range(n)]


def measure_memory(session: Session, plans: Sequence[Plan]) -> None:
    """Print what the variants of the plans take, one after the other."""
    prompts = prompts_of(session.base.n_vocab, N_PROMPTS, N_TOKENS)
    loaded = memory(session)
    session.base.logits(prompts)
    asked = memory(session)
    print(f"base: {loaded:.0f} MiB loaded, {asked:.0f} MiB with its context")
    weights, contexts = [], []
    for plan in plans:
        before = memory(session)
        with loaded_plan(session, plan) as variant:
            made = memory(session)
            variant.logits(prompts)
            weights.append(made - before)
            contexts.append(memory(session) - made)
    after = memory(session)
    print(f"{len(plans)} variants of {plans[0].layer_map.n_added} more layers, one at a time:")
    for name, found in (("made", weights), ("with a context", contexts)):
        print(f"  {name}: {statistics.median(found):+.0f} MiB, at most {max(found):+.0f} MiB")
    print(f"  after all of them: {after - asked:+.0f} MiB")


def ask(loaded: Loaded, prompt: tuple[int, ...]) -> list[Logits]:
    """The logits after a prompt, asked several times."""
    return [loaded.logits([prompt])[0] for _ in range(N_EQUAL)]


def follow(session: Session, pair: Sequence[Plan]) -> str:
    """How many answers are those of the window that the pointers show at the time."""
    prompts = [prompts_of(session.base.n_vocab, 1, length)[0] for length in LENGTHS]
    expected = []
    for plan in pair:
        with loaded_plan(session, plan) as fresh:
            expected.append([fresh.logits([prompt])[0] for prompt in prompts])
    untied = is_tied(pair[0].model) and session.holds_embedding_twice()
    targets = [hollow(plan, untied=untied).pairs for plan in pair]
    n = n_right = n_other = 0
    with loaded_plan(session, pair[0]) as variant:
        for k, prompt in enumerate(prompts):
            for change in range(N_CHANGES):
                now = change % 2
                session.point(variant, targets[now])
                for logits in ask(variant, prompt):
                    n += 1
                    n_right += np.array_equal(logits, expected[now][k])
                    n_other += np.array_equal(logits, expected[1 - now][k])
    return f"{n_right} of {n} answers are the window's own, {n_other} are the other window's"


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--variants", type=int, default=20)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    options = EngineOptions(find_engine(), kind=LIVE, n_threads=args.threads)
    with Model(args.model) as model, contextlib.closing(Session(args.model, options)) as session:
        found = every(Windows(model, Schedule.PORTABLE), [args.size]).candidates
        chosen = found[:: max(1, len(found) // args.variants)][: args.variants]
        plans = [make_plan(model, c.layer_map, provenance=False) for c in chosen]
        session.start()
        print(session.build)
        measure_memory(session, plans)
        pair = (plans[len(plans) // 3], plans[2 * len(plans) // 3])
        print(f"windows changed in a live context: {follow(session, pair)}")
        session.close()
        with mock.patch.object(link, "_ENVIRONMENT", {}):
            session.restart()
        print(f"with graphs reused: {follow(session, pair)}")


if __name__ == "__main__":
    main()
