"""Target `run`: the folder of a run, as text.

The promise: any folder is either reported, with every format that `report` and `compare` write, or
refused with a RysError. What is printed or written holds no control characters, no formulas and no
elements but those of the page.

The files stand one after the other in an input, each after a line with its name.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.errors import RysError
from rys_gguf.report.comparison import comparison_lines
from rys_gguf.report.content import Content
from rys_gguf.report.data import candidates_csv, map_csv, report_json
from rys_gguf.report.page import render
from rys_gguf.report.pictures import Pictures, draw
from rys_gguf.report.terminal import text_report
from rys_gguf.report.write import questions
from rys_gguf.runs.storage import HELDOUT, INFO, ITEMS, RESULTS, SUITE, Run
from rys_gguf.stats.compare import compare
from scripts.fuzzing.base import Bytes, other_lines, require_harmless
from tests.fake_runs import make_run
from tests.report.parser import Page

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "run-0.1.0"
FILES = (INFO, RESULTS, ITEMS, SUITE, HELDOUT)
_NAME = re.compile(rb"^#(run\.json|\w+\.jsonl)\n", re.MULTILINE)
# The page takes longer than everything else, and pictures a hundred times longer: not every time.
_PAGES, _PICTURES = 4, 256
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


class Folder:
    """One folder that takes each input in turn."""

    limits = ("-rss_limit_mb=1024", "-timeout=60", "-max_len=65536")
    parts = ("runs/", "stats/", "report/")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: bytes) -> None:
        """Report the folder; any exception but RysError is a finding."""
        parts = iter(_NAME.split(data)[1:])
        for name in FILES:
            (self.folder / name).unlink(missing_ok=True)
        for file, content in zip(parts, parts, strict=True):
            (self.folder / file.decode()).write_bytes(content)
        try:
            run = Run.open(self.folder)
            report = Content.of(run)
        except RysError:
            return
        # From here on there is no reason to refuse: the records are within their bounds.
        require_harmless(text_report(run))
        with contextlib.suppress(RysError):  # not every run has answers to compare
            require_harmless(comparison_lines(compare(run, run)))
        json.loads(report_json(report), parse_constant=_refuse)
        for text in (candidates_csv(report), *map(map_csv, report.maps)):
            _require_no_formula(text)
        chance = zlib.crc32(data)
        if chance % _PAGES == 0:
            pictures = Pictures({}, None) if chance % _PICTURES else draw(report)
            _require_own_elements(render(report, pictures, questions(self.folder)))

    def seeds(self) -> Iterator[tuple[str, bytes]]:
        """A real run and a synthetic one, each with few candidates and few items."""
        files = {name: (GOLDEN / name).read_text() for name in FILES}
        finals = [x["candidate"] for x in _lines(files[RESULTS]) if x["stage"] == "final"]
        files[RESULTS] = _kept(files[RESULTS], set(finals[:3]))
        files[ITEMS] = _kept(files[ITEMS], set(finals[:3]), n_each=2)
        for name in (SUITE, HELDOUT):
            files[name] = "".join(files[name].splitlines(keepends=True)[:3])
        yield "golden", _joined(files)
        with tempfile.TemporaryDirectory() as name:
            folder = make_run(generate=True).write(Path(name) / "run")
            files = {p.name: p.read_text() for p in folder.iterdir()}
        kept = {"0-23", "0-13,10-23", "0-3,0-23"}
        files[RESULTS] = _kept(files[RESULTS], kept)
        files[ITEMS] = _kept(files[ITEMS], kept, n_each=2)
        yield "synthetic", _joined(files)

    def mutate(self, data: bytes, max_size: int, dice: random.Random, by_bytes: Bytes) -> bytes:
        """One line changed."""
        return other_lines(data, max_size, dice, by_bytes)


def _lines(text: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def _kept(text: str, candidates: set[str], n_each: int = 1 << 20) -> str:
    """Lines of some candidates, at most so many for each stage and family."""
    kept, n = [], Counter[tuple[str | None, ...]]()
    for line in text.splitlines(keepends=True):
        value = json.loads(line)
        key = tuple(value.get(name) for name in ("candidate", "stage", "family"))
        n[key] += 1
        if value["candidate"] in candidates and n[key] <= n_each:
            kept.append(line)
    return "".join(kept)


def _joined(files: dict[str, str]) -> bytes:
    if INFO in files:
        files[INFO] = json.dumps(json.loads(files[INFO])) + "\n"
    return "".join(f"#{name}\n{text}" for name, text in files.items()).encode()


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _require_no_formula(text: str) -> None:
    require_harmless(text.split("\n"))
    for row in csv.reader(io.StringIO(text)):
        for cell in (part.lstrip(' "') for whole in row for part in whole.split(";")):
            if cell.startswith(_FORMULA):
                float(cell)  # a negative number is none


def _require_own_elements(text: str) -> None:
    """No element, attribute or script of a page comes from the run."""
    page = Page(text)
    assert page.open == [], "an element stays open"
    assert not [c for c in text if not c.isprintable() and c != "\n"], "has control characters"
    assert sum(tag == "script" for tag, _ in page.tags) == 2, "has another script"  # noqa: PLR2004
    for tag, attributes in page.tags:
        assert tag not in {"img", "iframe", "object", "embed", "base", "form"}, tag
        assert not [name for name in attributes if name.startswith("on")], attributes
        links = [attributes.get(name) or "" for name in ("href", "src")]
        assert all(not link or link.startswith("#") for link in links), links
