"""README and docs tell what is there: every command, name and field, and no link leads nowhere."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import rys_gguf
from rys_gguf.cli import main
from rys_gguf.probes import item
from rys_gguf.report.content import Content
from rys_gguf.report.pictures import Picture, Pictures
from rys_gguf.runs import records, scan
from scripts.docs import ROOT, RUN, pages

TEXTS = [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FIRST_CELL = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of commands and code."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by, as GitHub names them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(prose(page))
    }


def first_cells(page: str, heading: str) -> set[str]:
    """The names in the first column of the table under a heading, up to the next heading."""
    _, found, rest = prose(ROOT / "docs" / page).partition(f"\n{heading}\n")
    assert found, f"docs/{page} has no {heading}"
    section = re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return set(FIRST_CELL.findall(section))


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and headings that are linked to are there."""
    for match in LINK.finditer(prose(page)):
        path, anchor = match["path"], match["anchor"]
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    """Nobody looks for a page that nothing points to."""
    linked = {match["path"] for match in LINK.finditer(prose(ROOT / "README.md"))}
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in linked


def test_the_readme_is_short() -> None:
    """Everything beyond the first steps has a page of its own."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_has_help(name: str) -> None:
    """Each command says what it is for; docs/commands.md shows it."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert len(command.help or "") > 40
    assert f"\n## {name}\n" in (ROOT / "docs" / "commands.md").read_text()


def test_the_table_of_names_is_that_of_the_package() -> None:
    """docs/api.md lists every public name and no other, and each loads on first use."""
    documented = set(FIRST_CELL.findall(prose(ROOT / "docs" / "api.md"))) | {"__version__"}
    assert documented == set(rys_gguf.__all__)
    for name in rys_gguf.__all__:
        assert getattr(rys_gguf, name) is not None
    with pytest.raises(AttributeError):
        _ = rys_gguf.nonesuch


RECORDS: list[tuple[str, type[msgspec.Struct]]] = [
    ("## run.json", records.RunInfo),
    ("### model", records.ModelInfo),
    ("### plan", records.PlanInfo),
    ("### illegal", records.IllegalWindow),
    ("### floors", records.Baseline),
    ("## results.jsonl", records.StageResult),
    ("### seconds", records.Times),
    ("## items.jsonl", records.ItemAnswer),
    ("## progress.json", records.Progress),
]

SCAN: list[tuple[str, type[msgspec.Struct]]] = [
    ("## Scan", scan.Scan),
    ("### The scan's model", scan.ScanModel),
    ("### The scan's windows", scan.ScanWindow),
    ("### The scan's effects", scan.ScanEffect),
]


@pytest.mark.parametrize(
    ("heading", "record"), [*RECORDS, *SCAN], ids=lambda value: str(value)[:20]
)
def test_every_field_of_a_run_is_documented(heading: str, record: type[msgspec.Struct]) -> None:
    """docs/run-folder.md lists the fields of each record under the names they have on disk."""
    names = {field.encode_name for field in msgspec.structs.fields(record)}
    assert first_cells("run-folder.md", heading) == names


def test_every_record_of_a_run_is_documented() -> None:
    """A record that is new in the format has a table."""
    kinds = {
        value for value in vars(records).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct)
    } - {msgspec.Struct}  # fmt: skip
    assert kinds == {record for _, record in RECORDS}


def test_every_field_of_an_item_is_documented() -> None:
    """docs/run-folder.md lists what a line of a suite may hold."""
    kinds = (item.Choice, item.Number, item.Ratings, item.Contrast)
    names = {"kind"} | {name for kind in kinds for name in kind.__dataclass_fields__}
    assert first_cells("run-folder.md", "## suite.jsonl and heldout.jsonl") == names


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a recorded run, with empty pictures: only its data are read here."""

    def draw(content: Content) -> Pictures:
        return Pictures({heatmap.name: Picture("", b"") for heatmap in content.maps}, None)

    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rys_gguf.report.pictures.draw", draw)
        rys_gguf.write_report(rys_gguf.Run.open(RUN), folder)
    return folder


def test_every_field_of_a_report_is_documented(report: Path) -> None:
    """docs/run-folder.md lists what report.json holds, level by level."""
    found = json.loads((report / "report.json").read_text())
    verdict, window = found["verdicts"][0], found["ranking"][0]
    parts: dict[str, dict[str, Any]] = {
        "## report.json": found,
        "### run": found["run"],
        "### verdicts": verdict,
        "### overall": verdict["families"][0],
        "### noise": found["noise"]["overall"],
        "### ranking": window,
    }
    for heading, part in parts.items():
        assert first_cells("run-folder.md", heading) == part.keys(), heading


def test_every_column_of_a_table_is_documented(report: Path) -> None:
    """docs/run-folder.md lists the columns of report.csv and of the maps."""
    for heading, name in (("## report.csv", "report.csv"), ("## map-*.csv", "map-overall.csv")):
        with (report / name).open(newline="") as file:
            columns = next(csv.reader(file))
        general = {re.sub("^(overall|math)_", "FAMILY_", column) for column in columns}
        assert first_cells("run-folder.md", heading) == general


def test_promises_name_their_tests() -> None:
    """The page on security names the file that holds each promise."""
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 10
    for name in set(named) - {"scripts/fuzz.py"}:
        assert (ROOT / "tests" / name).is_file(), name
