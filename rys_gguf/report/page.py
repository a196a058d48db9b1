"""The report as one HTML file: it needs no network, has one script, and is readable without it.

This module prepares plain values; templates/report.html.j2 is the page. The page's policy allows
its own script by its checksum, and no other.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rys_gguf._version import __version__
from rys_gguf.report.answers import answers
from rys_gguf.report.content import Content
from rys_gguf.report.heatmap import Heatmap
from rys_gguf.report.markup import asset, embedded_json, render_html, shown
from rys_gguf.report.pictures import Pictures
from rys_gguf.report.sentences import (
    CUT,
    ORDER,
    SEARCH_ONLY,
    headline,
    interval_text,
    next_step,
    noise_sentence,
    on_items,
    points,
    unfinished_sentence,
    verdict_sentence,
)
from rys_gguf.report.tables import (
    baseline_table,
    candidate_table,
    cost_table,
    held_out_table,
    illegal_table,
)
from rys_gguf.runs.records import THOMPSON
from rys_gguf.stats.effects import Effect
from rys_gguf.stats.pairs import OVERALL
from rys_gguf.stats.verdict import Verdict
from rys_gguf.text import size

# How often a page that is watched loads itself again, in seconds.
RELOAD_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Watched:
    """A sweep that is still running: what it is at, and whether somebody keeps the page fresh."""

    progress: str
    is_renewed: bool


def render(
    content: Content,
    pictures: Pictures,
    questions: Mapping[str, str],
    watched: Watched | None = None,
) -> str:
    """The page, with its style, script and pictures inside; `questions` are by item.

    The page of a sweep that is still running shows how far it is, and loads itself again as long as
    it is renewed.
    """
    info, verdicts = content.evidence.info, content.verdicts
    script = asset("report.js")
    noise = content.ranking.noise.get(OVERALL)
    return render_html(
        "report.html.j2",
        {
            "policy": _policy(script),
            "watched": watched,
            "reload": RELOAD_SECONDS if watched and watched.is_renewed else None,
            "css": _own(asset("report.css")),
            "script": _own(script),
            "model": shown(info.model.name) or "a model",
            "run_id": info.run_id,
            "version": __version__,
            "headline": watched.progress if watched else headline(verdicts),
            "verdicts": list(_cards(verdicts)),
            "stage": on_items(verdicts[0].stage) if verdicts else "",
            "n_tests": verdicts[0].judgement.n_tests if verdicts else 0,
            "search_only": SEARCH_ONLY,
            "cut": CUT if content.is_cut else "",
            "unfinished": unfinished_sentence(content.unfinished, verdicts)
            if content.unfinished
            else "",
            "next": next_step(verdicts, info, is_unfinished=content.unfinished is not None),
            "facts": list(_facts(content)),
            "noise": noise_sentence(noise) if noise and noise.n_windows else "",
            "maps": [
                _map(h, pictures.maps[h.name].svg) for h in content.maps if h.name in pictures.maps
            ],
            "scatter": _scatter(content, pictures),
            "held_out": held_out_table(verdicts),
            "costs": cost_table(verdicts),
            "order": ORDER[info.plan.sampler == THOMPSON],
            "candidates": candidate_table(content.ranking),
            "illegal": illegal_table(info.illegal),
            "baselines": baseline_table(info.baselines),
            "provenance": list(info.provenance.items()),
            "items": embedded_json(answers(content.evidence, content.ranking, verdicts, questions)),
        },
    )


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _own(text: str) -> Markup:
    """Markup that this package made; nothing from a file or a model comes through here."""
    return Markup(text)  # noqa: S704 - see above


def _facts(content: Content) -> Iterator[tuple[str, str]]:
    """Names and values of what the run knows about itself."""
    info = content.evidence.info
    identity = info.identity
    model, engine = identity.get("model"), identity.get("engine")
    digest = model.get("sha256") if isinstance(model, Mapping) else None
    values = {
        "Architecture": info.model.architecture,
        "Layers": str(info.model.n_layers),
        "Size": size(info.model.n_bytes) if info.model.n_bytes else "",
        "Layer rule": info.model.rule,
        "Suite": _flat(identity.get("suite")),
        "Held-out suite": _flat(identity.get("heldout")),
        "Engine": _flat(engine),
        "Threads": str(info.n_threads or ""),
        "Swept with": f"rys-gguf {info.rys_gguf}" if info.rys_gguf else "",
        "Plan": _flat([info.plan.name, "sizes" if info.plan.sizes else "", *info.plan.sizes]),
        "Settings": _flat(identity.get("settings")),
        "Header SHA-256": str(digest).removeprefix("sha256:")[:16] if digest else "",
        "Windows": f"{len(content.evidence.windows)} tried, {len(info.illegal)} not legal",
        "Command": info.command,
        "Started": info.created.replace("T", " ").replace("+00:00", " UTC"),
    }
    yield from ((name, shown(value)) for name, value in values.items() if value)


def _flat(value: Any) -> str:
    """A nested value of run.json in one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            _flat(v) if k == "name" else f"{k} {_flat(v)}"
            for k, v in value.items()
            if v not in (None, "", [], {})
        )
    if isinstance(value, list | tuple):
        return " ".join(_flat(v) for v in value if v not in (None, ""))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _cards(verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    reach = max((_reach(e) for v in verdicts for e in _effects(v)), default=0.01) or 0.01
    for verdict in verdicts:
        judgement = verdict.judgement
        yield {
            "spec": verdict.trial.candidate.spec,
            "word": judgement.word,
            "look": judgement.word.replace(" ", "-"),
            "difference": points(judgement.overall.estimate),
            "interval": interval_text(judgement.overall.likely),
            "n": judgement.overall.n,
            "effects": [_whisker(effect, reach) for effect in _effects(verdict)],
            "sentence": verdict_sentence(verdict),
        }


def _effects(verdict: Verdict) -> tuple[Effect, ...]:
    return verdict.judgement.overall, *verdict.judgement.families


def _reach(effect: Effect) -> float:
    ends = (effect.likely.low, effect.likely.high, effect.estimate)
    return max((abs(x) for x in ends if abs(x) <= 1), default=0.0)


def _whisker(effect: Effect, reach: float) -> dict[str, Any]:
    """An effect as places in percent of a track whose middle is 0."""

    def place(x: float) -> float:
        return 50 + 48 * max(-1.0, min(1.0, x / reach))

    low, high = place(effect.likely.low), place(effect.likely.high)
    look = "open" if not effect.significant else "gain" if effect.estimate > 0 else "loss"
    difference = points(effect.estimate)
    return {
        "name": effect.name,
        "is_overall": effect.name == OVERALL,
        "look": look,
        "difference": difference,
        "spoken": f"{effect.name} {difference}, {interval_text(effect.likely)}",
        "low": f"{low:.1f}",
        "width": f"{high - low:.1f}",
        "middle": f"{place(effect.estimate):.1f}",
    }


def _map(heatmap: Heatmap, svg: str) -> dict[str, Any]:
    name, _, rest = heatmap.title.partition(": ")
    ring = f"; {heatmap.best_text} (ring)" if heatmap.best else ""
    return {
        "name": name,
        "caption": "; ".join([rest + ring, *heatmap.remarks]),
        "is_wide": heatmap.name == OVERALL,
        "svg": _own(svg),
    }


def _scatter(content: Content, pictures: Pictures) -> dict[str, Any] | None:
    if pictures.scatter is None:
        return None
    return {
        "where": "on held-out items" if content.held_out else "in the search",
        "front": content.front,
        "svg": _own(pictures.scatter.svg),
    }
