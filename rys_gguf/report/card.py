"""A Hugging Face model card for a variant: what it is, how it runs, what was measured and checked.

Only what the files say goes into it. A licence, a base model or a language that the header does
not name is left open for the author rather than guessed. templates/card.md.j2 is the card; this
module prepares plain values for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

from markupsafe import Markup

from rys_gguf.errors import Refused, RysError
from rys_gguf.extras import require
from rys_gguf.formats.model import Model
from rys_gguf.layers.blocks import Block, blocks_of
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.describe import read_from, where_read
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Metadata
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.provenance import MAP_KEY, VERSION_KEY, recorded_source
from rys_gguf.report.front_matter import front_matter
from rys_gguf.report.markup import render_text
from rys_gguf.report.origin import header_text
from rys_gguf.report.sentences import (
    interval_text,
    on_items,
    p_text,
    points,
    score_text,
    verdict_sentence,
)
from rys_gguf.stats.evidence import Evidence, RunData
from rys_gguf.stats.pairs import OVERALL
from rys_gguf.stats.verdict import BETTER, WORSE, Verdict, verdicts
from rys_gguf.text import printable, size

_MARKDOWN = re.compile(r"([\\`*_\[\]|~#])")
# GitHub's Markdown, and the Hub's, turn these into links wherever they stand but in code.
_AUTOLINK = re.compile(r"://|www\.|@|mailto:|xmpp:", re.IGNORECASE)
_WIDTH = 56


def make_card(
    variant: Model,
    source: Model | None,
    layer_map: LayerMap,
    run: RunData | None = None,
    validation: Mapping[str, Any] | None = None,
) -> str:
    """README.md for a variant. `validation` is the content of VARIANT.validate.json.

    Raises RysError if the run is of a model with another number of layers, the validation is of
    another map, or a package is missing.
    """
    require("the card", "huggingface_hub", "jinja2")
    if run is not None:
        require("the card's scores", "scipy")
    evidence = None if run is None else Evidence(run)
    n_layers = layer_map.n_source if evidence is None else evidence.info.model.n_layers
    if n_layers != layer_map.n_source:
        raise RysError(
            f"the run is of a model with {n_layers} layers, the map of one with "
            f"{layer_map.n_source}"
        )
    if validation is not None and validation.get("spec") != layer_map.spec:
        raise RysError(
            f"the validation is of {printable(str(validation.get('spec')))}, the map is "
            f"{layer_map.spec}"
        )
    # Whatever is missing in the source's header was never in the variant's.
    origin = source or variant
    verdict = None if evidence is None else _verdict_of(evidence, layer_map)
    name = header_text(variant, "general.name") or variant.name.removesuffix(".gguf")
    info = None if evidence is None else evidence.info
    data = front_matter(origin, name, verdict, info)
    values = {
        "base_model": data.base_model,
        "front_matter": Markup(data.to_yaml()),  # noqa: S704 - YAML that its library has quoted
        "name": name,
        "summary": _summary(variant, source, layer_map),
        "map": code(layer_map.spec),
        "is_recorded": variant.header.get(MAP_KEY) is not None,
        "architecture": code(variant.architecture),
        "made_with": header_text(variant, VERSION_KEY),
        "files": [
            {"name": f.name, "size": size(f.n_bytes), "n_bytes": f.n_bytes} for f in variant.files
        ],
        "path": _plain("\n".join(_path_lines(layer_map))),
        "n_layers": len(layer_map),
        "no_scores": "Not measured."
        if run is None
        else "This window was no finalist of the run: it has no scores on held-out items.",
        "scores": _scores(verdict, evidence, _digest_of_source(variant, source)),
        "command": _plain(_command(variant)),
        **_rule(variant, origin, source, layer_map),
        **_checks(validation),
    }
    return render_text("card.md.j2", values, markdown)


def markdown(value: str) -> str:
    """Text from a file as Markdown that shows it and does nothing else."""
    if _AUTOLINK.search(value):
        return code(value)
    return _MARKDOWN.sub(r"\\\1", escape(printable(value, 1000), quote=False))


def code(value: str) -> Markup:
    """Text from a file as a code span, in which nothing is a link."""
    shown = printable(value, 1000).replace("`", "'").replace("|", "\\|")
    return _plain(f"`{shown or ' '}`")


def _plain(text: str) -> Markup:
    """Text that stays as it is, since the place it goes to shows it literally."""
    return Markup(text)  # noqa: S704 - not HTML


def _summary(variant: Model, source: Model | None, layer_map: LayerMap) -> Markup:
    recorded = recorded_source(variant.header)
    name = source.name if source else recorded[0] if recorded else ""
    windows = layer_map.damped_windows()
    passes = Counter(layer_map.sources)
    blocks = blocks_of([(i, j) for i, j, _ in windows])
    path = _in_words(blocks) if blocks else f"its layers run as {layer_map.spec}"
    if blocks and layer_map.damping:
        is_once_more = all(block.form.n_passes == 2 for block in blocks)  # noqa: PLR2004 - twice
        when = "the second time" if is_once_more else "every later time"
        path += f", {when} damped by {windows[0][2]:g}"
    # A recorded map does not tell how many layers at the source's end it leaves out.
    count = (
        f"{layer_map.n_source} layers became {len(layer_map)}."
        if source
        else f"Its {len(layer_map)} layers come from {len(passes)} layers of the source."
    )
    is_whole = len(passes) == layer_map.n_source
    change = "with repeated layers" if is_whole else "with another path through its layers"
    return _plain(
        f"{code(name) if name else 'Its source'} {change} (RYS): {path}. {count} Nothing was "
        f"trained: a repeated layer is a copy."
    )


def _in_words(blocks: Sequence[Block]) -> str:
    """How blocks run, those of one form together."""
    return " and ".join(
        " and ".join(f"layers {b.start} to {b.stop - 1}" for b in alike) + f" run {form}"
        for form, alike in groupby(blocks, key=lambda block: block.form)
    )


def _path_lines(layer_map: LayerMap) -> Iterator[str]:
    """Every pass as a line at the place of its layers: a step back to the left is a repeat."""
    n = layer_map.n_source

    def line(first: int, last: int) -> str:
        left = round(first / n * _WIDTH)
        width = max(len(f"{first}{last}") + 4, round((last + 1) / n * _WIDTH) - left)
        inner = f" {'-' * (width - len(f'{first}{last}') - 4)}- "
        return " " * left + (f"{first}{inner}{last}" if first != last else f"{first}")

    yield f"normal  {line(0, n - 1)}"
    for k, (first, last) in enumerate(_stretches(layer_map.sources)):
        lead = "RYS     " if k == 0 else "        "
        yield lead + line(first, last)


def _stretches(sources: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last source of each stretch in which every layer follows the one before."""
    for _, group in groupby(enumerate(sources), lambda pair: pair[1] - pair[0]):
        stretch = [source for _, source in group]
        yield stretch[0], stretch[-1]


