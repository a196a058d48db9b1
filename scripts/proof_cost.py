"""The cost of a proof in the live engine beside the same proof through silenced copies and servers.

usage: python scripts/proof_cost.py MODEL [SPEC] [--threads 2] [--repeats 3]

SPEC is a map as for `apply`, by default blocks:10,14; the variant goes to the folder of temporary
files and is removed. The two ways take turns. Printed are the median wall times and their ratio,
the live engine's time in forward passes, and what a proof writes: the bytes of all files that
its process and its children write, as Linux counts them. LLAMA_SERVER chooses the build of
llama.cpp for both.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from rys_gguf import LayerMap, Model, VariantPair, apply, prove
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.find import find_engine
from scripts.live_cost import MIB, messages_timed


def bytes_written() -> int:
    """Bytes that this process, and those children that have ended, have written so far."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def main() -> None:
    """Prove in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("spec", nargs="?", default="blocks:10,14")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    options = EngineOptions(find_engine(), n_threads=args.threads)
    walls: dict[str, list[float]] = {SERVER: [], LIVE: []}
    forward, written = [], dict.fromkeys(walls, 0)
    with tempfile.TemporaryDirectory() as name, Model(args.model) as model:
        out = apply(args.model, args.spec, Path(name) / "variant.gguf").paths[0]
        pair = VariantPair(out, args.model, LayerMap.parse(args.spec, model.n_trunk))
        n_bytes = out.stat().st_size
        for _ in range(args.repeats):
            for kind, found in walls.items():
                before = bytes_written()
                with messages_timed() as spent:
                    start = time.perf_counter()
                    proof = prove(pair, replace(options, kind=kind))
                    found.append(time.perf_counter() - start)
                written[kind] = bytes_written() - before
                if kind == LIVE:
                    forward.append(spent.forward)
                print(f"{kind}: {found[-1]:.2f} s, {'holds' if proof.holds() else 'refuted'}")
    theirs, ours = (statistics.median(found) for found in walls.values())
    print(f"\n{args.spec}, a variant of {n_bytes / MIB:.1f} MiB; {proof.build}\n")
    print("| a proof | silenced copies | live | ratio |")
    print("| --- | ---: | ---: | ---: |")
    print(f"| wall time | {theirs:.2f} s | {ours:.2f} s | {ours / theirs:.2f} |")
    print(f"| forward passes | | {statistics.median(forward):.2f} s | |")
    cells = [written[kind] / MIB for kind in walls]
    print(f"| written | {cells[0]:.2f} MiB | {cells[1]:.2f} MiB | |")


if __name__ == "__main__":
    main()
