"""Measure the speed of a window beside the base, in turns, so that both see the same machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from rys_gguf.engines.base import Engine, Speed
from rys_gguf.layers.layer_map import LayerMap

# How often each model has its turn, how often it is measured in a turn, and the tokens written.
_TURNS = 2
_RUNS = 2
_N_TOKENS = 32

OpenEngine = Callable[[LayerMap], AbstractContextManager[Engine]]


def measure_speed(
    open_engine: OpenEngine, layer_map: LayerMap, tokens: Sequence[int]
) -> dict[str, float | None]:
    """Tokens per second of a model in reading `tokens` and in writing, as the engine counts them.

    Each is the best of all runs, since whatever else the machine does only slows a run down. A
    window is measured in turns with the base, whose speed is given as well. `spread` is the largest
    difference between two turns of the same model, as a fraction of the faster one: a ratio of
    speeds that differs from 1 by less than that says nothing.
    """
    base = LayerMap.identity(layer_map.n_source)
    models = {"base_": base, "": layer_map} if layer_map != base else {"": base}
    turns: dict[str, list[Speed]] = {name: [] for name in models}
    for _ in range(_TURNS):
        for name, model in models.items():
            with open_engine(model) as engine:
                turns[name].append(_best(engine.speed(tokens, _N_TOKENS) for _ in range(_RUNS)))
    measures: dict[str, float | None] = {}
    for name, speeds in turns.items():
        best = _best(speeds)
        measures[f"{name}prompt_tokens_per_second"] = best.prompt
        measures[f"{name}tokens_per_second"] = best.generation
    measures["spread"] = max(_spreads(turns.values()), default=None)
    return measures


def _best(speeds: Iterable[Speed]) -> Speed:
    prompts, generations = zip(*((s.prompt, s.generation) for s in speeds), strict=True)
    return Speed(
        max((x for x in prompts if x), default=None),
        max((x for x in generations if x), default=None),
    )


def _spreads(turns: Iterable[Sequence[Speed]]) -> Iterator[float]:
    for speeds in turns:
        for values in ([s.prompt for s in speeds], [s.generation for s in speeds]):
            known = [x for x in values if x]
            if len(known) > 1:
                yield 1 - min(known) / max(known)
