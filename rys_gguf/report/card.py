"""A Hugging Face model card for a variant: what it is, how it runs, what was measured and checked.

Only what the files say goes into it. A licence, a base model or a language the header does not
name is left open for the author rather than guessed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from itertools import groupby
from typing import Any

from gguf.constants import GGUFValueType

from rys_gguf._version import __version__
from rys_gguf.errors import Refused, RysError
from rys_gguf.formats.model import Model
from rys_gguf.layers.architectures import CHECKED_AGAINST
from rys_gguf.layers.carry import architecture_of, metadata_of, reschedule
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rules import Metadata
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.provenance import recorded_source
from rys_gguf.stats.pairs import Evidence, RunData
from rys_gguf.stats.verdict import (
    HELD_OUT,
    OVERALL,
    Verdict,
    interval_text,
    p_text,
    points,
    score_text,
    verdicts,
)
from rys_gguf.text import printable, size

_REPOSITORY = re.compile(r"https://huggingface\.co/([\w.-]+/[\w.-]+)/?", re.ASCII)
# How Hugging Face writes the licences it knows: apache-2.0, llama3.1, cc-by-nc-4.0.
_LICENCE = re.compile(r"[a-z][a-z0-9.+-]*", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}", re.ASCII)
_MARKDOWN = re.compile(r"([\\`*_\[\]|~#])")
_WIDTH = 56


def card(
    variant: Model,
    source: Model | None,
    layer_map: LayerMap,
    run: RunData | None = None,
    validation: Mapping[str, Any] | None = None,
) -> str:
    """README.md for a variant. `validation` is what VARIANT.validate.json holds.

    Raises RysError if the run is of a model with another number of layers, or the validation of
    another map.
    """
    evidence = None if run is None else Evidence(run)
    n_layers = layer_map.n_source if evidence is None else evidence.info["model"]["n_layers"]
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
    lines = [
        *_front_matter(origin),
        "",
        f"# {_md(_name(variant))}",
        "",
        *_summary(variant, source, layer_map),
        *_files(variant),
        *_paths(layer_map),
        *_rule(variant, origin, source, layer_map),
        *_scores(layer_map, evidence, _digest_of_source(variant, source)),
        *_validated(validation),
        *_usage(variant),
    ]
    return "\n".join(lines) + "\n"


def _front_matter(origin: Model) -> Iterator[str]:
    yield "---"
    if base := _base_model(origin):
        yield f"base_model: {_yaml(base)}"
        yield "base_model_relation: merge"
    else:
        yield "# base_model: OWNER/NAME of the source model; its header does not name it"
        yield "# base_model_relation: merge"
    licence = _string(origin, "general.license")
    if licence and _LICENCE.fullmatch(licence):
        yield f"license: {_yaml(licence)}"
    else:
        yield "license: other"
        if name := _string(origin, "general.license.name") or licence:
            yield f"license_name: {_yaml(name)}"
    if link := _string(origin, "general.license.link"):
        yield f"license_link: {_yaml(link)}"
    yield "library_name: gguf"
    if languages := _languages(origin):
        yield "language:"
        yield from (f"  - {_yaml(language)}" for language in languages)
    yield "tags:"
    yield from (f"  - {tag}" for tag in ("gguf", "rys", "layer-duplication"))
    yield "---"


def _base_model(origin: Model) -> str | None:
    """The repository the source came from, by the most direct key the header has."""
    # Not general.base_model.*: that is what the source itself was made from.
    keys = ("general.source.repo_url", "general.repo_url")
    for key in keys:
        match = _REPOSITORY.fullmatch(_string(origin, key) or "")
        if match:
            return match[1]
    return None


def _languages(origin: Model) -> list[str]:
    kv = origin.header.get("general.languages")
    if kv is None or kv.item_type != GGUFValueType.STRING or not isinstance(kv.raw, bytes):
        return []
    return [value for value in kv.value if _LANGUAGE.fullmatch(value)]


def _string(model: Model, key: str) -> str | None:
    kv = model.header.get(key)
    if kv is None or kv.type != GGUFValueType.STRING or not isinstance(kv.raw, bytes):
        return None
    return str(kv.value) or None


def _name(variant: Model) -> str:
    return _string(variant, "general.name") or variant.name.removesuffix(".gguf")


def _summary(variant: Model, source: Model | None, layer_map: LayerMap) -> Iterator[str]:
    recorded = recorded_source(variant.header)
    name = source.name if source else printable(recorded[0]) if recorded else "its source"
    windows = layer_map.windows() or ()
    passes = Counter(layer_map.sources)
    what = (
        " and ".join(f"layers {i} to {j - 1}" for i, j in windows) + " run twice"
        if windows and all(passes[k] == 2 for i, j in windows for k in range(i, j))  # noqa: PLR2004
        else f"its layers run as {layer_map.spec}"
    )
    # What a recorded map does not use at the source's end it does not tell either.
    became = (
        f"{layer_map.n_source} layers became {len(layer_map)}."
        if source
        else f"Its {len(layer_map)} layers are made of {len(passes)} of the source's."
    )
    is_whole = len(passes) == layer_map.n_source
    how = "with repeated layers" if is_whole else "with another path through its layers"
    yield (
        f"`{_code(name)}` {how} (RYS): {what}. {became} Nothing was trained: a repeated layer is "
        f"a copy."
    )
    yield ""
    yield f"- Map: `{layer_map.spec}`"
    yield f"- Architecture: `{_code(variant.architecture)}`"
    yield f"- Made with rys-gguf {__version__}"


def _files(variant: Model) -> Iterator[str]:
    yield from ("", "## Files", "", "| File | Size | Bytes |", "| --- | --- | ---: |")
    for file in variant.files:
        yield f"| {_md(file.name)} | {size(file.n_bytes)} | {file.n_bytes} |"


def _paths(layer_map: LayerMap) -> Iterator[str]:
    """Every pass as a line at the place of its layers: a step back to the left is a repeat."""
    n = layer_map.n_source

    def line(first: int, last: int) -> str:
        left = round(first / n * _WIDTH)
        width = max(len(f"{first}{last}") + 4, round((last + 1) / n * _WIDTH) - left)
        inner = f" {'-' * (width - len(f'{first}{last}') - 4)}- "
        return " " * left + (f"{first}{inner}{last}" if first != last else f"{first}")

    yield from ("", "## Path", "", "```text")
    yield f"normal  {line(0, n - 1)}"
    for k, (first, last) in enumerate(_stretches(layer_map.sources)):
        lead = "RYS     " if k == 0 else "        "
        yield lead + line(first, last)
    yield "```"
    yield ""
    yield (
        f"Layers are counted from 0, ends included; the path is read line by line. The output has "
        f"{len(layer_map)} layers and runs them once each, in order."
    )


def _stretches(sources: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last source of each stretch in which every layer follows the one before."""
    for _, group in groupby(enumerate(sources), lambda pair: pair[1] - pair[0]):
        stretch = [source for _, source in group]
        yield stretch[0], stretch[-1]


