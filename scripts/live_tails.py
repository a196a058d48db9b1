"""Time windows computed as tails beside the same windows as whole variants, in one live engine.

usage: python scripts/live_tails.py MODEL [--items 32] [--most 8] [--first 0] [--step 1]
       [--threads 2] [--batches-only]

Every window of 1 to --most layers that begins at layer --first or every --step-th one after it, and
ends before the last, is asked the first --items items of the product's suite: all windows of a
start as tails, then each of them as a whole variant, all items in batches and then (unless
--batches-only) one prompt after the other, so that what else the machine does meets all alike.
Prints the sums after each start, and in the end seconds and CPU-seconds of each way, the share of
layers that a tail computes, and whether all logits of batches are the same bit for bit; the exit
code is 1 if they are not. The starts of a whole map can be shared out over several processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from rys_gguf.checks.pointers import loaded_plan
from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.engine import LiveEngine
from rys_gguf.engines.live.session import Session
from rys_gguf.engines.live.tails import Tails
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.tail import tail_plan
from rys_gguf.probes.requests import Compiler
from rys_gguf.probes.suite import build_suite

T = TypeVar("T")


@dataclass
class Asked:
    """Prompts and the tokens of their options."""

    prompts: list[tuple[int, ...]]
    ids: list[tuple[int, ...]]


class Clock:
    """Seconds, and CPU-seconds of another process."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")
        self.wall = self.cpu = 0.0

    def time(self, work: Callable[[], T]) -> T:
        """Do the work, and add what it takes."""
        start, used = time.monotonic(), self._used()
        found = work()
        self.wall += time.monotonic() - start
        self.cpu += self._used() - used
        return found

    def _used(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def asked_of(engine: LiveEngine, n_items: int) -> Asked:
    """The requests of the first items."""
    compiler = Compiler(engine, chats=False)
    requests = [r for item in build_suite().items[:n_items] for r in compiler.compile(item)]
    ids = [tuple(token for _, tokens in r.options for token in tokens) for r in requests]
    return Asked([r.tokens for r in requests], ids)


class Race:
    """Both ways over a model's windows."""

    def __init__(self, model: Model, session: Session, asked: Asked, *, single: bool) -> None:
        self._is_single = single
        self._model = model
        self._session = session
        self._asked = asked
        self._rules = ModelRules.of(model)
        self._tails = Tails(session, model.n_trunk, model.scalar("embedding_length"))
        self.tail, self.whole, self.single = (Clock(session.pid) for _ in range(3))
        self.n_windows = self.n_different = self.n_layers = self.n_whole_layers = 0

    def run(self, start: int, ends: Sequence[int]) -> None:
        """The windows of one start."""
        tails = self.tail.time(partial(self._as_tails, start, ends))
        for end, rows in zip(ends, tails, strict=True):
            whole = self.whole.time(partial(self._as_variant, start, end))
            if self._is_single:
                self.single.time(partial(self._as_variant, start, end, at_once=False))
            same = all(np.array_equal(a, b) for a, b in zip(rows, whole, strict=True))
            self.n_different += not same
            self.n_windows += 1
            self.n_layers += self._model.n_trunk - start
            self.n_whole_layers += self._model.n_trunk + end - start

    def so_far(self) -> str:
        """The sums of tails and of whole variants."""
        tail, whole = self.tail, self.whole
        return (
            f"{self.n_windows} windows, layers {self.n_layers} and {self.n_whole_layers}, CPU "
            f"{tail.cpu:.1f} and {whole.cpu:.1f} s, wall {tail.wall:.1f} and {whole.wall:.1f} s"
        )

    def _as_tails(self, start: int, ends: Sequence[int]) -> list[list[Logits]]:
        n = self._model.n_trunk
        plan = tail_plan(self._model, self._rules, LayerMap(n, tuple(range(start, n))))
        if plan is None:
            sys.exit(f"{self._model.name} has no tail from layer {start} on")
        with loaded_plan(self._session, plan) as tail:
            return self._tails.logits(tail, ends, self._asked.prompts, self._asked.ids)

    def _as_variant(self, start: int, end: int, *, at_once: bool = True) -> list[Logits]:
        layer_map = LayerMap.from_blocks([(start, end)], self._model.n_trunk)
        plan = make_plan(self._model, layer_map, provenance=False, rules=self._rules)
        prompts, ids = self._asked.prompts, self._asked.ids
        with loaded_plan(self._session, plan) as variant:
            if at_once:
                return variant.logits(prompts, ids)
            return [variant.logits([p], [i])[0] for p, i in zip(prompts, ids, strict=True)]


def main() -> None:
    """Race and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--most", type=int, default=8, help="layers of the longest window")
    parser.add_argument("--first", type=int, default=0, help="where the first window begins")
    parser.add_argument("--step", type=int, default=1, help="every how many layers to begin")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches-only", action="store_true", help="not one prompt at a time")
    args = parser.parse_args()
    options = EngineOptions(kind=LIVE, n_threads=args.threads)
    with Model(args.model) as model:
        session = Session(args.model, options)
        try:
            session.start()
            with LiveEngine(args.model, options, session) as engine:
                asked = asked_of(engine, args.items)
            race = Race(model, session, asked, single=not args.batches_only)
            last = model.n_trunk - 1
            for start in range(args.first, last, args.step):
                race.run(start, range(start + 1, min(last, start + args.most) + 1))
                print(f"from layer {start}, in all so far: {race.so_far()}", flush=True)
        finally:
            session.close()
    n_tokens = sum(map(len, asked.prompts))
    print(f"{race.n_windows} windows, {len(asked.prompts)} prompts of {n_tokens} tokens in all")
    print(f"layers of tails and of whole variants: {race.n_layers / race.n_whole_layers:.3f}")
    print(
        "| way | wall | CPU | tails' share of wall | of CPU |\n| --- | ---: | ---: | ---: | ---: |"
    )
    ways = ("tails", race.tail), ("whole variants", race.whole), ("one by one", race.single)
    for name, clock in ways[: 2 + (not args.batches_only)]:
        wall, cpu = race.tail.wall / clock.wall, race.tail.cpu / clock.cpu
        print(f"| {name} | {clock.wall:.1f} s | {clock.cpu:.1f} s | {wall:.2f} | {cpu:.2f} |")
    print(f"windows with other logits: {race.n_different}")
    sys.exit(race.n_different > 0)


if __name__ == "__main__":
    main()