def _rule(
    variant: Model, origin: Model, source: Model | None, layer_map: LayerMap
) -> dict[str, Any]:
    """The architecture's rules, and whether the map keeps to them."""
    try:
        rules = ModelRules.of(origin)
    except Refused:
        unknown = _plain(
            f"{code(origin.architecture)} is not in rys-gguf's table of architectures: its layers "
            f"were taken to be alike."
        )
        return {"rules": [], "rule_verdict": unknown, "notes": []}
    where = markdown(where_read(rules.arch.source, read_from(rules.arch)))
    notes: list[str] = []
    if source is None:
        verdict = f"This is how llama.cpp runs the layers ({where})."
    elif not rules.carry(layer_map, Schedule.PORTABLE).conflicts:
        verdict = (
            f"The map respects this rule of llama.cpp ({where}): wherever a layer runs, it runs as "
            f"its original does."
        )
    else:
        explicit = rules.carry(layer_map, Schedule.EXPLICIT)
        if _is_spelled_out(variant, rules.meta, explicit.target):
            verdict = (
                f"The file spells out what the position of a layer no longer tells llama.cpp "
                f"({where}):"
            )
            notes = list(explicit.notes)
        else:
            verdict = (
                f"**The map does not respect this rule of llama.cpp ({where}), and the file does "
                f"not spell out the difference: some layers run as another kind than their "
                f"source.**"
            )
    return {
        "rules": list(rules.in_words),
        "rule_verdict": _plain(verdict),
        "notes": notes,
    }


