"""Show in the real engine that every output layer is treated as its source was.

A layer that writes zeros to the residual stream passes its input on. So: pick outputs whose sources
ascend, silence every other output of the variant and every other layer of the source, and the two
must give the same distribution, bit for bit on one machine. A family of such paths that together
contain every output shows it for originals and copies alike. It needs no knowledge of schedules,
and so finds what a table of rules missed and what an engine does not read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import open_engine
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.files.copying import copy_bytes
from rys_gguf.formats.header import Span, TensorInfo
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import architecture_of
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.text import printable

# The tensors whose products are added to the residual stream, by their name after `blk.N.`
# (gguf-py/gguf/constants.py; read off the graphs in src/models). Their biases, and the norms and
# scales behind them, write there as well.
_WRITERS = frozenset({
    "attn_output", "attn_out", "cross_attn_output", "ffn_down", "ffn_down_exps", "ffn_down_shexp",
    "ffn_down_chexps", "ssm_out", "shortconv.out_proj", "time_mix_output", "channel_mix_value",
    "vis_attn_output", "vis_ffn_down", "post_attention_norm", "post_ffw_norm", "attn_post_norm",
    "ffn_post_norm", "laurel_post_norm", "per_layer_post_norm", "altup_correct_coef",
})  # fmt: skip
_NORMS = frozenset(name for name in _WRITERS if name.endswith("norm"))

_SEED = 20240
# Each output that differs costs a few runs of the engine to find; the first few tell the story.
_MAX_LOCATED = 4
# Of a vocabulary too large to send as JSON at every position only the most likely tokens are
# compared; each log-probability is normalised over all of them anyway.
_MAX_WHOLE = 65536
_MOST_LIKELY = 4096


@dataclass(frozen=True, slots=True)
class PathResult:
    """One comparison: the outputs that spoke, and how far the two distributions were apart.

    `max_difference` is in nats over all positions and tokens, `divergence` the largest
    Kullback-Leibler divergence of one position, base from variant. `positions` are the numbers of
    the prompts at which they differ.
    """

    outputs: tuple[int, ...]
    silenced: tuple[int, ...]
    exact: bool
    max_difference: float
    divergence: float
    positions: tuple[int, ...]

    def within(self, tolerance: float) -> bool:
        """Whether the two agree up to `tolerance` nats."""
        return self.exact or self.max_difference <= tolerance


@dataclass(frozen=True, slots=True)
class Proof:
    """All comparisons, on how many positions each was made, and by which build of the engine.

    `differing` are the outputs found not to run as their sources, looked for where a comparison
    failed; `all_found` is False where there may be more.
    """

    results: tuple[PathResult, ...]
    n_positions: int
    longest: int
    build: str
    differing: tuple[int, ...] = ()
    all_found: bool = True

    def holds(self, tolerance: float = 0.0) -> bool:
        """Whether every difference is within `tolerance` nats; 0 demands bit-exactness."""
        return all(r.within(tolerance) for r in self.results)


def prove(
    variant: str | os.PathLike[str],
    source: str | os.PathLike[str],
    layer_map: LayerMap,
    options: EngineOptions,
    *,
    tolerance: float = 0.0,
    workdir: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Compare the variant with its source along paths that cover every output layer.

    Needs room for a copy of the larger file in `workdir` (default: beside the variant); it is
    removed again. `tolerance` is in nats, for engines whose kernels do not repeat bit for bit.
    `say` gets a line on every step. Raises EngineFailed if a model does not load or answer, Refused
    for an architecture in which a silenced layer does not pass its input on.
    """
    with Model(variant) as out, Model(source) as base:
        if why := architecture_of(base, assume_uniform=True).unprovable:
            raise base.refuse(f"not provable this way: {why}")
        prompts = make_prompts(base)
        options = _with_room(options, max(map(len, prompts)))
        folder = Path(workdir) if workdir else Path(variant).resolve().parent
        _require_room(folder, max(out.n_bytes, base.n_bytes), say)
        ask = _Asker(prompts, n_probed(base), options, folder)
        results = []
        for path in covering_paths(layer_map):
            silenced = ", ".join(str(o) for o in range(len(layer_map)) if o not in path)
            say(f"silencing outputs {silenced or '(none)'}")
            results.append(_along(path, out, base, layer_map, ask))
        build = ask.build
        failed = [r for r in results if not r.within(tolerance)]
        differing: set[int] = set()
        all_found = True
        if failed:
            say("looking for the outputs that differ")
            # The shortest prompt at which every failure shows will do.
            shortest = prompts[max(r.positions[0] for r in failed)]
            ask = _Asker([shortest], n_probed(base), options, folder)
        for result in failed:
            found = _differing(result.outputs, out, base, layer_map, ask, tolerance)
            all_found = all_found and len(found) < _MAX_LOCATED
            differing |= found
        return Proof(
            tuple(results),
            len(prompts),
            max(map(len, prompts)),
            build,
            tuple(sorted(differing)),
            all_found,
        )


