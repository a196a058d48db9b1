"""The scan of a run: it says what the windows did and nothing else, and a wrong one is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rys_gguf.errors import RysError
from rys_gguf.runs.scan import encode_scan, prior_effects, read_scan
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.scan import scan_of
from rys_gguf.stats.verdict import search_ranking, verdicts
from tests.fake_runs import WINNER, add_map, make_run
from tests.report.test_page import hostile_run


@pytest.fixture(scope="module")
def text() -> str:
    """The scan of a run as a file."""
    return encode_scan(scan_of(make_run(0)))


def test_a_scan_says_what_the_run_found(text: str, tmp_path: Path) -> None:
    """Every window with its effects and intervals; it reads back as it was."""
    run = make_run(0)
    path = tmp_path / "scan.json"
    path.write_text(text)
    scan = read_scan(path)
    assert scan == scan_of(run)
    evidence = Evidence(run)
    ranks, judged = search_ranking(evidence).ranks, verdicts(evidence)
    assert [w.spec for w in scan.windows] == [r.trial.candidate.spec for r in ranks]
    assert [w.status for w in scan.windows].count("ok") == 19
    best = next(w for w in scan.windows if w.spec == "blocks:10,14")
    overall = judged[0].judgement.overall
    assert best.held_out is not None
    assert (best.verdict, best.held_out.mean, best.held_out.low, best.n_held_out) == (
        "better", overall.estimate, overall.likely.low, overall.n,
    )  # fmt: skip
    gain = next(r for r in ranks if r.trial.candidate.spec == "blocks:10,14").gains["math"]
    assert best.search["math"].mean == gain.mean
    assert best.search["math"].error == pytest.approx(gain.error)
    assert scan.model.sha256 == "ab" * 32


def test_a_scan_holds_no_answer_and_no_path(text: str) -> None:
    """It may be given to anybody."""
    run = make_run(0)
    run.raw["model"]["path"] = "/home/me/secret/tiny.gguf"
    run.raw["identity"]["engine"] = {"build": "b1", "arguments": ["--model", "/home/me"]}
    shared = encode_scan(scan_of(run))
    assert "/home" not in shared
    assert not any(item["item"] in shared for item in run.items)


def test_words_of_a_strangers_run_fit_in(tmp_path: Path) -> None:
    """Whatever its names are, the scan of a run can be read."""
    path = tmp_path / "scan.json"
    path.write_text(encode_scan(scan_of(hostile_run())), "utf-8")
    assert read_scan(path).windows


def test_places_are_relative(text: str, tmp_path: Path) -> None:
    """A window counts at its place among the layers; what was dropped says nothing."""
    path = tmp_path / "scan.json"
    path.write_text(text)
    scan = read_scan(path)
    effects = list(prior_effects(scan))
    assert len(effects) == 19
    best = max(effects, key=lambda e: e.mean)
    assert (best.start, best.length) == (10 / 24, 4 / 24)
    assert best.n == 88
    assert best.error > 0
    assert list(prior_effects(scan, "nonesuch")) == []


def test_other_forms_are_in_a_scan_and_tell_nothing_of_single_windows(tmp_path: Path) -> None:
    """However many windows a map takes, the file can be read."""
    run = make_run(0, final=False)
    add_map(run, ";".join(["blocks:10,11", *(f"{k},{k + 1}" for k in range(11, 14))]), WINNER)
    many = "blocks:" + ";".join([f"{k},{k + 1}" for k in range(2, 23) for _ in range(4)])
    add_map(run, many, WINNER)
    path = tmp_path / "scan.json"
    path.write_text(encode_scan(scan_of(run)))
    scan = read_scan(path)
    assert max(len(w.windows) for w in scan.windows) == 84
    assert ((10, 11), (11, 12), (12, 13), (13, 14)) in [w.windows for w in scan.windows]
    assert len(list(prior_effects(scan))) == 19


def changed(text: str, *path: Any, value: Any) -> str:
    """The scan with one field changed."""
    data: Any = json.loads(text)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 2, "schema"),
        (("format",), "else", "format"),
        (("answers",), [], "answers"),
        (("model", "n_layers"), 0, "n_layers"),
        (("model", "n_layers"), 4, "but the model has 4 layers"),
        (("model", "name"), "x" * 257, "name"),
        (("windows", 0, "windows"), [[5, 5]], r"windows\[0\] is 5,5"),
        (("windows", 0, "windows"), [[0, 1]] * 513, "windows"),
        (("windows", 0, "status"), "fine", "status"),
        (("windows", 0, "search", "overall", "mean"), 1e9, "mean"),
        (("windows", 0, "search", "overall", "mean"), "1", "mean"),
        (("windows", 0, "search", "overall", "low"), 300, "an interval without its mean"),
        (("windows", 0, "n_items"), -1, "n_items"),
        (("windows",), {}, "windows"),
    ],
)
def test_a_wrong_field_is_named(
    text: str, tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    """Sizes are bounded and types are checked."""
    file = tmp_path / "scan.json"
    file.write_text(changed(text, *path, value=value))
    with pytest.raises(RysError, match=message):
        read_scan(file)


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff", b"[]", b'{"schema": 1}'])
def test_another_file_is_no_scan(tmp_path: Path, content: bytes) -> None:
    """One message names the file."""
    file = tmp_path / "scan.json"
    file.write_bytes(content)
    with pytest.raises(RysError, match=r"^.*scan\.json: "):
        read_scan(file)


def test_a_scan_of_endless_length_is_not_read(text: str, tmp_path: Path) -> None:
    """Neither a huge file nor a huge list."""
    file = tmp_path / "scan.json"
    with file.open("wb") as out:
        out.truncate(1 << 30)
    with pytest.raises(RysError, match="at most 16"):
        read_scan(file)
    window = json.loads(text)["windows"][0]
    file.write_text(changed(text, "windows", value=[{**window, "search": {}}] * 17_000))
    with pytest.raises(RysError, match="windows"):
        read_scan(file)