def _rule(
    variant: Model, origin: Model, source: Model | None, layer_map: LayerMap
) -> Iterator[str]:
    yield from ("", "## Layers and their place", "")
    try:
        arch = architecture_of(origin)
    except Refused:
        yield (
            f"`{_code(origin.architecture)}` is not in rys-gguf's table of architectures: its "
            f"layers were taken for alike."
        )
        return
    meta = metadata_of(origin)
    rules = [text for rule in arch.rules if (text := rule.describe(meta))]
    yield from (f"- {_md(text)}" for text in rules or ["every layer alike"])
    yield ""
    where = f"{_md(arch.source)}, checked against {_md(CHECKED_AGAINST)}"
    if source is None:
        yield f"This is how llama.cpp runs the layers ({where})."
        return
    if not reschedule(arch, meta, layer_map, Schedule.PORTABLE).conflicts:
        yield (
            f"The map respects this rule of llama.cpp ({where}): wherever the source runs, every "
            f"copy runs as its original."
        )
        return
    explicit = reschedule(arch, meta, layer_map, Schedule.EXPLICIT)
    if not _is_spelled_out(variant, meta, explicit.target):
        yield (
            f"**The map does not respect this rule of llama.cpp ({where}), and the file does not "
            f"spell out the difference: some layers run as something else than their source.**"
        )
        return
    yield f"The file spells out what the place of a layer no longer tells llama.cpp ({where}):"
    yield ""
    yield from (f"- {_md(note)}" for note in explicit.notes)


