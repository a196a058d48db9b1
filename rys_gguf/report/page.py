"""The report as one HTML file: no network, no dependencies, readable without its script.

Everything a model or a file said is hostile until escaped: control characters are made visible,
markup is escaped, embedded JSON cannot close its element, and the page's policy lets no other
script run than its own.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.report import assets
from rys_gguf.report.heatmap import Heatmap, svg
from rys_gguf.runs.storage import FINAL, GENERATE
from rys_gguf.stats.paired import Interval, detectable_effect
from rys_gguf.stats.pairs import Evidence, Line
from rys_gguf.stats.verdict import (
    HELD_OUT,
    NO_EVIDENCE,
    OVERALL,
    Effect,
    Rank,
    Search,
    Verdict,
    interval_text,
    p_text,
    pareto,
    points,
    score_text,
)
from rys_gguf.text import size

# The page holds the answers of the best candidates; items.jsonl holds all.
_MAX_CANDIDATES = 24
_MAX_ITEM_BYTES = 8_000_000
_MAX_RESPONSE = 4000
_GRID_LINES = 8
SEARCH_ONLY = "search only: ranks, no verdicts"


def render(
    evidence: Evidence,
    found: Search,
    judged: Sequence[Verdict],
    heatmaps: Sequence[Heatmap],
    questions: Mapping[str, str],
) -> str:
    """The whole page."""
    script = assets.JS
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    body = [
        *_header(evidence, judged),
        "<main>",
        *_verdicts(judged),
        *_maps(found, heatmaps),
        *_pareto(found, judged),
        *_held_out(judged),
        *_candidates(found),
        *_illegal(evidence),
        *_drill_down(),
        *_notes(evidence),
        "</main>",
        f"<footer>rys-gguf {__version__}, run {text(evidence.info.get('run_id'))}</footer>",
    ]
    title = f"{text(evidence.info.get('model', {}).get('name'))}: layer search"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{assets.CSS}</style></head><body>"
        + "\n".join(body)
        + f'<script type="application/json" id="items">{_items(evidence, found, judged, questions)}'
        f"</script><script>{script}</script></body></html>\n"
    )


def visible(value: Any, limit: int = 400) -> str:
    """Text with what is not printable but a line break written out; other values as JSON."""
    if value is None:
        return ""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    cut = "..." if len(shown) > limit else ""
    return (
        "".join(
            c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii")
            for c in shown[:limit]
        )
        + cut
    )


def text(value: Any, limit: int = 400) -> str:
    """A value as HTML text, also inside a quoted attribute."""
    return escape(visible(value, limit))


def embedded_json(value: Any) -> str:
    """JSON for a script element: no way to write `</script>` or `<!--` in it."""
    raw = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# -- head and verdicts -------------------------------------------------------------------------


def _header(evidence: Evidence, judged: Sequence[Verdict]) -> Iterator[str]:
    info = evidence.info
    model, identity = info.get("model", {}), info.get("identity", {})
    yield f'<header><p class="kicker">Layer search on {text(model.get("name"))}</p>'
    yield f"<h1>{escape(_headline(judged))}</h1>"
    facts = {
        "Architecture": model.get("architecture"),
        "Layers": model.get("n_layers"),
        "Size": size(int(model["n_bytes"])) if "n_bytes" in model else None,
        "Layer rule": model.get("rule"),
        "Suite": identity.get("suite"),
        "Held-out suite": identity.get("heldout"),
        "Engine": _flat(identity.get("engine")),
        "Plan": _flat(info.get("plan")),
        "Settings": _flat(identity.get("settings")),
        "Header SHA-256": _sha256(identity.get("model")),
        "Windows": f"{len(evidence.windows)} tried, {len(info.get('illegal', ()))} not legal",
        "Started": visible(info.get("created")).replace("T", " ").replace("+00:00", " UTC"),
    }
    yield '<dl class="facts">'
    for name, value in facts.items():
        if value not in (None, ""):
            yield f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>"
    yield "</dl></header>"


def _headline(judged: Sequence[Verdict]) -> str:
    if not judged:
        return "Search only: ranks, no verdicts yet"
    good = [v for v in judged if v.judgement.word == "better"]
    if good:
        gain = points(good[0].judgement.overall.difference)
        return f"{visible(good[0].candidate.spec)} is better than the base: {gain} points held out"
    if all(v.judgement.word == NO_EVIDENCE for v in judged):
        return "No evidence that any finalist is better than the base"
    return "No finalist is simply better than the base"


def _sha256(identity: Any) -> str | None:
    """The first digits of the checksum in a model's identity."""
    values = (
        [str(v) for k, v in identity.items() if "sha" in k] if isinstance(identity, dict) else []
    )
    return values[0].removeprefix("sha256:")[:16] if values else None


