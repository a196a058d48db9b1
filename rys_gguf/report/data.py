"""The report as data: report.csv, a CSV for each map, and report.json.

Scores and differences are fractions of 1, sizes are bytes, times are seconds, and numbers are
finite: what has no value, or none that is finite, is an empty cell or null.

report.json is one object:

- `schema` 1, and `rys_gguf`, the version that wrote the file
- `run`: `id`, `model`, `architecture`, `n_layers`, `suite`, `heldout`, `engine`, `created`
- `is_over`: whether the sweep has ended
- `is_cut`: whether it has, and its search ran out of time before its last questions
- `stage`: the held-out stage that verdicts rest on, null for a search only
- `verdicts`: the finalists, best first, each with `candidate` (its key), `spec`, `windows`,
  `extra_layers`, `verdict`, `sentence`, `n_tests` (that share Holm's correction), `parsed` (the
  fraction of answers that could be read, of `base` and `window`), `controls`, `search_gain` and
  `held_out_gain` (soft scores over the base), `extra_bytes`, `speed` and `length` (both as
  multiples of the base's), `overall` and `families`. These two hold effects: `name`, `n`, `base`,
  `window`, `difference`, `low`, `high` (95 % interval), `estimate` with `estimate_low` and
  `estimate_high` (the same, where it is significant less what luck made of it), `p`, `holm_p`,
  `detectable`, and `wins` and `losses` where items are right or wrong. Where models were to think,
  `thoughts` has the mean tokens before an answer of `base` and `window`, their `difference` with
  `low` and `high`, and the fractions of thoughts that were `cut` off, and `looping` when they were;
  `placebo` has the `spec` of a window that was not chosen, the finalist's `difference` to it, its
  own to the `base`, and its tokens of `thought`. Otherwise both are null
- `pareto_front`: specs
- `next_step`: `text` and `commands`
- `noise`: what luck makes of the best window, overall and by family: `n_windows`, `expected`, `p95`
- `ranking`: every window, best first, each with `candidate`, `spec`, `windows`, `extra_layers`,
  `reached`, `status`, `reason`, `n_items`, `divergence`, `bytes_written`, `engine_seconds`, and
  `gains`, overall and by family: `mean`, `error` (standard error), `line` (of the noise)
- `illegal`: windows that were not tried, each with `spec` and `rule`
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.report.content import Content
from rys_gguf.report.heatmap import Heatmap
from rys_gguf.report.sentences import next_step, verdict_sentence
from rys_gguf.runs.trial import Trial
from rys_gguf.stats.effects import Effect
from rys_gguf.stats.thoughts import BesidePlacebo, Contrast, ThoughtLengths
from rys_gguf.stats.verdict import Rank, Verdict
from rys_gguf.text import printable

SCHEMA = 1
# Spreadsheets take cells that begin with one of these for formulas, also where spaces come first,
# where the sign is full-width, and after a semicolon, which separates cells in many countries.
_FORMULA = re.compile(r"(^|;)(?=[ \"']*[=+@\t\r\uff1d\uff0b\uff0d\uff20-])")
_VERDICT_COLUMNS = (
    "verdict", "difference", "low", "high", "estimate", "estimate_low", "estimate_high",
    "n_held_out", "holm_p", "speed", "extra_bytes",
)  # fmt: skip


def csv_cell(value: object) -> str:
    """A value as a cell: numbers as they are, words that no spreadsheet takes for a formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return str(value)
    return _FORMULA.sub(r"\1'", printable(str(value), 1000))


def csv_text(rows: Iterator[Sequence[object]]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(csv_cell, row) for row in rows)
    return out.getvalue()


def map_csv(heatmap: Heatmap) -> str:
    """A map as CSV, a line for each window."""

    def rows() -> Iterator[Sequence[object]]:
        yield "i", "j", "value", "state", "note", "spec"
        for cell in sorted(heatmap.cells, key=lambda c: c.window):
            yield *cell.window, cell.value, cell.state, cell.note, cell.spec

    return csv_text(rows())


def candidates_csv(content: Content) -> str:
    """Every window in the order of the ranking, a line for each."""
    return csv_text(_candidate_rows(content))


def _candidate_rows(content: Content) -> Iterator[Sequence[object]]:
    keys = tuple(content.ranking.noise)
    by_key = {v.trial.key: v for v in content.verdicts}
    yield (
        "candidate", "spec", "extra_layers", "reached", "status", "reason", "n_search",
        *(f"{key}_{what}" for key in keys for what in ("credit", "se", "line")),
        "kl", "bytes_written", "engine_seconds", *_VERDICT_COLUMNS,
    )  # fmt: skip
    for rank in content.ranking.ranks:
        trial = rank.trial
        status, reason = _ending(trial)
        row: list[object] = [trial.key, trial.candidate.spec, trial.candidate.n_added]
        row += [trial.reached, status, reason, rank.n_items]
        for key in keys:
            gain = rank.gains.get(key)
            row += [gain.mean, gain.error, gain.line] if gain else [None, None, None]
        row += [trial.measures.get("kl"), trial.bytes_written, trial.engine_seconds]
        verdict = by_key.get(trial.key)
        yield [*row, *(_verdict_cells(verdict) if verdict else [None] * len(_VERDICT_COLUMNS))]


