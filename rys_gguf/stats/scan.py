"""The scan of a run: the effects of its windows, in the form that others may read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rys_gguf._version import __version__
from rys_gguf.runs.scan import Z_95, Scan, ScanEffect, ScanModel, ScanWindow
from rys_gguf.runs.stage import Status
from rys_gguf.stats.effects import Effect
from rys_gguf.stats.evidence import Evidence, RunData
from rys_gguf.stats.verdict import Gain, Rank, Verdict, search_ranking, verdicts
from rys_gguf.text import printable

_MAX_TEXT = 256


def scan_of(run: RunData) -> Scan:
    """The scan of a run, best window first. Raises RysError if the run has no base yet."""
    evidence = Evidence(run)
    info = evidence.info
    judged = {v.trial.key: v for v in verdicts(evidence)}
    ranks = search_ranking(evidence).ranks
    return Scan(
        rys_gguf=__version__,
        model=ScanModel(
            name=_text(info.model.name),
            sha256=_text(_at(info.identity, "model", "sha256")),
            architecture=_text(info.model.architecture),
            n_layers=info.model.n_layers,
        ),
        suite=_text(_at(info.identity, "suite")),
        heldout=_text(_at(info.identity, "heldout")),
        # Its arguments may name files of the user.
        engine=_text(_at(info.identity, "engine", "build")),
        windows=tuple(_window(r, judged.get(r.trial.key)) for r in ranks),
    )


def _window(rank: Rank, verdict: Verdict | None) -> ScanWindow:
    candidate, ending = rank.trial.candidate, rank.trial.ending
    held_out = verdict.judgement.overall if verdict else None
    return ScanWindow(
        spec=_text(candidate.spec),
        windows=candidate.windows,
        added_layers=candidate.n_added,
        status=ending.status.value if ending else Status.OK.value,
        n_items=rank.n_items,
        search={name: _gain(gain) for name, gain in rank.gains.items()},
        n_held_out=held_out.n if held_out else 0,
        held_out=_effect(held_out) if held_out else None,
        verdict=verdict.judgement.word if verdict else "",
    )


def _gain(gain: Gain) -> ScanEffect:
    # No spread at all means too few items to see one.
    if not gain.error:
        return ScanEffect(mean=gain.mean)
    reach = Z_95 * gain.error
    return ScanEffect(mean=gain.mean, low=gain.mean - reach, high=gain.mean + reach)


def _effect(effect: Effect) -> ScanEffect:
    low, high = effect.likely.low, effect.likely.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return ScanEffect(mean=effect.estimate)
    return ScanEffect(mean=effect.estimate, low=low, high=high)


def _at(identity: Mapping[str, Any], *keys: str) -> str:
    """A text of an identity, which is a plain object of any shape."""
    value: Any = identity
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else ""


def _text(text: str) -> str:
    return printable(text, _MAX_TEXT - 3)[:_MAX_TEXT]
