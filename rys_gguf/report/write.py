"""What `rys-gguf report` shows and writes: a page, maps, tables, and lines for the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from rys_gguf.errors import OutputFailed
from rys_gguf.report.heatmap import csv_text, maps, save_png, text_map
from rys_gguf.report.page import SEARCH_ONLY, noise_sentence, render
from rys_gguf.stats.paired import extra
from rys_gguf.stats.pairs import Evidence, RunData
from rys_gguf.stats.verdict import Rank, Search, Verdict, pareto, points, search, verdicts
from rys_gguf.text import printable

_SUITES = ("suite.jsonl", "heldout.jsonl")
_SHOWN_RANKS = 10


def write_report(run: RunData, folder: Path) -> list[Path]:
    """Write report.html, report.csv, and each map as CSV and PNG; the paths written.

    Needs scipy and matplotlib (extra `report`), and says so before anything is written. Raises
    OutputFailed if the folder cannot be written.
    """
    extra("scipy.stats")
    extra("matplotlib.figure")
    evidence = Evidence(run)
    found, judged = search(evidence), verdicts(evidence)
    heatmaps = maps(evidence, found)
    texts = {
        "report.html": render(evidence, found, judged, heatmaps, questions(run.folder)),
        "report.csv": candidates_csv(found, judged),
    }
    drawn = {f"map-{_file_name(h.name, n)}": h for n, h in enumerate(heatmaps) if h.values()}
    texts |= {f"{name}.csv": csv_text(heatmap) for name, heatmap in drawn.items()}
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in texts.items():
            paths.append(folder / name)
            # Surrogates cannot be encoded; whatever else a model said is escaped already.
            paths[-1].write_text(content, "utf-8", errors="backslashreplace", newline="")
        for name, heatmap in drawn.items():
            paths.append(folder / f"{name}.png")
            save_png(heatmap, paths[-1])
    except OSError as e:
        raise OutputFailed(f"{printable(folder)}: cannot write: {e.strerror or e}") from e
    return paths


def text_report(run: RunData, *, ascii_only: bool = False, color: bool = False) -> Iterator[str]:
    """Verdicts, the best of the search, and the overall map, for a terminal."""
    evidence = Evidence(run)
    found, judged = search(evidence), verdicts(evidence)
    model = evidence.info.get("model", {})
    yield f"{printable(str(model.get('name')))}  run {printable(str(evidence.info.get('run_id')))}"
    if not judged:
        yield SEARCH_ONLY
    for verdict in judged:
        yield verdict.sentence
    held = {
        v.candidate.spec: (v.judgement.overall.difference, v.candidate.extra_layers) for v in judged
    }
    if held:
        front = ", ".join(map(printable, pareto(held))) or "the base alone"
        yield f"Pareto front of gain against layers: {front}"
    if any(rank.overall for rank in found.ranks):
        yield ""
        yield noise_sentence(found)
        yield from _rank_lines(found)
    for heatmap in maps(evidence, found)[:1]:
        if heatmap.values():
            yield ""
            yield from text_map(heatmap, ascii_only=ascii_only, color=color)


def _rank_lines(found: Search) -> Iterator[str]:
    shown = found.ranks[:_SHOWN_RANKS]
    width = max(len(printable(rank.candidate.spec)) for rank in shown)
    for rank in shown:
        gain = rank.overall
        if gain is None:
            yield f"  {printable(rank.candidate.spec):{width}}  {_ending(rank)}"
            continue
        yield (
            f"  {printable(rank.candidate.spec):{width}}  {points(gain.mean):>6} credit, "
            f"SE {100 * gain.error:.1f}, n = {rank.n_items}, "
            + (_ending(rank) if rank.candidate.is_out else f"reached {rank.candidate.stage}")
            + ("" if gain.above_noise else ", within noise")
        )
    if hidden := len(found.ranks) - len(shown):
        yield f"  and {hidden} more windows"


def _ending(rank: Rank) -> str:
    c = rank.candidate
    return f"{c.status} at {c.stage}" + (f": {printable(c.reason)}" if c.reason else "")


def candidates_csv(found: Search, judged: tuple[Verdict, ...]) -> str:
    """Every candidate in a line; scores as fractions, sizes in bytes, times in seconds."""
    by_name = {v.candidate.name: v for v in judged}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    search_columns = [f"{key}_{what}" for key in found.noise for what in ("credit", "se", "line")]
    writer.writerow(
        [
            "candidate", "spec", "extra_layers", "reached", "status", "reason", "n_search",
            *map(printable, search_columns), "kl", "bytes_written", "engine_seconds",
            "verdict", "difference", "low", "high", "n_held_out", "holm_p", "speed", "extra_bytes",
        ]
    )  # fmt: skip
    for rank in found.ranks:
        c, verdict = rank.candidate, by_name.get(rank.candidate.name)
        gains = [rank.gains.get(key) for key in found.noise]
        row: list[object] = [c.name, c.spec, c.extra_layers, c.stage, c.status, c.reason]
        row.append(rank.n_items)
        for gain in gains:
            row += [gain.mean, gain.error, gain.line] if gain else ["", "", ""]
        row += [c.measures.get("kl", ""), c.total("bytes_written"), c.total("engine_seconds")]
        if verdict:
            whole = verdict.judgement.overall
            ends = (whole.interval.low, whole.interval.high)
            row += [verdict.judgement.word, whole.difference, *ends, whole.n, whole.holm_p]
            row += [verdict.speed or "", "" if verdict.extra_bytes is None else verdict.extra_bytes]
        writer.writerow([f"{x:.6g}" if isinstance(x, float) else printable(str(x)) for x in row])
    return out.getvalue()


def questions(folder: Path) -> dict[str, str]:
    """The questions by item, as far as the run's suites can be read: they only explain."""
    found: dict[str, str] = {}
    for name in _SUITES:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for line in (folder / name).read_text("utf-8").splitlines():
                item = json.loads(line)
                found[str(item["id"])] = str(item["question"])
    return found


def _file_name(name: str, n: int) -> str:
    """A family's name as part of a file name; families are named by users."""
    safe = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)[:40]
    return safe if safe == name else f"{n}-{safe}"
