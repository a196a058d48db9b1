"""Measure what waiting threads cost on a busy machine: how fast llama.cpp reads and writes.

usage: python scripts/busy_cost.py MODEL [--threads 2] [--busy 0,1] [--pairs 5] [--engine live]

The baseline is GNU OpenMP as it is: a thread that waits for the others counts to 300,000 before it
gives its core away. With GOMP_SPINCOUNT=10000 it gives it away sooner. Both are measured in
alternating pairs, while --busy other processes need a core each. Prints a markdown table of the
medians, and of the pairs' ratios: 1 is as fast as the baseline.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf.engines.base import LIVE, SERVER, EngineOptions, Speed
from rys_gguf.engines.find import find_engine, open_engine

ENVIRONMENTS = {"baseline": (), "sooner": (("GOMP_SPINCOUNT", "10000"),)}
N_READ, N_WRITTEN = 192, 16


@contextlib.contextmanager
def busy_cores(n: int) -> Iterator[None]:
    """Processes that need a core each."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def speed(model: Path, options: EngineOptions) -> Speed:
    """Tokens per second of one engine, the second time that it is asked."""
    with open_engine(model, options) as engine:
        tokens = engine.tokenize("The quick brown fox jumps over the lazy dog. " * 64)[:N_READ]
        engine.speed(tokens, N_WRITTEN)
        return engine.speed(tokens, N_WRITTEN)


def main() -> None:
    """Print a row for each number of busy cores, reading and writing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", default="0,1")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--engine", choices=(LIVE, SERVER), default=LIVE)
    args = parser.parse_args()
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        os.environ.pop(name, None)
    print(f"{args.threads} threads, {os.cpu_count()} cores")
    print("| busy cores | work | baseline, tokens/s | sooner, tokens/s | ratio |")
    print("| ---: | --- | ---: | ---: | ---: |")
    for n_busy in map(int, args.busy.split(",")):
        found: dict[str, list[Speed]] = {kind: [] for kind in ENVIRONMENTS}
        with busy_cores(n_busy):
            for pair in range(args.pairs):
                for kind in sorted(ENVIRONMENTS, reverse=pair % 2 == 1):
                    options = EngineOptions(
                        binary=find_engine(), kind=args.engine, n_threads=args.threads,
                        environment=ENVIRONMENTS[kind],
                    )  # fmt: skip
                    found[kind].append(speed(args.model, options))
        for work in ("prompt", "generation"):
            before, after = ([getattr(s, work) for s in found[kind]] for kind in ENVIRONMENTS)
            ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
            print(
                f"| {n_busy} | {'reading' if work == 'prompt' else 'writing'} | "
                f"{statistics.median(before):.0f} | {statistics.median(after):.0f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
