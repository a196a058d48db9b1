"""Patch tiny models of every architecture by random maps, and judge each in the real engine.

usage: python scripts/random_maps.py [--examples N] [--minutes M] [--seed S] [--arch NAME ...]
                                     [--max-layers N] [--log FILE]
       python scripts/random_maps.py --case JSON

The architectures take turns. Every case ends as one of

  exact                 written, and computes what a plain rewrite of the model computes, bit for
                        bit; a proof agrees, or is counted under "no proof"
  within tolerance      the same, but the plan rescaled data, which rounds
  refused, confirmed    not written, and no plain rewrite computes what the map says
  refused, unprovable   not written; nothing tells here what a plain rewrite computes, or the
                        reason does not show in the logits of a short text
  over-refused          not written, although a plain rewrite computes what the map says
  no base               llama.cpp does not run the model itself
  wrong                 written, and not what the map says; or a refusal with false advice

Each is a line of FILE (default: random_maps.jsonl). With a FILE that exists the run goes on after
its last case. --case judges one case, as it stands in FILE, once more. The exit code is 1 if any
case is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import tiny
from tests.direct import DirectEngine
from tests.random_maps import CLOSE, EXACT, OUTCOMES, OVER, WRONG, Case, Judgement, judge
from tests.strategies import drawn

# Cases of one architecture before the next has its turn.
_TURN = 10


def main() -> None:
    """Judge cases until there are enough, and print the table."""
    args = _arguments()
    if args.case:
        with DirectEngine() as engine:
            judgement = judge(Case.from_json(args.case), engine)
        print(f"{judgement.outcome} (proof: {judgement.proof or '-'}): {judgement.why}")
        raise SystemExit(judgement.outcome == WRONG)
    rows = _read(args.log)
    done = {json.dumps(row["case"]) for row in rows}
    ends = time.monotonic() + args.minutes * 60 if args.minutes else float("inf")
    archs = args.arch or sorted(tiny.ARCHITECTURES)
    with (
        args.log.open("a") as log,
        tqdm(total=args.examples, unit="map", smoothing=0.05) as bar,
        DirectEngine() as engine,
    ):
        bar.update(min(len(rows), args.examples))
        for case in _cases(archs, args.seed, args.max_layers):
            if len(rows) >= args.examples or time.monotonic() >= ends:
                break
            if case.as_json() in done:
                continue
            row = _row(case, engine)
            rows.append(row)
            done.add(case.as_json())
            log.write(json.dumps(row) + "\n")
            log.flush()
            bar.update()
            if row["outcome"] in (WRONG, OVER):
                bar.write(f"{row['outcome']}: {json.dumps(row['case'])}\n  {row['why']}")
    print_table(rows)
    raise SystemExit(any(row["outcome"] == WRONG for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arch", action="append", choices=sorted(tiny.ARCHITECTURES))
    parser.add_argument("--max-layers", type=int, default=130)
    parser.add_argument("--log", type=Path, default=Path("random_maps.jsonl"))
    parser.add_argument("--case")
    return parser.parse_args()


def _read(log: Path) -> list[dict[str, Any]]:
    """The rows of a log that may not exist; half a line at its end, of a run killed, goes."""
    text = log.read_text() if log.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        log.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def _cases(archs: list[str], seed_: int, max_layers: int) -> Iterator[Case]:
    """Cases without end; equal arguments give equal cases."""
    turn = 0
    while True:
        for arch in archs:
            yield from drawn(arch, _TURN, f"{seed_}/{turn}/{arch}", max_layers)
        turn += 1


def _row(case: Case, engine: DirectEngine) -> dict[str, Any]:
    try:
        judgement = judge(case, engine)
    except Exception as e:  # noqa: BLE001 - what only a bug can raise is a finding like others
        judgement = Judgement(WRONG, f"{type(e).__name__}: {e}")
    return {"case": json.loads(case.as_json()), **dataclasses.asdict(judgement)}


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line per architecture: how many cases ended in which way."""
    counts = Counter((row["case"]["arch"], row["outcome"]) for row in rows)
    unproven = Counter(
        row["case"]["arch"] for row in rows if row["outcome"] == EXACT and row["proof"] != EXACT
    )
    archs = sorted({row["case"]["arch"] for row in rows})
    width = max(map(len, ["architecture", *archs]))
    heads = ["maps", "written", EXACT, CLOSE, "no proof", *OUTCOMES[2:]]
    print("  ".join([f"{'architecture':{width}}", *heads]))
    for arch in [*archs, "all"]:
        own = archs if arch == "all" else [arch]
        numbers = {outcome: sum(counts[a, outcome] for a in own) for outcome in OUTCOMES}
        written = numbers[EXACT] + numbers[CLOSE] + numbers[WRONG]
        cells = [sum(numbers.values()), written, numbers[EXACT], numbers[CLOSE]]
        cells += [sum(unproven[a] for a in own), *(numbers[o] for o in OUTCOMES[2:])]
        shown = [f"{n or '-':>{len(head)}}" for head, n in zip(heads, cells, strict=True)]
        print("  ".join([f"{arch:{width}}", *shown]))


if __name__ == "__main__":
    main()