def _flat(value: Any) -> str:
    """A nested value of run.json in one line."""
    if isinstance(value, Mapping):
        return ", ".join(
            _flat(v) if k == "name" else f"{k} {_flat(v)}"
            for k, v in value.items()
            if v not in (None, "", [], {})
        )
    if isinstance(value, list):
        return " ".join(_flat(v) for v in value)
    return "" if value is None else str(value)


def _verdicts(judged: Sequence[Verdict]) -> Iterator[str]:
    yield "<section><h2>Verdicts</h2>"
    if not judged:
        yield (
            f"<p>{SEARCH_ONLY}. The best of many windows looks good by luck; held-out items that "
            f"the search never saw decide.</p></section>"
        )
        return
    stage = judged[0].stage
    yield (
        f'<p class="note">On {HELD_OUT.get(stage, stage)}, paired with the base item by item. '
        f"Whiskers: 95 % bootstrap intervals. Filled: significant at 5 % after Holm's correction "
        f"over all {judged[0].judgement.n_tests} tests of this report.</p>"
    )
    reach = max((_reach(e) for v in judged for e in _effects(v)), default=0.01)
    yield '<div class="cards">'
    for verdict in judged:
        judgement = verdict.judgement
        word = judgement.word
        yield (
            f'<article class="card"><header><h3 class="mono">{text(verdict.candidate.spec)}</h3>'
            f'<span class="word {word.replace(" ", "-")}">{word}</span></header>'
            f'<p class="big">{points(judgement.overall.difference)} '
            f"<small>points overall, n = {judgement.overall.n}</small></p>"
        )
        yield from _forest(_effects(verdict), reach)
        yield f'<p class="note">{escape(verdict.sentence)}</p></article>'
    yield "</div></section>"


def _effects(verdict: Verdict) -> tuple[Effect, ...]:
    return verdict.judgement.overall, *verdict.judgement.families


def _reach(effect: Effect) -> float:
    ends = (effect.interval.low, effect.interval.high, effect.difference)
    return max((abs(x) for x in ends if abs(x) <= 1), default=0.0)


def _forest(effects: Sequence[Effect], reach: float) -> Iterator[str]:
    def place(x: float) -> float:
        return 50 + 48 * max(-1.0, min(1.0, x / (reach or 1)))

    yield '<div class="forest">'
    for e in effects:
        kind = "open" if not e.significant else "up" if e.difference > 0 else "down"
        low, high = place(e.interval.low), place(e.interval.high)
        said = f"{e.name} {points(e.difference)}, {interval_text(e.interval)}"
        whole = " all" if e.name == OVERALL else ""
        yield (
            f'<span class="{whole}">{text(e.name)}</span>'
            f'<span class="track {kind}" role="img" aria-label="{text(said)}">'
            f'<span class="bar" style="left:{low:.1f}%;width:{high - low:.1f}%"></span>'
            f'<span class="dot" style="left:{place(e.difference):.1f}%"></span></span>'
            f'<span class="num{whole}">{points(e.difference)}</span>'
        )
    yield "</div>"


# -- maps and Pareto front ---------------------------------------------------------------------


def _maps(found: Search, heatmaps: Sequence[Heatmap]) -> Iterator[str]:
    drawn = [h for h in heatmaps if h.values()]
    if not drawn:
        return
    yield "<section><h2>Where repeating layers helps</h2>"
    if noise := found.noise.get(OVERALL):
        yield f"<p>{escape(noise_sentence(found))}</p>" if noise.n_windows else ""
    yield '<div class="maps">'
    for heatmap in drawn:
        best = heatmap.best
        said = (
            f"best blocks:{best[0]},{best[1]} at {heatmap.show(heatmap.values()[best])}, ringed"
            if best
            else ""
        )
        wide = ' class="wide"' if heatmap.name == OVERALL else ""
        name, _, rest = heatmap.title.partition(": ")
        yield (
            f"<figure{wide}><figcaption><b>{text(name)}</b>{text(rest)}"
            f"{'; ' + said if said else ''}</figcaption>{svg(heatmap)}</figure>"
        )
    yield "</div></section>"


def noise_sentence(found: Search) -> str:
    """The noise line in words."""
    noise = found.noise[OVERALL]
    return (
        f"Were all {noise.n_windows} windows equal to the base, the best of them would show about "
        f"{points(noise.expected)} points by luck, and {points(noise.p95)} in one search of "
        f"twenty. A window whose gain is below that line for its number of items is faded."
    )