def describe_difference(proof: Proof, layer_map: LayerMap) -> str:
    """The sentence that says which outputs differ."""
    if not proof.differing:
        return "does not compute what its map says, though no single output stands out"
    named = ", ".join(f"{out} (source {layer_map[out]})" for out in proof.differing)
    if len(proof.differing) == 1:
        return f"output {named} does not run as its source"
    more = "" if proof.all_found else " and perhaps others"
    return f"outputs {named}{more} do not run as their sources"


def _along(
    path: tuple[int, ...], out: Model, base: Model, layer_map: LayerMap, ask: _Asker
) -> PathResult:
    """Compare the two with nothing but `path` speaking."""
    kept = {layer_map[o] for o in path}
    dropped = tuple(n for n in range(base.n_trunk) if n not in kept)
    silenced = tuple(o for o in range(len(layer_map)) if o not in path)
    # llama.cpp computes the last layer for the last token only, with another kernel than many
    # tokens at once. Where that layer is silent on one side alone, one token at a time is what
    # makes the two alike.
    alike = (len(layer_map) - 1 in path) == (base.n_trunk - 1 in kept)
    n_ubatch = None if alike else 1
    want, have = ask(base, dropped, n_ubatch), ask(out, silenced, n_ubatch)
    return _compare(path, silenced, want, have)


def _differing(
    path: tuple[int, ...],
    out: Model,
    base: Model,
    layer_map: LayerMap,
    ask: _Asker,
    tolerance: float,
) -> set[int]:
    """Outputs of a failing path that do not run as their sources, at most `_MAX_LOCATED`.

    The shortest beginning of the path that fails ends with one; the search goes on behind it.
    """
    found: set[int] = set()
    rest = path
    while rest and len(found) < _MAX_LOCATED:
        if _along(rest, out, base, layer_map, ask).within(tolerance):
            break
        low, high = 0, len(rest)  # rest[:low] passes, rest[:high] fails
        while high - low > 1:
            middle = (low + high) // 2
            passes = _along(rest[:middle], out, base, layer_map, ask).within(tolerance)
            low, high = (middle, high) if passes else (low, middle)
        found.add(rest[high - 1])
        rest = rest[high:]
    return found


def covering_paths(layer_map: LayerMap) -> list[tuple[int, ...]]:
    """Ascending outputs with strictly ascending sources, the fewest found that cover every output.

    Each is as long as it can be, so that as little as possible is silenced.

    covering_paths(blocks:1,3 on 4 layers) == [(0, 1, 2, 5), (0, 3, 4, 5)]
    """
    uncovered = set(range(len(layer_map)))
    paths = []
    while uncovered:
        path = _best_path(layer_map.sources, uncovered)
        paths.append(path)
        uncovered.difference_update(path)
    return paths


def _best_path(sources: Sequence[int], uncovered: set[int]) -> tuple[int, ...]:
    """The path that covers most, and of those the longest (a weighted longest increasing run)."""
    n = len(sources)
    best: list[tuple[int, int]] = []  # (weight, predecessor) of the best path ending at each output
    for out in range(n):
        weight, before = 0, -1
        for prior in range(out):
            if sources[prior] < sources[out] and best[prior][0] > weight:
                weight, before = best[prior][0], prior
        best.append((weight + (n + 1 if out in uncovered else 1), before))
    at = max(range(n), key=lambda out: best[out][0])
    path = []
    while at >= 0:
        path.append(at)
        at = best[at][1]
    return tuple(reversed(path))


def make_prompts(model: Model) -> list[list[int]]:
    """Token-id prompts of growing length, the longest past the sliding window where there is one.

    Random ids: no layer may be idle because a text was easy.
    """
    window = model.scalar("attention.sliding_window") or 0
    limit = (model.scalar("context_length") or 1024) - 2
    lengths = [5, 17, 40, int(window) + 24]
    rng = np.random.default_rng(_SEED)
    ids = rng.integers(0, n_vocab(model), max(lengths)).tolist()
    return [ids[:n] for n in sorted({min(n, limit) for n in lengths})]


def n_vocab(model: Model) -> int:
    """Entries of the vocabulary."""
    tokens = model.header.get("tokenizer.ggml.tokens")
    if tokens is not None and tokens.is_array:
        return tokens.n_items
    embedding = next((t for t in model.globals if t.name == "token_embd.weight"), None)
    if embedding is None:
        raise model.refuse("has neither tokens nor token_embd.weight: nothing to compare")
    return embedding.ne[1]


