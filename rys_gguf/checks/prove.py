"""Show in the real engine that every output layer runs as its source does.

A layer that writes zeros to the residual stream passes its input on. So choose outputs whose
sources ascend, zero-ablate every other output of the variant and every other layer of the source,
and the two must give the same distribution, bit for bit on one machine. A few such paths contain
every output between them, which proves originals and copies alike. This needs no knowledge of
layer schedules, so it also finds what the table of rules lacks and what an engine does not read.

A damped output is compared as it would be undamped. Damped by 0 instead, all of them together must
do what they do silenced: then the engine multiplies all that they add, and by what the file says.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.checks.ablation import Edit, disturb, misdamped, nudge, redamp, silence
from rys_gguf.checks.edited import EditedModels, edited_models
from rys_gguf.checks.paths import Lending, covering_paths, readers_of
from rys_gguf.checks.variant import VariantPair
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import EngineFailed
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules, metadata_of
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.rule import Architecture

BIT_FOR_BIT = "bit for bit"

_SEED = 20240
# Finding an output that differs takes a few more passes; the first few outputs tell enough.
_MAX_LOCATED = 4
# Of a vocabulary too large to send as JSON for every prompt only the most likely tokens are
# compared; each of their log-probabilities is normalised over all tokens anyway.
_MAX_COMPARED_WHOLE = 65536
_MOST_LIKELY = 4096
# Where a plan rescaled a tensor, source and variant round differently: the rescaled weight, the
# norm's product, RoPE and the attention scale each by at most half an F32 ulp, 2^-24, on either
# side. That makes less than 2^-20 for each value of Q. How far it moves a logit no formula tells,
# because kernels round Q on to F16, which turns any shift into a few whole steps. So we measure it:
# the variant's tensors are moved by 2^-20 up and down. In 8 models with random weights a rescale
# moved the logits at most 0.75 times as far, and a factor wrong by 1 % at least 6 times as far.
_NUDGE = 2.0**-20
_NUDGE_MARGIN = 2.0
# Half of a norm makes differences of whole nats. This is far above what kernels round differently.
_DISTURBED = 0.01


@dataclass(frozen=True, slots=True)
class PathResult:
    """One comparison: the outputs left in, those ablated, and how far the distributions differ.

    `max_difference` is the largest difference of a log-probability over all prompts and tokens, in
    nats; `divergence` the largest Kullback-Leibler divergence of the variant from the source over
    the prompts. `positions` are the indices of the prompts after which the two differ. `rounding`
    is the difference that rounding may make where a tensor was rescaled, in nats.
    """

    outputs: tuple[int, ...]
    ablated: tuple[int, ...]
    exact: bool
    max_difference: float
    divergence: float
    positions: tuple[int, ...]
    rounding: float = 0.0

    def within(self, tolerance: float) -> bool:
        """Whether the two agree up to `tolerance` nats, or to what rounding may make."""
        return self.exact or self.max_difference <= max(tolerance, self.rounding)


@dataclass(frozen=True, slots=True)
class Proof:
    """All comparisons, the number and greatest length of the prompts, and the engine's build.

    `differing` are the outputs that do not run as their sources; they are located only where a
    comparison failed. `all_found` is False if there may be more of them. `rescaled` are the tensors
    of each layer that the plan had to rescale. `damped` compares the variant whose damped outputs
    are damped by 0 with the one where they are ablated, and `misdamped` are the outputs that the
    file damps by another factor than the map says.
    """

    results: tuple[PathResult, ...]
    n_positions: int
    longest: int
    build: str
    differing: tuple[int, ...] = ()
    all_found: bool = True
    rescaled: tuple[str, ...] = ()
    damped: PathResult | None = None
    misdamped: tuple[int, ...] = ()

    def holds(self, tolerance: float = 0.0) -> bool:
        """Whether every difference is within `tolerance` nats; 0 demands bit-exactness."""
        return not self.misdamped and all(r.within(tolerance) for r in self._all_results)

    @property
    def _all_results(self) -> tuple[PathResult, ...]:
        return (*self.results, self.damped) if self.damped else self.results

    def precision(self, tolerance: float = 0.0) -> str:
        """How exactly a proof that holds does, in words."""
        if all(result.exact for result in self._all_results):
            return BIT_FOR_BIT
        rounding = max(result.rounding for result in self.results)
        if rounding > tolerance:
            tensors = " and ".join(self.rescaled)
            return f"within {rounding:.3g} nats, which rounding the rescaled {tensors} may make"
        return f"within {tolerance:g} nats"

    def as_json(self) -> dict[str, Any]:
        """The proof as plain values, under the names that version 0.1.0 wrote."""
        data = dataclasses.asdict(self)
        data["results"] = [
            {"silenced" if key == "ablated" else key: value for key, value in result.items()}
            for result in data["results"]
        ]
        return data


def prove(
    pair: VariantPair,
    options: EngineOptions,
    *,
    tolerance: float = 0.0,
    workdir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Proof:
    """Compare the variant with its source along paths that cover every output layer.

    With a server it needs room for a copy of the larger file in `workdir` (default: beside the
    variant) and removes the copy again; the live engine needs none. `tolerance` is in nats, for
    engines whose kernels are not bit-reproducible. `say` gets a line about every step; `progress`
    gets 1 after each of `n_passes` models. Raises EngineFailed if a model does not load or answer,
    Refused for an architecture in which an ablated layer does not pass its input on, RysError if
    the copy does not fit.
    """
    with Model(pair.variant) as variant, Model(pair.source) as source:
        rules = ModelRules.of(source, assume_uniform=True)
        if why := rules.arch.unprovable:
            raise source.refuse(f"not provable this way: {why}")
        prompts = make_prompts(source)
        longest = max(map(len, prompts))
        options = dataclasses.replace(options, n_ctx=max(256, longest + 8))
        folder = Path(workdir) if workdir else Path(pair.variant).resolve().parent
        sides = _Sides(variant, source, pair.layer_map, _rescaled(variant, rules))
        with edited_models(options, [variant, source], folder, say) as models:
            damping = partial(_damping, variant, source, pair.layer_map, rules.arch)
            runner = _Runner(rules.arch, prompts, n_probed(source), models, damping, progress)
            results = sides.compare_all(_paths(variant, source, pair.layer_map, rules), runner, say)
            damped = sides.compare_damped(runner, say)
            build = runner.build
            differing: set[int] = set()
            all_found = True
            if failed := [r for r in results if not r.within(tolerance)]:
                # The shortest prompt after which every failure shows is enough.
                shortest = prompts[max(r.positions[0] for r in failed)]
                runner = _Runner(rules.arch, [shortest], n_probed(source), models, damping)
                _require_silence(source, rules, runner, tolerance)
                say("looking for the outputs that differ")
                for result in failed:
                    accepted = max(tolerance, result.rounding)
                    located = _differing(result.outputs, sides, runner, accepted)
                    all_found = all_found and len(located) < _MAX_LOCATED
                    differing |= located
        found = tuple(sorted(differing))
        counts = len(prompts), longest
        wrong = tuple(misdamped(variant, source, pair.layer_map, rules.arch))
        return Proof(
            tuple(results), *counts, build, found, all_found, sides.rescaled, damped, wrong
        )


def n_passes(pair: VariantPair) -> int:
    """How many models a proof asks, unless it has to locate differing outputs."""
    with Model(pair.variant) as variant, Model(pair.source) as source:
        rules = ModelRules.of(source, assume_uniform=True)
        n_damped = 2 if pair.layer_map.damping else 0
        return 2 * len(_paths(variant, source, pair.layer_map, rules)) + n_damped


def _damping(
    variant: Model,
    source: Model,
    layer_map: LayerMap,
    arch: Architecture,
    model: Model,
    factor: float,
) -> Iterator[Edit]:
    """The edits that damp what is damped in `model`, one of the two, by `factor` instead."""
    return redamp(variant, source, layer_map, arch, factor) if model is variant else iter(())


def _paths(
    variant: Model, source: Model, layer_map: LayerMap, rules: ModelRules
) -> list[tuple[int, ...]]:
    lending = Lending(readers_of(variant, rules), readers_of(source, rules))
    return covering_paths(layer_map, lending)


def _require_silence(source: Model, rules: ModelRules, run: _Runner, tolerance: float) -> None:
    """Raise Refused if ablated layers of the source do not pass their input on.

    Then a difference is no fault of the variant. The first layer stays in, because later ones may
    read it, and so does the last that reads no other, because a scaled residual shows only there.
    """
    readers = readers_of(source, rules)
    last = max(n for n in range(source.n_trunk) if n not in readers)
    ablated = tuple(n for n in range(1, source.n_trunk) if n != last)
    silenced = silence(source, rules.arch, ablated)
    before = run.run(source, ablated, None)
    after = run.run(source, ablated, None, disturb(source, ablated, silenced))
    difference = _compare((0, last), ablated, before, after).max_difference
    if difference > max(tolerance, _DISTURBED):
        raise source.refuse(
            "not provable this way: its layers change what they pass on even where all that is "
            "known to write to the residual is silenced"
        )


def _rescaled(variant: Model, rules: ModelRules) -> tuple[str, ...]:
    """The tensors of each layer whose values a right variant of this layer count has changed."""
    target = metadata_of(variant)
    rescales = (r for rule in rules.arch.rules for r in rule.rescales(rules.meta, target))
    return tuple(rescale.tensor for rescale in rescales)


def runs_as(layer_map: LayerMap) -> str:
    """What a proof that holds shows of every output, as a verb and its object."""
    return "runs as its source" + ", damped where the map says so" * bool(layer_map.damping)


def describe_difference(proof: Proof, layer_map: LayerMap, tolerance: float = 0.0) -> str:
    """A clause that says which outputs differ."""
    if proof.misdamped:
        named = ", ".join(f"{out} (by {layer_map.damp(out):g})" for out in proof.misdamped)
        return f"is not damped as its map says in output {named}"
    if all(r.within(tolerance) for r in proof.results):
        return "is damped by tensors that this engine does not read, or that do not reach all"
    if not proof.differing:
        return "does not compute what its map says, but no single output can be blamed"
    named = ", ".join(f"{out} (source {layer_map[out]})" for out in proof.differing)
    if len(proof.differing) == 1:
        return f"output {named} does not run as its source"
    more = "" if proof.all_found else " and perhaps others"
    return f"outputs {named}{more} do not run as their sources"


def make_prompts(model: Model) -> list[list[int]]:
    """Prompts of growing length as token ids, the longest past the sliding window if there is one.

    The ids are random, so that no layer is idle because a text was easy.
    """
    window = model.scalar("attention.sliding_window") or 0
    limit = (model.scalar("context_length") or 1024) - 2
    lengths = [5, 17, 40, int(window) + 24]
    rng = np.random.default_rng(_SEED)
    ids = rng.integers(0, n_vocab(model), max(lengths)).tolist()
    return [ids[:n] for n in sorted({min(n, limit) for n in lengths})]


def n_vocab(model: Model) -> int:
    """The size of the vocabulary."""
    tokens = model.header.get("tokenizer.ggml.tokens")
    if tokens is not None and tokens.is_array:
        return tokens.n_items
    embedding = next((t for t in model.globals if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise model.refuse("has neither tokens nor token_embd.weight, so there is nothing to ask")
    return embedding.ne[1]


def n_probed(model: Model) -> int:
    """How many of the most likely tokens are compared after each prompt."""
    n = n_vocab(model)
    return n if n <= _MAX_COMPARED_WHOLE else _MOST_LIKELY


class _Runner:
    """Runs ablated models: log-probabilities of shape (n_prompts, n_vocab), each computed once."""

    def __init__(
        self,
        arch: Architecture,
        prompts: list[list[int]],
        n_probed: int,
        models: EditedModels,
        damping: Callable[[Model, float], Iterable[Edit]],
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._arch = arch
        self._prompts = prompts
        self._n_probed = n_probed
        self._models = models
        self._damping = damping
        self._progress = progress
        self._known: dict[object, npt.NDArray[np.float64]] = {}
        self.build = ""

    def __call__(
        self, model: Model, ablated: tuple[int, ...], n_ubatch: int | None, damp: float = 1.0
    ) -> npt.NDArray[np.float64]:
        key = (id(model), ablated, n_ubatch, damp)
        if key not in self._known:
            self._known[key] = self.run(model, ablated, n_ubatch, damp=damp)
        self._progress(1)
        return self._known[key]

    def run(
        self,
        model: Model,
        ablated: tuple[int, ...],
        n_ubatch: int | None,
        edits: Iterable[Edit] = (),
        damp: float = 1.0,
    ) -> npt.NDArray[np.float64]:
        """The same, computed anew, with more edits."""
        edits = [*self._damping(model, damp), *silence(model, self._arch, ablated), *edits]
        n = n_vocab(model)
        with self._models.open(model, edits, n_ubatch) as engine:
            self.build = engine.build
            # One by one, so that both sides compute them alike; an engine that has made room for
            # the longest has it for the others.
            rows = [engine.logprobs(ids, n, self._n_probed) for ids in reversed(self._prompts)]
            rows.reverse()
        if not all(np.isfinite(row).any() for row in rows):
            raise EngineFailed(f"{model.name}: its probabilities are not numbers")
        return np.stack(rows)


@dataclass(frozen=True, slots=True)
class _Sides:
    """The two models that are compared, and the map between their layers."""

    variant: Model
    source: Model
    layer_map: LayerMap
    rescaled: tuple[str, ...]

    def ablated(self, path: tuple[int, ...]) -> tuple[int, ...]:
        """The outputs that are not on a path."""
        return tuple(o for o in range(len(self.layer_map)) if o not in path)

    def compare_all(
        self, paths: Sequence[tuple[int, ...]], run: _Runner, say: Callable[[str], None]
    ) -> list[PathResult]:
        """`compare` for each path; the source is asked first, as changing models may take time."""
        wanted = [self._of_source(path, run) for path in paths]
        results = []
        for path, want in zip(paths, wanted, strict=True):
            say(f"silencing outputs {', '.join(map(str, self.ablated(path))) or '(none)'}")
            results.append(self._compare(path, run, want))
        return results

    def compare_damped(self, run: _Runner, say: Callable[[str], None]) -> PathResult | None:
        """The variant with its damped outputs damped by 0, and silenced; None if it has none."""
        damped = tuple(o for o, factor in enumerate(self.layer_map.damping) if factor != 1)
        if not damped:
            return None
        say(f"damping outputs {', '.join(map(str, damped))} by 0")
        want, have = run(self.variant, damped, None), run(self.variant, (), None, 0.0)
        rest = tuple(o for o in range(len(self.layer_map)) if o not in damped)
        return _compare(rest, damped, want, have)

    def compare(self, path: tuple[int, ...], run: _Runner) -> PathResult:
        """Compare the two with only the layers of `path` left in."""
        return self._compare(path, run, self._of_source(path, run))

    def _of_source(self, path: tuple[int, ...], run: _Runner) -> npt.NDArray[np.float64]:
        kept = {self.layer_map[o] for o in path}
        dropped = tuple(n for n in range(self.source.n_trunk) if n not in kept)
        return run(self.source, dropped, self._n_ubatch(path))

    def _n_ubatch(self, path: tuple[int, ...]) -> int | None:
        # llama.cpp computes the last layer for the last token only, with another kernel than for
        # many tokens at once. Where that layer is ablated on one side only, computing one token at
        # a time makes the two sides use the same kernels.
        last_kept = self.source.n_trunk - 1 in {self.layer_map[o] for o in path}
        return None if (len(self.layer_map) - 1 in path) == last_kept else 1

    def _compare(
        self, path: tuple[int, ...], run: _Runner, want: npt.NDArray[np.float64]
    ) -> PathResult:
        n_ubatch = self._n_ubatch(path)
        ablated = self.ablated(path)
        have = run(self.variant, ablated, n_ubatch)
        result = _compare(path, ablated, want, have)
        if result.exact or not self.rescaled:
            return result
        moved = [
            run.run(self.variant, ablated, n_ubatch, nudge(self.variant, self.rescaled, by))
            for by in (_NUDGE, -_NUDGE)
        ]
        farthest = max(_compare(path, ablated, have, new).max_difference for new in moved)
        return dataclasses.replace(result, rounding=_NUDGE_MARGIN * farthest)


def _differing(path: tuple[int, ...], sides: _Sides, run: _Runner, tolerance: float) -> set[int]:
    """Outputs of a failing path that do not run as their sources, at most `_MAX_LOCATED`.

    The shortest beginning of the path that fails ends with one; the search continues after it.
    """
    located: set[int] = set()
    rest = path
    while rest and len(located) < _MAX_LOCATED:
        if sides.compare(rest, run).within(tolerance):
            break
        low, high = 0, len(rest)  # rest[:low] passes, rest[:high] fails
        while high - low > 1:
            middle = (low + high) // 2
            passes = sides.compare(rest[:middle], run).within(tolerance)
            low, high = (middle, high) if passes else (low, middle)
        located.add(rest[high - 1])
        rest = rest[high:]
    return located


def _compare(
    path: tuple[int, ...],
    ablated: tuple[int, ...],
    want: npt.NDArray[np.float64],
    have: npt.NDArray[np.float64],
) -> PathResult:
    # Where only the most likely tokens were asked for, the two sides may know different ones.
    known = np.isfinite(want) & np.isfinite(have)
    difference = np.subtract(want, have, where=known, out=np.zeros_like(want))
    divergence = (np.exp(want) * difference).sum(axis=1)
    return PathResult(
        path,
        ablated,
        exact=bool(np.array_equal(want, have)),
        max_difference=float(np.abs(difference).max()),
        divergence=float(divergence.max()),
        positions=tuple(n for n in range(len(want)) if not np.array_equal(want[n], have[n])),
    )
