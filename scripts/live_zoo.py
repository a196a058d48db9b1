"""Run random maps of tiny models in the live engine, and compare with the written files.

usage: python scripts/live_zoo.py [--maps N] [--seed S] [--arch NAME ...] [--max-layers N]
       python scripts/live_zoo.py --case JSON

For each architecture random maps are drawn until N of them may be written. Each is run twice: as a
variant that shares the weights of the loaded base, and as the file that is written. Prompts of
several lengths are asked together, and tokens one at a time after some of them. A case ends as

  same        the logits are the same bit for bit, and those of the base only if the map is
              the identity
  refused     the rules do not allow the map
  no base     llama.cpp does not run the model itself
  no memory   a model that computes all tokens at once, which the live engine leaves to the server
  wrong       anything else

One line for each architecture counts them, and the variants with rarer parts. The exit code is 1
if any case is wrong. --case runs one case, as it is printed, once more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import tiny
from tests.live_maps import OUTCOMES, PARTS, WRONG, compare, outcomes
from tests.random_maps import Case


def main() -> None:
    """Run all cases and print the table."""
    args = _arguments()
    if args.case:
        outcome = compare(Case.from_json(args.case))
        print(f"{outcome.kind} ({', '.join(outcome.parts)}): {outcome.why}")
        raise SystemExit(outcome.kind == WRONG)
    archs = args.arch or sorted(tiny.ARCHITECTURES)
    width = max(map(len, ["architecture", *archs]))
    heads = [*OUTCOMES, *PARTS]
    print("  ".join([f"{'architecture':{width}}", *heads, "seconds"]))
    totals: Counter[str] = Counter()
    start = time.monotonic()
    for arch in archs:
        counts: Counter[str] = Counter()
        begin = time.monotonic()
        for case, outcome in outcomes(arch, args.maps, args.seed, args.max_layers):
            counts.update([outcome.kind, *outcome.parts])
            if outcome.kind == WRONG:
                print(f"wrong: {case.as_json()}\n  {outcome.why}")
        print(_line(f"{arch:{width}}", heads, counts, time.monotonic() - begin), flush=True)
        totals.update(counts)
    print(_line(f"{'all':{width}}", heads, totals, time.monotonic() - start))
    raise SystemExit(bool(totals[WRONG]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--maps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arch", action="append", choices=sorted(tiny.ARCHITECTURES))
    parser.add_argument("--max-layers", type=int, default=30)
    parser.add_argument("--case")
    return parser.parse_args()


def _line(name: str, heads: list[str], counts: Counter[str], seconds: float) -> str:
    cells = [f"{counts[head] or '-':>{len(head)}}" for head in heads]
    return "  ".join([name, *cells, f"{seconds:7.0f}"])


if __name__ == "__main__":
    main()