def n_probed(model: Model) -> int:
    """How many of the most likely tokens are compared at each position."""
    n = n_vocab(model)
    return n if n <= _MAX_WHOLE else _MOST_LIKELY


def residual_writers(tensors: Iterable[TensorInfo]) -> Iterator[TensorInfo]:
    """Those tensors of one layer that have to be zero for the layer to pass its input on."""
    for tensor in tensors:
        name, _, kind = tensor.name.split(".", 2)[2].rpartition(".")
        if not name:
            name, kind = kind, ""
        # A norm behind a silenced branch gives zero by itself, but for its bias.
        if name in _WRITERS and (name not in _NORMS or kind == "bias"):
            yield tensor


@contextlib.contextmanager
def silenced_copy(model: Model, layers: Iterable[int], folder: Path) -> Iterator[Path]:
    """A copy of a model in which those layers write nothing; the model itself if there are none.

    All-zero bytes are zeros in every quantisation llama.cpp has.
    """
    layers = list(layers)
    if not layers:
        yield model.files[0].path
        return
    try:
        # In a folder of its own the copy keeps its name, which llama.cpp wants of shards.
        with tempfile.TemporaryDirectory(prefix=".rys-", dir=folder) as name:
            paths = [Path(name) / file.path.name for file in model.files]
            for file, path in zip(model.files, paths, strict=True):
                with path.open("wb") as out:
                    for _ in copy_bytes(file, out.fileno(), 0, file.n_bytes):
                        pass
            for layer in layers:
                for tensor in residual_writers(model.layers[layer]):
                    span = model.data(tensor).span
                    _write_zeros(paths[span.shard], span)
            yield paths[0]
    except OSError as e:
        reason = e.strerror or str(e)
        raise RysError(f"{printable(folder)}: cannot make a silenced copy: {reason}") from e


def _write_zeros(path: Path, span: Span) -> None:
    zeros = bytes(1 << 20)
    with path.open("r+b") as file:
        file.seek(span.offset)
        for done in range(0, span.n_bytes, len(zeros)):
            file.write(zeros[: span.n_bytes - done])


class _Asker:
    """Distributions of silenced models, shape (n_prompts, n_vocab), each asked for only once."""

    def __init__(
        self, prompts: list[list[int]], n_probed: int, options: EngineOptions, folder: Path
    ) -> None:
        self._prompts = prompts
        self._n_probed = n_probed
        self._options = options
        self._folder = folder
        self._known: dict[object, npt.NDArray[np.float64]] = {}
        self.build = ""

    def __call__(
        self, model: Model, silenced: tuple[int, ...], n_ubatch: int | None
    ) -> npt.NDArray[np.float64]:
        key = (id(model), silenced, n_ubatch)
        options = replace(self._options, n_ubatch=n_ubatch or self._options.n_ubatch)
        if key not in self._known:
            with (
                silenced_copy(model, silenced, self._folder) as path,
                open_engine(path, options) as engine,
            ):
                self.build = engine.build
                n = n_vocab(model)
                rows = [engine.logprobs(ids, n, self._n_probed) for ids in self._prompts]
            if not all(np.isfinite(row).any() for row in rows):
                raise EngineFailed(f"{model.name}: its probabilities are not numbers")
            self._known[key] = np.stack(rows)
        return self._known[key]


def _compare(
    path: tuple[int, ...],
    silenced: tuple[int, ...],
    want: npt.NDArray[np.float64],
    have: npt.NDArray[np.float64],
) -> PathResult:
    exact = bool(np.array_equal(want, have))
    # Where only the most likely tokens were asked for, the two sides know different ones.
    known = np.isfinite(want) & np.isfinite(have)
    difference = np.subtract(want, have, where=known, out=np.zeros_like(want))
    divergence = (np.exp(want) * difference).sum(axis=1)
    return PathResult(
        path,
        silenced,
        exact,
        float(np.abs(difference).max()),
        float(divergence.max()),
        tuple(n for n in range(len(want)) if not np.array_equal(want[n], have[n])),
    )


def _with_room(options: EngineOptions, n_tokens: int) -> EngineOptions:
    return replace(options, n_ctx=max(256, n_tokens + 8))


def _require_room(folder: Path, n_bytes: int, say: Callable[[str], None]) -> None:
    free = shutil.disk_usage(folder).free
    say(f"silenced copies need {n_bytes} bytes, {free} are free")
    if free < n_bytes:
        raise RysError(
            f"{printable(folder)}: {n_bytes} bytes needed for a silenced copy, {free} free; "
            f"choose another folder with --workdir"
        )