def _pareto(found: Search, judged: Sequence[Verdict]) -> Iterator[str]:
    held = {
        v.candidate.spec: (v.judgement.overall.difference, v.candidate.extra_layers) for v in judged
    }
    searched = {
        r.candidate.spec: (r.overall.mean, r.candidate.extra_layers)
        for r in found.ranks
        if r.overall
    }
    if not searched and not held:
        return
    what = "held out" if held else "in the search"
    front = pareto(held or searched)
    yield "<section><h2>Gain against size</h2>"
    names = ", ".join(f"<code>{text(name)}</code>" for name in front) or "the base alone"
    yield (
        f"<p>Pareto front {what}: {names}. Grey: every window in the search (credit)"
        f"{'; coloured: finalists on held-out items (score)' if held else ''}.</p>"
    )
    yield f'<div class="sideways">{_scatter(searched, held, front)}</div>'
    yield "</section>"


def _scatter(
    searched: Mapping[str, tuple[float, int]],
    held: Mapping[str, tuple[float, int]],
    front: Sequence[str],
) -> str:
    every = [*searched.values(), *held.values(), (0.0, 0)]
    top = max(0.02, *(gain for gain, _ in every)) * 1.12
    bottom = min(-0.02, *(gain for gain, _ in every)) * 1.05
    widest = max(1, *(n for _, n in every))
    width, height, left, base = 720, 270, 46, 236

    def at(gain: float, n: int) -> tuple[float, float]:
        x = left + 14 + n / widest * (width - left - 110)
        return x, 10 + (top - gain) / (top - bottom) * (base - 10)

    head = (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Gain over the base in points against extra layers" font-size="11.5">'
    )
    parts = [head]
    steps = (digit * 10.0**e for e in itertools.count(-2) for digit in (1, 2, 5))
    step = next(s for s in steps if (top - bottom) / s <= _GRID_LINES)
    for k in range(int(bottom / step), int(top / step) + 1):
        _, y = at(k * step, 0)
        kind = "zero" if k == 0 else "grid"
        parts.append(
            f'<line x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{points(k * step)}</text>'
        )
    for n in range(0, widest + 1, max(1, -(-widest // 12))):
        x, _ = at(0, n)
        parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{n}</text>')
    parts.append(f'<text x="{width - 8}" y="{height - 4}" text-anchor="end">extra layers</text>')
    for name, (gain, n) in searched.items():
        x, y = at(gain, n)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="pt"><title>')
        parts.append(f"{text(name)} {points(gain)}</title></circle>")
    shown = held or searched
    corners = [at(0.0, 0), *(at(*shown[name]) for name in front)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    parts.append(f'<path d="{path}" class="front"/>')
    names: dict[tuple[float, float], list[str]] = {}
    for name, point in held.items():
        names.setdefault(at(*point), []).append(name)
    for (x, y), there in names.items():
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" class="held"/>'
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}" class="name">{text(" ".join(there))}</text>'
        )
    return "".join(parts) + "</svg>"


# -- tables ------------------------------------------------------------------------------------


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, tall: bool = False) -> str:
    """A sortable table; a column whose name starts with `<` is aligned to the left."""
    head = "".join(
        f'<th{" class=l" if c.startswith("<") else ""} scope="col"><button type="button">'
        f"{text(c.removeprefix('<'))}</button></th>"
        for c in columns
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    kind = "scroll tall" if tall else "scroll"
    return (
        f'<div class="{kind}" tabindex="0" role="region" aria-label="table"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(shown: str, sort: Any = None, kind: str = "", below: str = "") -> str:
    key = shown if sort is None else sort
    more = f"<small>{escape(below)}</small>" if below else ""
    kinds = f" class={kind!r}" if kind else ""
    return f'<td data-sort="{text(key)}"{kinds}>{escape(shown)}{more}</td>'


def _score_cell(score: float, interval: Interval | None) -> str:
    shown, _, rest = score_text(score, interval).partition(" ")
    return _cell(shown, score, below=rest.strip("()"))


def _gain_cell(x: float | None, interval: Interval | None = None) -> str:
    if x is None:
        return _cell("", "")
    shown = points(x)
    kind = {"+": "pos", "-": "neg"}.get(shown[0], "soft")
    return _cell(shown, x, kind, interval_text(interval) if interval else "")


def _held_out(judged: Sequence[Verdict]) -> Iterator[str]:
    if not judged:
        return
    yield "<section><h2>Finalists on held-out items</h2>"
    rows = []
    for v in judged:
        for e in _effects(v):
            test = e.mcnemar
            found = (
                detectable_effect(e.n, (test.wins + test.losses) / e.n) if test else e.detectable
            )
            rows.append(
                [
                    _cell(visible(v.candidate.spec), None, "l mono"),
                    _cell(visible(e.name) + " (control)" * (e.name in v.controls), None, "l"),
                    _cell(str(e.n)),
                    _score_cell(e.base, e.base_interval),
                    _score_cell(e.window, e.window_interval),
                    _gain_cell(e.difference, e.interval),
                    _cell(
                        f"{test.wins} / {test.losses}" if test else "", test.wins if test else ""
                    ),
                    _cell(
                        f"{p_text(test.p)} ({p_text(test.mid_p)})" if test else "",
                        test.p if test else "",
                    ),
                    _cell(p_text(e.holm_p), e.holm_p),
                    _cell(f"{100 * found:.0f}" if found else "", found or ""),
                ]
            )
    columns = (
        "<Window", "<Family", "n", "Base", "Window", "Difference",
        "Wins / losses", "McNemar p (mid-p)", "Holm p", "Detectable",
    )  # fmt: skip
    yield _table(columns, rows)
    yield (
        '<p class="note">Scores and differences in points of 100, with 95 % intervals below: '
        "bootstrap of differences, Wilson's of right-or-wrong items. McNemar is exact, for "
        "families of such items; elsewhere Holm corrects a sign-flip test. Detectable: the true "
        "difference that a test of this size, uncorrected, finds four times in five. Control: a "
        "family the search did not ask.</p>"
    )
    yield "<h2>What the search promised, and what it costs</h2>"
    rows = [
        [
            _cell(visible(v.candidate.spec), None, "l mono"),
            _cell(v.judgement.word, None, "l"),
            _gain_cell(v.search_gain),
            _gain_cell(v.held_out_gain),
            _gain_cell(v.judgement.overall.difference),
            _cell(f"{v.candidate.extra_layers:+d}", v.candidate.extra_layers),
            _cell(
                size(v.extra_bytes, sign=True) if v.extra_bytes is not None else "",
                v.extra_bytes or "",
            ),
            _cell(f"{v.speed:.2f}" if v.speed else "", v.speed or ""),
        ]
        for v in judged
    ]
    costs = (
        "<Window", "<Verdict", "Credit in search", "Credit held out", "Score held out",
        "Layers", "Bytes", "Speed of base",
    )  # fmt: skip
    yield _table(costs, rows)
    yield (
        '<p class="note">The winner of a search was lucky as well as good: expect less on new '
        "items (regression to the mean). Only the held-out columns count.</p></section>"
    )


def _candidates(found: Search) -> Iterator[str]:
    yield "<section><h2>All windows of the search</h2>"
    yield (
        '<p class="note">Credit over the base on the search items: half the score, half the '
        "probability behind it, by which windows are ranked. It ranks; it proves nothing.</p>"
    )
    rows = [_candidate_row(found, rank) for rank in found.ranks]
    columns = (
        "<Window", "Layers", "Overall", "SE", "Noise line", *found.families, "n", "Divergence",
        "<Reached", "<Status", "Written", "Engine s", "<Reason",
    )  # fmt: skip
    yield _table(columns, rows, tall=True)
    yield "</section>"


def _candidate_row(found: Search, rank: Rank) -> list[str]:
    c, gain = rank.candidate, rank.overall
    kl = c.measures.get("kl")
    written, seconds = c.total("bytes_written"), c.total("engine_seconds")
    by_family = [rank.gains.get(family) for family in found.families]
    return [
        _cell(visible(c.spec), None, "l mono"),
        _cell(f"{c.extra_layers:+d}", c.extra_layers),
        _gain_cell(gain.mean if gain else None),
        _cell(f"{100 * gain.error:.1f}" if gain else "", gain.error if gain else ""),
        _cell(f"{100 * gain.line:.1f}" if gain else "", gain.line if gain else ""),
        *(_gain_cell(g.mean if g else None) for g in by_family),
        _cell(str(rank.n_items or ""), rank.n_items),
        _cell(f"{kl:.3g}" if isinstance(kl, int | float) else "", kl if kl is not None else ""),
        _cell(c.stage, None, "l"),
        _cell(c.status, None, "l"),
        _cell(size(int(written)) if written else "", written),
        _cell(f"{seconds:.1f}" if seconds else "", seconds),
        _cell(visible(c.reason), None, "wrap"),
    ]


def _illegal(evidence: Evidence) -> Iterator[str]:
    refused: Sequence[Line] = evidence.info.get("illegal", ())
    if not refused:
        return
    yield f"<section><h2>Windows that are not legal</h2><details><summary>{len(refused)} "
    yield "not written: the model would not compute what they say</summary>"
    rows = [
        [_cell(visible(r.get("spec")), None, "l mono"), _cell(visible(r.get("rule")), None, "wrap")]
        for r in refused
    ]
    yield _table(("<Window", "<Rule"), rows, tall=True)
    yield "</details></section>"


# -- answers -----------------------------------------------------------------------------------


def _drill_down() -> Iterator[str]:
    yield (
        '<section id="drill"><h2>Item by item</h2><p class="note">What base and window answered. '
        "Pick a window here or on a map, then open an item. The page holds the finalists and the "
        "best of the search; <code>items.jsonl</code> holds everything.</p>"
        '<noscript><p>This part needs JavaScript.</p></noscript><div class="bar-row">'
        '<label>Window<select id="who"></select></label>'
        '<label>Stage<select id="stage"></select></label>'
        '<label>Items<select id="which"><option value="all">all</option>'
        '<option value="wins">window better</option><option value="losses">window worse</option>'
        '<option value="unread">window gave no answer</option></select></label>'
        '<span id="count" class="soft" role="status"></span></div>'
        '<div class="scroll tall"><table><thead><tr><th class="l">Item</th>'
        '<th class="l">Family</th><th class="l">Topic</th><th>Right</th>'
        "<th>Base</th><th>Window</th><th>Difference</th></tr></thead>"
        '<tbody id="answers"></tbody></table></div></section>'
    )


def _items(
    evidence: Evidence,
    found: Search,
    judged: Sequence[Verdict],
    questions: Mapping[str, str],
) -> str:
    finalists = [*evidence.finalists(FINAL), *evidence.finalists(GENERATE)]
    ranked = [v.candidate.name for v in judged] + finalists
    ranked += [r.candidate.name for r in found.ranks if r.gains]
    about: dict[str, Any] = {}
    base: dict[str, Any] = {}
    candidates: dict[str, Any] = {}
    room = _MAX_ITEM_BYTES
    for name in list(dict.fromkeys(ranked))[:_MAX_CANDIDATES]:
        stages = {}
        for stage in evidence.stages_of(name):
            lines = evidence.answers(name, [stage])
            stages[stage] = {item: _answer(line) for item, line in lines.items()}
            if stage not in base:
                old = evidence.answers(evidence.base.name, [stage])
                base[stage] = {item: _answer(line) for item, line in old.items()}
            for item, line in lines.items():
                about.setdefault(item, _about(line, questions))
        room -= len(json.dumps(stages))
        if room < 0 and candidates:
            break
        candidates[name] = {"label": visible(evidence.candidates[name].label), "stages": stages}
    return embedded_json({"about": about, "base": base, "candidates": candidates})


def _about(line: Line, questions: Mapping[str, str]) -> dict[str, str]:
    return {
        "family": visible(line.get("family")),
        "topic": visible(line.get("topic")),
        "gold": visible(line.get("gold")),
        "question": visible(questions.get(str(line["item"])), _MAX_RESPONSE),
    }


def _answer(line: Line) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "status": visible(line.get("status")),
        "score": None if line.get("score") is None else round(float(line["score"]), 4),
        "parsed": visible(line.get("parsed")),
    }
    if line.get("response"):
        answer["response"] = visible(line["response"], _MAX_RESPONSE)
    if line.get("probabilities"):
        answer["probabilities"] = [
            {visible(option): round(float(p), 4) for option, p in options.items()}
            for options in line["probabilities"]
        ]
    return answer


def _notes(evidence: Evidence) -> Iterator[str]:
    info = evidence.info
    floors, provenance = info.get("floors"), info.get("provenance")
    if not floors and not provenance:
        return
    yield "<section><h2>About the items</h2>"
    if floors:
        yield (
            '<p class="note">What an answer that ignores the question scores; a base near its '
            "floor has no ability the window could improve on.</p>"
        )
        rows = [
            [_cell(visible(family), None, "l"), _cell(_flat(floor), None, "wrap")]
            for family, floor in floors.items()
        ]
        yield _table(("<Family", "<Floor"), rows)
    for family, said in (provenance or {}).items():
        yield f"<p><b>{text(family)}</b> {text(said, _MAX_RESPONSE)}</p>"
    yield "</section>"
