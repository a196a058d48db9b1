"""What becomes of a random layer map of a tiny model, judged in the real engine.

A map that is accepted must give a file that computes, bit for bit, what the same model written
layer by layer computes; a proof must agree. A map that is refused must deserve it: no file that a
plain rewrite makes of it may compute what the map says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import numpy as np

from rys_gguf import LayerMap, Model, Plan, Schedule, find_problems, make_plan, write_plan
from rys_gguf.checks import edited
from rys_gguf.checks import prove as proofs
from rys_gguf.checks.variant import VariantPair
from rys_gguf.engines.base import EngineOptions
from rys_gguf.errors import EngineFailed, Refused, RysError
from scripts.naive import naive_plan
from tests import tiny
from tests.direct import DirectEngine

EXACT, CLOSE = "exact", "within tolerance"
CONFIRMED, UNPROVABLE, OVER = "refused, confirmed", "refused, unprovable", "over-refused"
NO_BASE, WRONG = "no base", "wrong"
OUTCOMES = (EXACT, CLOSE, CONFIRMED, UNPROVABLE, OVER, NO_BASE, WRONG)

# Where a plan rescales data, in nats: 60 random layers make up to 0.06 of a last bit. Without the
# rescaling the difference is above 1.
_TOLERANCE = 0.25
# Reasons that do not show in the logits of a short text: a demand of other engines, a head that
# makes no logits, a window that llama.cpp sets to 4096 (smallthinker).
_UNSEEN = (
    "are not divisible by",
    "they are the decision head",
    "fixed in llama.cpp for smallthinker",
    "(smallthinker.attention.sliding_window_pattern",
)
_NAMED = re.compile(r"blocks:[0-9]+,[0-9]+")
_OPTIONS = EngineOptions()
_PATTERN = ".attention.sliding_window_pattern"
_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Case:
    """A tiny model, a map of its layers, and how the variant is to be written."""

    arch: str
    n_layers: int
    sources: tuple[int, ...]
    schedule: str = "portable"
    options: dict[str, Any] = field(default_factory=dict)
    n_mtp: int = 0
    quantize: str | None = None
    alignment: int | None = None
    n_shards: int = 1
    split: bool = False
    provenance: bool = True
    seed: int = 0

    @classmethod
    def from_json(cls, text: str) -> Case:
        """The case that `as_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "sources": tuple(values["sources"])})

    def as_json(self) -> str:
        """One line; values that are the default are left out."""
        values = dataclasses.asdict(self)
        defaults = dataclasses.asdict(Case("", 0, ()))
        return json.dumps({k: v for k, v in values.items() if v != defaults[k]})

    @property
    def layer_map(self) -> LayerMap:
        """The map."""
        return LayerMap(self.n_layers, self.sources)

    def write(self, path: Path, sources: tuple[int, ...] | None = None, **options: Any) -> Path:
        """Write the model, or with `sources` what a plain rewrite makes of it."""
        return tiny.write(
            path,
            self.arch,
            self.n_layers,
            n_mtp=self.n_mtp,
            sources=sources,
            seed=self.seed,
            quantize=None if self.quantize is None else gguf.GGMLQuantizationType[self.quantize],
            extra={"general.alignment": self.alignment},
            **{**self.options, **options},
        )


@dataclass(frozen=True)
class Judgement:
    """What became of a case, why, and how the proof of the variant or of its substitutes ended."""

    outcome: str
    why: str = ""
    proof: str = ""


def judge(case: Case, engine: DirectEngine) -> Judgement:
    """Patch the model of a case by its map, and compare the files in the engine."""
    with folder_in_memory() as folder:
        return _judge(case, folder, engine)


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder for a while, in memory if it can be: the writer waits for the disk at every file."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="random-map-", dir=memory) as folder:
        yield Path(folder)


def _judge(case: Case, folder: Path, engine: DirectEngine) -> Judgement:
    source = source_of(case, folder)
    try:
        engine.logits(source, _prompts(source)[-1])
    except (EngineFailed, RysError) as e:
        return Judgement(NO_BASE, str(e))
    if not case.layer_map.is_identity:
        assert LayerMap.parse(case.layer_map.spec, case.n_layers) == case.layer_map
    with Model(source) as model:
        try:
            plan = plan_of(case, model)
        except RysError as refusal:
            return _judge_refusal(case, source, refusal, engine)
        return _judge_variant(case, source, plan, engine)


def plan_of(case: Case, model: Model) -> Plan:
    """The plan that a case asks for. Raises RysError."""
    return make_plan(
        model,
        case.layer_map,
        schedule=Schedule(case.schedule),
        provenance=case.provenance,
    )


def source_of(case: Case, folder: Path) -> Path:
    """Write the model of a case, in as many shards as it has."""
    whole = case.write(folder / "source.gguf")
    if case.n_shards == 1:
        return whole
    with Model(whole) as model:
        plan = naive_plan(model, LayerMap.identity(case.n_layers))
        n_bytes = plan.header.n_data_bytes // case.n_shards + 1
        return write_plan(plan, folder / "shards.gguf", split_max_bytes=n_bytes).paths[0]


def _judge_variant(case: Case, source: Path, plan: Plan, engine: DirectEngine) -> Judgement:
    folder = source.parent
    limit = plan.header.n_data_bytes // 2 if case.split else None
    out = write_plan(plan, folder / "out.gguf", split_max_bytes=limit).paths[0]
    if problems := find_problems(out, source, None if case.provenance else case.layer_map.spec):
        return Judgement(WRONG, f"verify: {problems[0]}")
    rescaled = any(isinstance(tensor.data, bytes) for tensor in plan.tensors)
    tokens = _prompts(source)[-1]
    ended = "unprovable"
    try:
        ours = engine.logits(out, tokens)
        with contextlib.suppress(Refused):
            proof = _proof(case, out, source, engine)
            ended = EXACT if all(result.exact for result in proof.results) else CLOSE
            if not proof.holds(_TOLERANCE if rescaled else 0):
                worst = max(result.max_difference for result in proof.results)
                return Judgement(WRONG, f"proof: {worst:.3g} nats apart")
        if rescaled:
            return Judgement(CLOSE, "rescaled", ended)
        plain = case.write(folder / "plain.gguf", case.sources, **listed(case))
        difference = np.abs(ours - engine.logits(plain, tokens)).max()
    except EngineFailed as e:
        return Judgement(WRONG, f"the variant or the plain rewrite: {e}")
    if difference:
        return Judgement(WRONG, f"{difference:.3g} from a plain rewrite", ended)
    return Judgement(EXACT, "", ended)


def _judge_refusal(case: Case, source: Path, refusal: RysError, engine: DirectEngine) -> Judgement:
    if false := _false_advice(case, source, str(refusal)):
        return Judgement(WRONG, false)
    ended = "does not run"
    for name, path in _candidates(case, source):
        try:
            exact = _computes_the_map(case, path, source, engine)
        except EngineFailed:
            continue
        if exact is None or (exact and any(reason in str(refusal) for reason in _UNSEEN)):
            return Judgement(UNPROVABLE, str(refusal), "unprovable" if exact is None else EXACT)
        if exact:
            return Judgement(OVER, f"{name} is exact: {refusal}", EXACT)
        ended = "differs"
    return Judgement(CONFIRMED, str(refusal), ended)


def _computes_the_map(case: Case, variant: Path, source: Path, engine: DirectEngine) -> bool | None:
    """Whether a file computes what the map says; None if nothing tells.

    What cannot be proven is compared with the rewrite that lists all kinds, if that is legal.
    """
    tokens = _prompts(source)[-1]
    logits = engine.logits(variant, tokens)
    with contextlib.suppress(Refused):
        return _proof(case, variant, source, engine).holds()
    try:
        with Model(source) as model:
            make_plan(model, case.layer_map, schedule=Schedule.EXPLICIT)
    except RysError:
        return None
    right = case.write(source.parent / "right.gguf", case.sources, **listed(case))
    return np.array_equal(logits, engine.logits(right, tokens))


def _false_advice(case: Case, source: Path, refusal: str) -> str:
    """What a refusal recommends although it is refused as well."""
    line = next((line for line in refusal.split("\n") if "nearest legal" in line), "")
    with Model(source) as model:
        for spec in _NAMED.findall(line):
            layer_map = LayerMap.parse(spec, case.n_layers)
            try:
                make_plan(model, layer_map, schedule=Schedule(case.schedule))
            except RysError as e:
                return f"recommends {spec}, which is refused: {e}"
        if "--schedule explicit" in refusal:
            try:
                make_plan(model, case.layer_map, schedule=Schedule.EXPLICIT)
            except RysError as e:
                return f"recommends the explicit schedule, which is refused: {e}"
    return ""


def _candidates(case: Case, source: Path) -> Iterator[tuple[str, Path]]:
    """Files that compute what a refused map says if any does, with a name each.

    A portable variant has to run in engines that know no arrays, so none of its files has an array
    that a portable source could do without.
    """
    plain = source.parent / "plain.gguf"
    yield "a plain rewrite", case.write(plain, case.sources, **_unlisted(case))
    if case.schedule == "explicit":
        yield "a plain rewrite with arrays", case.write(plain, case.sources, **listed(case))
    if case.schedule == "explicit" or not _unlisted(case):
        with Model(source) as model:
            plan = naive_plan(model, case.layer_map)
            yield "the renamed copy", write_plan(plan, source.parent / "naive.gguf").paths[0]


def option_names(arch: str) -> set[str]:
    """The options that `tiny.write` knows for an architecture."""
    build = tiny.Build(2, [0, 1], 0, {})
    tiny.ARCHITECTURES[arch].keys(build)
    tiny.ARCHITECTURES[arch].layer(build, 0)
    return build.taken


def listed(case: Case) -> dict[str, Any]:
    """Options that write down whatever llama.cpp would else derive from the layers' positions."""
    names, given = option_names(case.arch), case.options
    options: dict[str, Any] = {}
    if "pattern" in names:
        options["pattern"] = given.get("pattern") or True
    if "recurrent_layers" in names:
        options["recurrent_layers"] = True
    if "residual_scale" in names and given.get("residual_scale", 0.5) is None:
        options["residual_scale"] = float(np.float32(1.4) / np.sqrt(np.float32(case.n_layers)))
    if "q_lora_rank" in names and given.get("q_lora_rank", 1) is None:
        options["q_lora_rank"] = 0
    return options


def _unlisted(case: Case) -> dict[str, Any]:
    """Options that leave out an array that only repeats what the positions say."""
    if case.options.get("recurrent_layers"):
        return {"recurrent_layers": False}
    if not case.options.get("pattern"):
        return {}
    by_position = {**case.options, "pattern": True, "period": None}
    build = [
        tiny.Build(case.n_layers, list(range(case.n_layers)), case.n_mtp, options)
        for options in (case.options, by_position)
    ]
    own, same = (tiny.ARCHITECTURES[case.arch].keys(b)[_PATTERN] for b in build)
    return {"pattern": False, "period": None} if own == same else {}


def _proof(case: Case, variant: Path, source: Path, engine: DirectEngine) -> proofs.Proof:
    """A proof by the shortest and the longest prompt, which looks for no single output."""
    prompts = _prompts(source)
    with (
        mock.patch.object(edited, "open_engine", engine.open_engine),
        mock.patch.object(proofs, "make_prompts", return_value=[prompts[0], prompts[-1]]),
    ):
        pair = VariantPair(variant, source, case.layer_map)
        return proofs.prove(pair, _OPTIONS, tolerance=np.inf)


def _prompts(source: Path) -> list[list[int]]:
    with Model(source) as model:
        return proofs.make_prompts(model)
