"""Synthetic runs: a base, windows of known worth, one that was dropped, one that failed.

What is planted is known, so a report on such a run can be right or wrong.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.records import RunInfo, decode_info
from rys_gguf.runs.storage import INFO, ITEMS, RESULTS, Run
from rys_gguf.runs.trial import Trial, Trials

N_LAYERS = 24
WINNER = (10, 14)
HELD_OUT = {"math": 80, "eq": 60, "reasoning": 200}
SEARCH = {"math": 24, "eq": 16, "reasoning": 48}
_TOPICS = {"math": "sqrt", "eq": "contrast", "reasoning": "date"}


@dataclass
class FakeRun:
    """A run as its files say it: `raw` is run.json, `results` and `items` are lines to change.

    It is read as `rys_gguf.runs.storage.Run` is, each time anew.
    """

    raw: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    folder: Path = Path("nowhere")

    @property
    def info(self) -> RunInfo:
        """run.json, decoded."""
        return decode_info(json.dumps(self.raw).encode(), INFO)

    @property
    def trials(self) -> Trials:
        """What the lines come to."""
        return self.read().trials

    @property
    def base(self) -> Trial | None:
        """The trial of the model as it is."""
        return self.read().base

    def read(self) -> Run:
        """The run of these lines, as if it were read from its folder."""
        run = Run(self.folder, self.info)
        run.replay(
            ((f"{ITEMS}, line {n}", _line(line)) for n, line in enumerate(self.items, 1)),
            ((f"{RESULTS}, line {n}", _line(line)) for n, line in enumerate(self.results, 1)),
        )
        return run

    def write(self, folder: Path) -> Path:
        """Its files in a folder, which is made."""
        folder.mkdir(parents=True)
        (folder / INFO).write_text(json.dumps(self.raw, indent=2) + "\n")
        for name, lines in ((RESULTS, self.results), (ITEMS, self.items)):
            (folder / name).write_bytes(b"".join(_line(line) + b"\n" for line in lines))
        return folder

    def copy(self) -> FakeRun:
        """Another one, to be changed."""
        # Ten times as fast as copy.deepcopy for its thousands of lines.
        copied: FakeRun = pickle.loads(pickle.dumps(self))
        return copied


def _line(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode(value)


def name_of(window: tuple[int, int] | None, n: int = N_LAYERS) -> str:
    """The key of a candidate: its path."""
    return f"0-{n - 1}" if window is None else f"0-{window[1] - 1},{window[0]}-{n - 1}"


def info(n: int = N_LAYERS, **changes: Any) -> dict[str, Any]:
    """A run.json."""
    return {
        "schema": 1,
        "run_id": "0123456789abcdef",
        "identity": {
            "model": {"name": "tiny.gguf", "sha256": "ab" * 32, "n_bytes": 98_362_432},
            "suite": "suite-1",
            "heldout": "heldout-1",
            "engine": {"name": "llama-server", "build": "b1"},
            "settings": {"threads": 2, "thinking": False},
        },
        "model": {
            "name": "tiny-instruct.Q4_1.gguf",
            "path": "tiny-instruct.Q4_1.gguf",
            "architecture": "llama",
            "n_layers": n,
            "n_bytes": 98_362_432,
            "rule": "every layer alike",
            "layer_bytes": [2_217_024] * n,
        },
        "plan": {"name": "two-pass"},
        "families": ["math", "eq", "reasoning"],
        "floors": {
            "math": {"constant": 0.3, "random": 0.2},
            "eq": {"constant": 0.0, "random": 0.0},
            "reasoning": {"constant": 0.2, "random": 0.25},
        },
        "provenance": {"eq": "references of a single author, no human norms"},
        "illegal": [{"spec": "blocks:5,8", "rule": "output 8 would run as another kind"}],
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }


def make_run(
    seed: int = 0,
    *,
    final: bool = True,
    generate: bool = False,
    gain: Mapping[tuple[int, int], float] | None = None,
    finalists: tuple[tuple[int, int], ...] = (WINNER, (9, 13), (2, 6)),
    n: int = N_LAYERS,
) -> FakeRun:
    """A run of 4-layer windows of stride 1; `gain` is what a window truly adds, as a fraction."""
    rng = random.Random(seed)
    run = FakeRun(info(n))
    truth = {WINNER: 0.16, (9, 13): 0.05} if gain is None else dict(gain)
    windows = [(i, i + 4) for i in range(n - 3)]
    dropped, failed = windows[0], windows[-1]
    search, held_out = _suite(rng, "s", SEARCH), _suite(rng, "h", HELD_OUT)
    luck = {item: rng.random() for item, _, _ in search + held_out}
    for window in [None, *windows]:
        worth = truth.get(window, -0.004 * abs(window[0] - 10)) if window else 0.0
        name = name_of(window, n)
        kl = 0.0 if window is None else 0.2 + 0.1 * abs(window[0] - 10)
        lines = _Lines(run, name, window)
        if window == failed:
            lines.add("damage", {}, status="failed", reason="the engine ended with code 1")
            continue
        bad = window == dropped
        lines.add(
            "damage",
            {"kl": 9.5 if bad else kl, "nll": 2.5},
            status="dropped" if bad else "ok",
            reason="divergence 9.5 nats is above 5" if bad else None,
        )
        if bad:
            continue
        lines.ask("round1", search, worth, rng, luck)
        if window is None or window in finalists:
            speed = {"tokens_per_second": 100.0 if window is None else 86.0}
            if final:
                lines.ask("final", held_out, worth, rng, luck)
            if final and generate:
                lines.ask("generate", held_out, worth, rng, luck)
            if final:
                lines.add("speed", speed)
    return run


def _suite(
    rng: random.Random, prefix: str, sizes: Mapping[str, int]
) -> list[tuple[str, str, float]]:
    return [
        (f"{prefix}-{family}-{k}", family, rng.betavariate(1.3, 1.3))
        for family, n in sizes.items()
        for k in range(n)
    ]


@dataclass
class _Lines:
    """Writes the lines of one candidate."""

    run: FakeRun
    name: str
    window: tuple[int, int] | None

    def add(self, stage: str, measures: dict[str, Any], **changes: Any) -> None:
        """A result line."""
        i, j = self.window or (0, 0)
        self.run.results.append(
            {
                "candidate": self.name,
                "spec": f"blocks:{i},{j}" if self.window else "base",
                "windows": [[i, j]] if self.window else [],
                "extra_layers": j - i,
                "is_base": self.window is None,
                "stage": stage,
                "status": "ok",
                "reason": None,
                "measures": measures,
                "n_items": 0,
                "bytes_written": 2_217_024,
                "engine_seconds": 3.5,
                **changes,
            }
        )

    def ask(
        self,
        stage: str,
        suite: list[tuple[str, str, float]],
        worth: float,
        rng: random.Random,
        luck: dict[str, float],
    ) -> None:
        """Item lines, and the result; an item is as hard for all, `worth` makes it easier."""
        for item, family, ease in suite:
            chance = min(1.0, max(0.0, ease + worth))
            # Half of what a model gets right by luck it gets right in every variant.
            shared = luck[item] if rng.random() < 0.6 else rng.random()
            right = shared < chance
            graded = min(1.0, 0.3 + 0.4 * ease + worth + rng.gauss(0, 0.2))
            score = graded if family == "eq" else right
            self.run.items.append(
                {
                    "candidate": self.name,
                    "stage": stage,
                    "scoring": "generate" if stage == "generate" else "quick",
                    "item": item,
                    "family": family,
                    "topic": _TOPICS[family],
                    "binary": family != "eq",
                    "status": "ok",
                    "score": float(score),
                    "credit": float(score) if family == "eq" else chance,
                    "parsed": "A" if right else "B",
                    "gold": "A",
                    "response": f"Answer: {'A' if right else 'B'}" if stage == "generate" else None,
                    "probabilities": [{" A": chance, " B": 1 - chance}],
                }
            )
        self.add(stage, {}, n_items=len(suite))


def add_map(run: FakeRun, spec: str, like: tuple[int, int], more: float = 0.0) -> str:
    """Add a candidate to a run: it answered what that window answered, by `more` better; its key.

    Soft scores only differ, so that its verdict is the window's where that is a finalist.
    """
    candidate = Candidate(LayerMap.parse(spec, N_LAYERS))
    as_it: dict[str, Any] = {"candidate": candidate.key}
    for line in [x for x in run.items if x["candidate"] == name_of(like)]:
        run.items.append({**line, **as_it, "credit": min(1.0, line["credit"] + more)})
    as_it |= {
        "spec": candidate.spec, "windows": [list(w) for w in candidate.windows],
        "extra_layers": candidate.n_added,
    }  # fmt: skip
    for line in [x for x in run.results if x["candidate"] == name_of(like)]:
        run.results.append({**line, **as_it})
    return candidate.key
