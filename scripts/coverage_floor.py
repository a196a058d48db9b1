"""Say what share of each folder the tests reach, and fail where that is too little.

usage: python scripts/coverage_floor.py [--floor 95]

Reads the data that `pytest --cov` left in the current folder. Lines and branches count alike. Only
the folders that turn one GGUF file into another are measured: there a line nobody has run may cost
somebody a model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HELD = ("files", "formats", "layers", "patch")


def folders(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> dict[str, tuple[int, int]]:
    """Reached and countable lines and branches by folder of the package."""
    reached: dict[str, int] = defaultdict(int)
    countable: dict[str, int] = defaultdict(int)
    for name, file in report["files"].items():
        inside = Path(name).parts[Path(name).parts.index("rys_gguf") + 1 :]
        folder = inside[0] if len(inside) > 1 else "."
        summary = file["summary"]
        reached[folder] += summary["covered_lines"] + summary["covered_branches"]
        countable[folder] += summary["num_statements"] + summary["num_branches"]
    return {folder: (reached[folder], countable[folder]) for folder in sorted(countable)}


def main() -> None:
    """Print one line per folder; exit code 1 if one is below the floor."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--floor", type=float, default=95.0, help="per cent")
    floor = parser.parse_args().floor
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(path)]
        subprocess.run(command, check=True)
        measured = folders(json.loads(path.read_text()))
    low = []
    for folder, (reached, countable) in measured.items():
        share = 100 * reached / max(1, countable)
        print(f"{folder:8} {share:5.1f} %  (at least {floor:g} %)")
        if share < floor:
            low.append(folder)
    if missing := set(HELD) - measured.keys():
        sys.exit(f"no coverage was measured in {', '.join(sorted(missing))}")
    if low:
        sys.exit(f"too little is tested in {', '.join(low)}: `coverage report` lists the lines")


if __name__ == "__main__":
    main()