def _is_spelled_out(variant: Model, source: Metadata, wanted: Metadata) -> bool:
    """Whether the variant has every KV that `--schedule explicit` changes."""
    changed = [kv for key, kv in wanted.kvs.items() if source.kvs.get(key) != kv]
    present = [variant.header.get(kv.key) for kv in changed]
    return all(
        there is not None and there.raw == kv.raw
        for there, kv in zip(present, changed, strict=True)
    )


def _digest_of_source(variant: Model, source: Model | None) -> str | None:
    """SHA-256 of the source's header, or the one that the variant records."""
    if source is not None:
        return source.header_digest()
    recorded = recorded_source(variant.header)
    return recorded[2].removeprefix("sha256:") if recorded else None


def _verdict_of(evidence: Evidence, layer_map: LayerMap) -> Verdict | None:
    """The verdict on a map, None if it was no finalist."""
    for verdict in verdicts(evidence):
        if verdict.trial.candidate.layer_map == layer_map:
            return verdict
    return None


def _scores(
    verdict: Verdict | None, evidence: Evidence | None, digest: str | None
) -> dict[str, Any] | None:
    if verdict is None or evidence is None:
        return None
    judgement, info = verdict.judgement, evidence.info
    measured = info.identity.get("model")
    is_other = digest and isinstance(measured, Mapping) and measured.get("sha256") != digest
    rows = [
        {
            "name": _plain(f"**{e.name}**")
            if e.name == OVERALL
            else e.name + " (control)" * (e.name in verdict.controls),
            "n": e.n,
            "base": score_text(e.base, e.base_interval),
            "variant": score_text(e.window, e.window_interval),
            "difference": points(e.estimate),
            "interval": interval_text(e.likely),
            "p": _plain(p_text(e.holm_p)),
        }
        for e in (judgement.overall, *judgement.families)
    ]
    return {
        "word": judgement.word,
        "than_base": " than the base" if judgement.word in (BETTER, WORSE) else "",
        "sentence": verdict_sentence(verdict),
        "rows": rows,
        "model": info.model.name,
        "stage": on_items(verdict.stage),
        "suite": code(str(info.identity.get("heldout"))),
        "run": code(info.run_id),
        "other_model": str(measured.get("name"))
        if is_other and isinstance(measured, Mapping)
        else "",
    }


def _checks(validation: Mapping[str, Any] | None) -> dict[str, Any]:
    rungs = () if validation is None else validation.get("rungs", ())
    checks = [{key: str(r.get(key, "")) for key in ("name", "outcome", "shows")} for r in rungs]
    builds = (
        r["details"].get("build")
        for r in rungs
        if r.get("name") == "load" and isinstance(r.get("details"), Mapping)
    )
    build = next(builds, None)
    return {"checks": checks, "build": code(str(build)) if build else ""}


def _command(variant: Model) -> str:
    # llama.cpp finds the other files of a split model by the first.
    if re.fullmatch(r"[\w.+-]+", variant.name, re.ASCII):
        return f"llama-server -m {variant.name}"
    quoted = variant.name.replace("'", "'\\''")
    return f"llama-server -m '{quoted}'"
