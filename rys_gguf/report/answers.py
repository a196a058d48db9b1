"""The answers behind the numbers, for the page's own script: base and window, item by item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rys_gguf.report.markup import shown
from rys_gguf.runs.records import ItemAnswer
from rys_gguf.runs.stage import FINAL, GENERATE, PLACEBO
from rys_gguf.stats.evidence import Evidence
from rys_gguf.stats.verdict import SearchRanking, Verdict

# The page holds the answers of the best candidates; items.jsonl holds all.
_MAX_CANDIDATES = 24
_MAX_BYTES = 8_000_000
_MAX_RESPONSE = 4000


def answers(
    evidence: Evidence,
    ranking: SearchRanking,
    verdicts: Sequence[Verdict],
    questions: Mapping[str, str],
) -> dict[str, Any]:
    """What the page's script reads: `about` each item, the base's answers, and candidates'.

    Finalists come first, then the search's best, until the page is as large as a page should be.
    """
    keys = [v.trial.key for v in verdicts]
    keys += [*evidence.finalists(FINAL), *evidence.finalists(GENERATE)]
    keys += [rank.trial.key for rank in ranking.ranks if rank.gains]
    about: dict[str, Any] = {}
    base: dict[str, Any] = {}
    candidates: dict[str, Any] = {}
    room = _MAX_BYTES
    for key in list(dict.fromkeys(keys))[:_MAX_CANDIDATES]:
        trial = evidence.trials[key]
        stages: dict[str, Any] = {}
        for stage in sorted(trial.answers):
            # All looks at the held-out items are one list to a reader.
            name = str(FINAL if stage.is_look or stage == PLACEBO else stage)
            stages.setdefault(name, {}).update(_by_item(trial.answers[stage]))
            base.setdefault(name, {}).update(_by_item(evidence.base.answers.get(stage, {})))
            for item, answer in trial.answers[stage].items():
                about.setdefault(shown(item), _about(answer, questions))
        room -= len(json.dumps(stages))
        if room < 0 and candidates:
            break
        candidates[key] = {"label": shown(trial.candidate.spec), "stages": stages}
    return {"about": about, "base": base, "candidates": candidates}


def _by_item(found: Mapping[str, ItemAnswer]) -> dict[str, Any]:
    return {shown(item): _answer(answer) for item, answer in found.items()}


def _about(answer: ItemAnswer, questions: Mapping[str, str]) -> dict[str, str]:
    return {
        "family": shown(answer.family),
        "topic": shown(answer.topic),
        "gold": shown(answer.gold),
        "question": shown(questions.get(answer.item), _MAX_RESPONSE),
    }


def _answer(answer: ItemAnswer) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "status": answer.status,
        "score": None if answer.score is None else round(answer.score, 4),
        "parsed": shown(answer.parsed),
    }
    if text := "\n\n".join([*(answer.thoughts or ()), answer.response or ""]).strip():
        plain["response"] = shown(text, _MAX_RESPONSE)
    if answer.probabilities:
        plain["probabilities"] = [
            {shown(option): round(p, 4) for option, p in options.items()}
            for options in answer.probabilities
        ]
    return plain
