"""Prove right and wrong variants of tiny models in both ways, and compare all that the proofs say.

usage: python scripts/live_proofs.py [--arch NAME ...] [--server]

The one way makes silenced copies of a file, which llama.cpp loads in a process of the tests, or
with --server in its server. The other is the live engine, where a silenced model shares what is not
silenced. For each architecture that a proof can serve these variants are judged:

  right    what `apply` writes for a map that the rules allow
  naive    what a tool writes that knows no rule, for blocks that may change their kind
  moved    the right variant of other blocks than those that the map says
  other    a model with other weights

A pair of proofs ends as

  identical   every figure is the same: both hold, both refute, or llama.cpp does not run the model
  same        the verdict and the outputs that differ are the same, the figures are not: a server
              gives log-probabilities in single precision
  different   anything else

The exit code is 1 if any pair is different, or if a moved or another model was not refuted.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf import LayerMap, Model, Plan, Schedule, make_plan, write_plan
from rys_gguf.checks import edited
from rys_gguf.checks.prove import prove
from rys_gguf.checks.variant import VariantPair
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine, open_engine
from rys_gguf.errors import Refused, RysError
from rys_gguf.layers.architectures import ARCHITECTURES
from scripts.naive import naive_plan
from tests import tiny
from tests.direct import DirectEngine

N_LAYERS = 12
# What most rules allow: whole periods, on one side of leading and of last layers.
RIGHT = ("layers:0..3,3,8..11", "layers:0..11,4..11", "layers:0..3,0..11", "layers:0..5,0..11")
NAIVE = ("blocks:3,5", "blocks:9,12")
IDENTICAL, SAME, DIFFERENT = "identical", "same", "different"
REFUTED = ("moved", "other")
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
OPTIONS = EngineOptions(find_engine(), n_threads=1, load_seconds=60, answer_seconds=60)


def variants(source: Path, arch: str, folder: Path) -> Iterator[tuple[str, VariantPair]]:
    """The variants of a model, each with its name."""
    with Model(source) as model:
        plan = _right(model)
        if plan is not None:
            write_plan(plan, folder / "right.gguf")
            yield "right", VariantPair(folder / "right.gguf", source, plan.layer_map)
            other = LayerMap(N_LAYERS, (*plan.layer_map.sources[1:], 0))
            yield "moved", VariantPair(folder / "right.gguf", source, other)
        for n, spec in enumerate(NAIVE):
            out = folder / f"naive{n}.gguf"
            plan = naive_plan(model, LayerMap.parse(spec, N_LAYERS))
            write_plan(plan, out)
            yield "naive", VariantPair(out, source, plan.layer_map)
    tiny.write(folder / "other.gguf", arch, N_LAYERS, seed=1)
    yield "other", VariantPair(folder / "other.gguf", source, LayerMap.identity(N_LAYERS))


def _right(model: Model) -> Plan | None:
    for spec in RIGHT:
        for schedule in (Schedule.EXPLICIT, Schedule.PORTABLE):
            with contextlib.suppress(Refused):
                return make_plan(model, LayerMap.parse(spec, N_LAYERS), schedule=schedule)
    return None


def proved(pair: VariantPair, kind: str) -> dict[str, Any]:
    """All that a proof says, or the kind of error in its place."""
    try:
        proof = prove(pair, replace(OPTIONS, kind=kind))
    except RysError as e:
        # Each way has its own words for what llama.cpp says.
        return {"verdict": type(e).__name__}
    said = {k: v for k, v in proof.as_json().items() if k != "build"}
    return {"verdict": "holds" if proof.holds() else "refuted", **said}


def compared(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """How a pair of proofs ends."""
    if theirs == ours:
        return IDENTICAL
    keys = ("verdict", "differing", "all_found", "rescaled")
    return SAME if all(theirs.get(k) == ours.get(k) for k in keys) else DIFFERENT


def main() -> None:
    """Judge the variants of all architectures and print a line for each."""
    args = _arguments()
    provable = [
        arch
        for arch in sorted(tiny.ARCHITECTURES.keys() - tiny.WITHOUT_NEXT_TOKEN)
        if not ARCHITECTURES[arch].unprovable
    ]
    totals: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    wrong = False
    with DirectEngine() as engine:
        for arch in args.arch or provable:
            counts: Counter[str] = Counter()
            with (
                tempfile.TemporaryDirectory(dir=MEMORY) as name,
                mock.patch.object(
                    edited,
                    "open_engine",
                    open_engine if args.server else engine.open_engine,
                ),
            ):
                folder = Path(name)
                source = tiny.write(folder / "source.gguf", arch, N_LAYERS)
                for kind_of, pair in variants(source, arch, folder):
                    said = {}
                    for kind in (SERVER, LIVE):
                        start = time.perf_counter()
                        said[kind] = proved(pair, kind)
                        spent[kind] += time.perf_counter() - start  # type: ignore[assignment]
                    ending, verdict = compared(*said.values()), said[LIVE]["verdict"]
                    counts[f"{kind_of} {verdict}, {ending}"] += 1
                    totals[ending] += 1
                    if ending == DIFFERENT:
                        print(
                            f"{ending}: {arch} {kind_of} {pair.layer_map.spec}",
                            *said.values(),
                            sep="\n  ",
                        )
                    wrong |= ending == DIFFERENT or (kind_of in REFUTED and verdict == "holds")
            print(f"{arch:20}", "; ".join(f"{k} {n}" for k, n in counts.items()), flush=True)
    print(", ".join(f"{kind} {n}" for kind, n in totals.items()))
    print(f"copies {spent[SERVER]:.0f} s, live {spent[LIVE]:.0f} s")
    raise SystemExit(wrong)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", action="append", choices=sorted(tiny.ARCHITECTURES))
    parser.add_argument("--server", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