def _verdict_cells(verdict: Verdict) -> list[object]:
    overall = verdict.judgement.overall
    return [
        verdict.judgement.word,
        overall.difference,
        overall.interval.low,
        overall.interval.high,
        overall.estimate,
        overall.likely.low,
        overall.likely.high,
        overall.n,
        overall.holm_p,
        verdict.speed,
        verdict.extra_bytes,
    ]


def _ending(trial: Trial) -> tuple[str, str]:
    """Status and reason of a trial: those of the first stage that it did not get through."""
    ending = trial.ending
    return (ending.status.value, ending.reason or "") if ending else ("ok", "")


def report_json(content: Content) -> str:
    """The report as JSON; the module's docstring lists the fields."""
    evidence, info = content.evidence, content.evidence.info
    stage = evidence.judged_stage()
    step = next_step(content.verdicts, info, is_unfinished=content.unfinished is not None)
    plain = {
        "schema": SCHEMA,
        "rys_gguf": __version__,
        "run": {
            "id": info.run_id,
            "model": info.model.name,
            "architecture": info.model.architecture,
            "n_layers": info.model.n_layers,
            "suite": info.identity.get("suite"),
            "heldout": info.identity.get("heldout"),
            "engine": info.identity.get("engine"),
            "created": info.created,
        },
        "is_over": content.unfinished is None,
        "is_cut": content.is_cut,
        "stage": None if stage is None else str(stage),
        "verdicts": [_verdict_json(v) for v in content.verdicts],
        "pareto_front": content.front,
        "next_step": {"text": step.text, "commands": step.commands},
        "noise": {
            key: {"n_windows": n.n_windows, "expected": n.expected, "p95": n.p95}
            for key, n in content.ranking.noise.items()
        },
        "ranking": [_rank_json(rank) for rank in content.ranking.ranks],
        "illegal": [{"spec": x.spec, "rule": x.rule} for x in info.illegal],
    }
    return json.dumps(_finite(plain), indent=2, allow_nan=False) + "\n"


def _candidate_json(trial: Trial) -> dict[str, Any]:
    c = trial.candidate
    return {
        "candidate": c.key,
        "spec": c.spec,
        "windows": [list(w) for w in c.windows],
        "extra_layers": c.n_added,
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    judgement = verdict.judgement
    return {
        **_candidate_json(verdict.trial),
        "verdict": judgement.word,
        "sentence": verdict_sentence(verdict),
        "n_tests": judgement.n_tests,
        "parsed": dict(zip(("base", "window"), judgement.parsed, strict=True)),
        "controls": verdict.controls,
        "search_gain": verdict.search_gain,
        "held_out_gain": verdict.held_out_gain,
        "extra_bytes": verdict.extra_bytes,
        "speed": verdict.speed,
        "length": verdict.length,
        "thoughts": _thoughts_json(verdict.thoughts),
        "placebo": _placebo_json(verdict.placebo),
        "overall": _effect_json(judgement.overall),
        "families": [_effect_json(effect) for effect in judgement.families],
    }


def _thoughts_json(thoughts: ThoughtLengths | None) -> dict[str, Any] | None:
    if thoughts is None:
        return None
    return {
        "base": thoughts.base,
        "window": thoughts.window,
        **_contrast_json(thoughts.difference),
        "cut": dict(zip(("base", "window"), thoughts.cut, strict=True)),
        "looping": dict(zip(("base", "window"), thoughts.looping, strict=True)),
    }


def _placebo_json(beside: BesidePlacebo | None) -> dict[str, Any] | None:
    if beside is None:
        return None
    return {
        "spec": beside.spec,
        "base": _contrast_json(beside.placebo),
        **_contrast_json(beside.difference),
        "thought": beside.n_thought,
    }


def _contrast_json(contrast: Contrast) -> dict[str, float]:
    around = contrast.interval
    return {"difference": contrast.mean, "low": around.low, "high": around.high}


def _effect_json(effect: Effect) -> dict[str, Any]:
    plain = {
        "name": effect.name,
        "n": effect.n,
        "base": effect.base,
        "window": effect.window,
        "difference": effect.difference,
        "low": effect.interval.low,
        "high": effect.interval.high,
        "estimate": effect.estimate,
        "estimate_low": effect.likely.low,
        "estimate_high": effect.likely.high,
        "p": effect.p,
        "holm_p": effect.holm_p,
        "detectable": effect.detectable,
    }
    if effect.mcnemar:
        plain |= {"wins": effect.mcnemar.wins, "losses": effect.mcnemar.losses}
    return plain


def _rank_json(rank: Rank) -> dict[str, Any]:
    trial = rank.trial
    status, reason = _ending(trial)
    return {
        **_candidate_json(trial),
        "reached": str(trial.reached or ""),
        "status": status,
        "reason": reason,
        "n_items": rank.n_items,
        "divergence": trial.measures.get("kl"),
        "bytes_written": trial.bytes_written,
        "engine_seconds": trial.engine_seconds,
        "gains": {
            key: {"mean": gain.mean, "error": gain.error, "line": gain.line}
            for key, gain in rank.gains.items()
        },
    }


def _finite(value: Any) -> Any:
    """Plain values with null for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
