"""Fuzz one part of the package, guided by the coverage of its code.

usage: python scripts/fuzz.py TARGET CORPUS [libFuzzer option ...]

TARGET is one of:

  reader      the bytes of a GGUF file
  plan        the same, up to the plan of a variant
  spec        a layer spec
  recipe      a recipe of mergekit
  suite       a file of items
  windows     a list of windows
  run         the folder of a sweep, up to its report
  validation  what `validate` saved, up to a model card

CORPUS is a folder, made if it is missing; the target's seeds are put into it. Every input either
keeps the target's promise, which its module in scripts/fuzzing states, or is left in the current
folder as a file crash-*, timeout-* or oom-*. At the end the executions and libFuzzer's coverage are
printed, and the lines and branches of the package that the corpus reaches.

To keep an input as a test, put it into tests/seeds/TARGET under a name that says what it shows.
Needs atheris (PyPI; Linux and macOS). Run for 20 minutes: -max_total_time=1200.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.fuzzing.base import Target

NAMES = ("reader", "plan", "spec", "recipe", "suite", "windows", "run", "validation")
# What this script calls itself with: the package is loaded once to be fuzzed, once to be measured.
FUZZ, MEASURE = "--fuzz", "--measure"
STATUS = re.compile(r"^#\d+\s.*\bcov: (\d+)")
EXECUTIONS = re.compile(r"^stat::number_of_executed_units:\s*(\d+)")


def target(name: str, folder: Path) -> Target:
    """The target of that name; its files go to the folder."""
    from scripts.fuzzing.headers import Headers
    from scripts.fuzzing.runs import Folder
    from scripts.fuzzing.texts import Items, Recipe, Spec, Validation, WindowList

    made: dict[str, Callable[[Path], Target]] = {
        "reader": partial(Headers, plans=False),
        "plan": partial(Headers, plans=True),
        "spec": Spec,
        "recipe": Recipe,
        "suite": Items,
        "windows": WindowList,
        "run": Folder,
        "validation": Validation,
    }
    return made[name](folder)


def kept(name: str) -> list[Path]:
    """The inputs that once broke a target's promise."""
    return sorted((ROOT / "tests" / "seeds" / name).glob("*"))


def fuzz(name: str, corpus: Path, options: list[str]) -> None:
    """Seed the corpus and fuzz until an option or a finding ends the process."""
    import atheris

    # In the TMPDIR that `_run` removes: libFuzzer ends this process without a word.
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    with atheris.instrument_imports(include=["rys_gguf"]):
        called = target(name, folder)
    corpus.mkdir(parents=True, exist_ok=True)
    for seed, data in called.seeds():
        (corpus / f"seed-{seed}").write_bytes(data)
    for path in kept(name):
        (corpus / f"kept-{path.name}").write_bytes(path.read_bytes())

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return called.mutate(data, max_size, random.Random(seed), by_bytes)

    def by_bytes(data: bytes, max_size: int) -> bytes:
        return bytes(atheris.Mutate(data, max_size))

    def checked(data: bytes) -> None:
        try:
            called(data)
        except BaseException:
            # libFuzzer's own timer may end the process before libFuzzer has written it.
            Path(f"{prefix}crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            raise

    prefixes = [o.partition("=")[2] for o in options if o.startswith("-artifact_prefix=")]
    prefix = prefixes[-1] if prefixes else ""
    argv = [sys.argv[0], *called.limits, "-print_final_stats=1", str(corpus), *options]
    atheris.Setup(argv, checked, custom_mutator=mutate)
    atheris.Fuzz()


def measure(name: str, corpus: Path) -> None:
    """Run the whole corpus again, and print what it reaches of the modules it is about."""
    import coverage

    measured = coverage.Coverage(data_file=None, source_pkgs=["rys_gguf"], branch=True)
    measured.start()
    paths = sorted(corpus.iterdir())
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        called = target(name, Path(folder))
        for path in paths:
            called(path.read_bytes())
        measured.stop()
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_text())["files"]
    print(f"lines and branches that {len(paths)} inputs reach:")
    total = [0, 0]
    for file_name, file in files.items():
        module = file_name.rpartition("rys_gguf/")[2]
        if module.startswith(called.parts):
            summary = file["summary"]
            reached = summary["covered_lines"] + summary["covered_branches"]
            countable = summary["num_statements"] + summary["num_branches"]
            total = [total[0] + reached, total[1] + countable]
            _show(module, reached, countable)
    _show("together", *total)


def _show(name: str, reached: int, countable: int) -> None:
    share = 100 * reached / max(1, countable)
    print(f"  {name:32} {reached:5} of {countable:5}, {share:5.1f} %")


def main() -> None:
    """Fuzz in a child process, and then say how much was run and reached."""
    if sys.argv[1:2] == [FUZZ]:
        fuzz(sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
        return
    if sys.argv[1:2] == [MEASURE]:
        measure(sys.argv[2], Path(sys.argv[3]))
        return
    if len(sys.argv) < 3 or sys.argv[1] not in NAMES:  # noqa: PLR2004 - target and corpus
        sys.exit(__doc__)
    sys.exit(_run(sys.argv[1], sys.argv[2], sys.argv[3:]))


def _run(name: str, corpus: str, options: list[str]) -> int:
    """Fuzz in one process, measure in another, and return the exit code of the first."""
    executions = reached = "unknown"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        # The process ends without tidying up: what it makes is in here.
        environment = {**os.environ, "TMPDIR": folder}
        command = [sys.executable, __file__, FUZZ, name, corpus, *options]
        with subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
        ) as child:
            assert child.stderr is not None
            for line in child.stderr:
                print(line, end="", file=sys.stderr)
                if match := STATUS.match(line):
                    reached = match[1]
                if match := EXECUTIONS.match(line):
                    executions = match[1]
    code = child.returncode
    print(f"{name}: {executions} executions, cov {reached}, exit code {code}", flush=True)
    if subprocess.run([sys.executable, __file__, MEASURE, name, corpus], check=False).returncode:
        print("no coverage: an input of the corpus breaks the promise, see above")
    return code


if __name__ == "__main__":
    main()
