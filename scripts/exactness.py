"""Patch every model of a folder by every window and see in the engine what the result computes.

usage: python scripts/exactness.py FOLDER [WINDOW ...] [--schedule portable|explicit] [--naive]
                                   [--jobs N] [--json FILE]

WINDOW is I,J as for --blocks; default: 4,8 3,5 6,7 0,1 0,12 11,12. Both schedules are tried unless
one is named. Each pair of model and window ends as one of

  exact          written, loads, and gives the base's distribution bit for bit with the copies
                 ablated and with the originals ablated
  close          the same within 1e-3 nats, or within what rounding a rescaled tensor may make
  refused        not written; for portable refusals the first window named instead is tried too
  unprovable     written and loads, but an ablated layer does not pass its input on here
  differs        written and loads, and is not what the map says: must not happen
  does-not-load  written, and the engine refuses it: must not happen
  no-base        the engine does not run the model itself

--naive writes what scripts/naive.py writes: a tool that renames tensors and raises block_count.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf import LayerMap, Model, Refused, RysError, Schedule, make_plan, write_plan
from rys_gguf.checks.prove import prove
from rys_gguf.checks.variant import VariantPair
from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.errors import EngineFailed
from scripts.naive import naive_plan

WINDOWS = ["4,8", "3,5", "6,7", "0,1", "0,12", "11,12"]
TOLERANCE = 1e-3
OPTIONS = EngineOptions(n_threads=1, load_seconds=60, answer_seconds=60)
NAMED = re.compile(r"nearest legal windows: (blocks:[0-9]+,[0-9]+)")
BAD = ("differs", "does-not-load")


def outcome(path: Path, window: str, schedule: Schedule, *, as_naive: bool) -> tuple[str, str]:
    """How one pair ends, and the message or number that belongs to it."""
    options = replace(OPTIONS, binary=find_engine())
    with tempfile.TemporaryDirectory(prefix="exactness-") as folder, Model(path) as model:
        try:
            layer_map = LayerMap.parse(f"blocks:{window}", model.n_trunk)
            plan = (
                naive_plan(model, layer_map)
                if as_naive
                else make_plan(model, layer_map, schedule=schedule)
            )
        except RysError as e:
            return "refused", str(e)
        out = Path(folder) / "out.gguf"
        write_plan(plan, out)
        try:
            proof = prove(VariantPair(out, path, layer_map), options, workdir=folder)
        except Refused as e:
            return "unprovable", str(e)
        except EngineFailed as e:
            if path.name in str(e):
                return "no-base", str(e)
            return "does-not-load", str(e)
        worst = max(r.max_difference for r in proof.results)
        if all(r.exact for r in proof.results):
            return "exact", ""
        return ("close" if proof.holds(TOLERANCE) else "differs"), f"{worst:.3g} nats"


def attempt(path: Path, window: str, schedule: Schedule, *, as_naive: bool) -> dict[str, str]:
    """One row of the report; a refusal is followed by the window it names."""
    ending, message = outcome(path, window, schedule, as_naive=as_naive)
    row = {"model": path.stem, "window": window, "schedule": schedule.value, "outcome": ending}
    if message:
        row["message"] = message
    if ending == "refused" and schedule is Schedule.PORTABLE and (named := NAMED.search(message)):
        other = named[1].removeprefix("blocks:")
        row["named"] = other
        row["named_outcome"], _ = outcome(path, other, schedule, as_naive=as_naive)
    return row


def main() -> None:
    """Try all pairs and print one line each, then the totals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("windows", nargs="*", default=WINDOWS)
    parser.add_argument("--schedule", choices=[s.value for s in Schedule])
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    schedules = [Schedule(args.schedule)] if args.schedule else list(Schedule)
    schedules = [Schedule.PORTABLE] if args.naive else schedules
    paths = sorted(args.folder.glob("*.gguf"))
    tasks = [(p, w, s) for p in paths for s in schedules for w in args.windows]
    rows = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(lambda t: attempt(*t, as_naive=args.naive), tasks):
            rows.append(row)
            # Of a refusal the second line says why.
            lines = row.get("message", "").split("\n")[:2]
            detail = f"  {lines[-1].strip()[:110]}".rstrip()
            named = f"  [{row['named']} {row['named_outcome']}]" if "named" in row else ""
            print(
                f"{row['model']:28} {row['window']:6} {row['schedule']:8} {row['outcome']:13}"
                f"{named}{detail}",
                flush=True,
            )
    for schedule in schedules:
        totals = Counter(row["outcome"] for row in rows if row["schedule"] == schedule.value)
        print(f"\n{schedule.value}: " + ", ".join(f"{k} {n}" for k, n in totals.most_common()))
    nearest = Counter(row["named_outcome"] for row in rows if "named" in row)
    counts = ", ".join(f"{k} {n}" for k, n in nearest.items())
    print(f"windows named in refusals: {counts or '-'}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    raise SystemExit(any(row["outcome"] in BAD for row in rows) and not args.naive)


if __name__ == "__main__":
    main()