def _is_spelled_out(variant: Model, source: Metadata, wanted: Metadata) -> bool:
    """Whether the variant has every KV that `--schedule explicit` changes."""
    changed = [kv for key, kv in wanted.kvs.items() if source.kvs.get(key) != kv]
    found = [variant.header.get(kv.key) for kv in changed]
    return all(f is not None and f.raw == kv.raw for f, kv in zip(found, changed, strict=True))


def _digest_of_source(variant: Model, source: Model | None) -> str | None:
    """SHA-256 of the source's header, or what the variant records of it."""
    if source is not None:
        return source.header_digest()
    recorded = recorded_source(variant.header)
    return recorded[2].removeprefix("sha256:") if recorded else None


def _scores(layer_map: LayerMap, run: Evidence | None, digest: str | None) -> Iterator[str]:
    yield from ("", "## Scores", "")
    if run is None:
        yield "Not measured."
        return
    found = [v for v in verdicts(run) if v.candidate.spec == layer_map.spec]
    if not found:
        yield "This window was no finalist of the run: it has no scores on held-out items."
        return
    yield from _verdict_lines(found[0], run.info)
    measured = run.info["identity"].get("model")
    if digest and isinstance(measured, Mapping) and measured.get("sha256") != digest:
        yield ""
        yield (
            f"**The run is of {_md(str(measured.get('name')))}, which is not the file this variant "
            f"was made from**: take its scores for this variant only if the two are one model."
        )


def _verdict_lines(verdict: Verdict, info: Mapping[str, Any]) -> Iterator[str]:
    judged = verdict.judgement
    identity = info.get("identity", {})
    yield (
        f"**{judged.word}** than the base"
        if judged.word in ("better", "worse")
        else (f"**{judged.word}**")
    )
    yield ""
    yield _md(verdict.sentence)
    yield ""
    yield "| | n | Base | Variant | Difference | 95 % interval | Holm p |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for e in (judged.overall, *judged.families):
        name = f"**{e.name}**" if e.name == OVERALL else _md(e.name)
        name += " (control)" * (e.name in verdict.controls)
        yield (
            f"| {name} | {e.n} | {score_text(e.base, e.base_interval)} "
            f"| {score_text(e.window, e.window_interval)} "
            f"| {points(e.difference)} | {interval_text(e.interval)} | {p_text(e.holm_p)} |"
        )
    yield ""
    model = info.get("model", {})
    yield (
        f"Measured on {_md(str(model.get('name')))}, {HELD_OUT.get(verdict.stage, verdict.stage)}, "
        f"suite `{_code(str(identity.get('heldout')))}`, run `{_code(str(info.get('run_id')))}`. "
        f"Scores compare variants of this model on this suite and nothing else."
    )


def _validated(validation: Mapping[str, Any] | None) -> Iterator[str]:
    yield from ("", "## What was checked", "")
    if validation is None:
        yield "No validation report."
        return
    yield from ("| Check | Result | What it shows |", "| --- | --- | --- |")
    for rung in validation.get("rungs", ()):
        name, outcome, shows = (str(rung.get(k, "")) for k in ("name", "outcome", "shows"))
        yield f"| {_md(name)} | {_md(outcome)} | {_md(shows)} |"
    build = next(
        (r["details"].get("build") for r in validation.get("rungs", ()) if r.get("name") == "load"
         and isinstance(r.get("details"), Mapping)),
        None,
    )  # fmt: skip
    if build:
        yield ""
        yield f"llama.cpp build `{_code(str(build))}`."


def _usage(variant: Model) -> Iterator[str]:
    # Quoted for a POSIX shell; llama.cpp finds the other files of a split model by the first.
    name = "'" + variant.name.replace("'", "'\\''") + "'"
    plain = re.fullmatch(r"[\w.+-]+", variant.name, re.ASCII)
    yield from ("", "## Usage", "", "```sh")
    yield f"llama-server -m {variant.name if plain else name}"
    yield "```"


def _md(value: str) -> str:
    """Text from a file as Markdown that shows it and does nothing else."""
    return _MARKDOWN.sub(r"\\\1", escape(printable(value, 1000), quote=False))


def _code(value: str) -> str:
    """Text for the inside of backticks."""
    return printable(value).replace("`", "'")


def _yaml(value: str) -> str:
    """A YAML double-quoted scalar; JSON's are a subset."""
    return json.dumps(printable(value))
