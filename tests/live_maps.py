"""What becomes of a random layer map in the live engine, compared with the file of the variant.

A variant that shares the weights of the loaded base must compute, bit for bit, what the written
file computes: for prompts asked together, and for tokens one at a time after a prompt. It must
compute something else than the base, unless the map changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rys_gguf import Model, Plan, write_plan
from rys_gguf.engines.base import LIVE, EngineOptions
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import HollowFile, Session
from rys_gguf.errors import EngineFailed, Refused, RysError
from rys_gguf.patch.hollow import hollow
from tests.random_maps import Case, folder_in_memory, plan_of, source_of
from tests.strategies import drawn

Array = npt.NDArray[np.float32]

SAME, REFUSED, NO_BASE, NO_MEMORY, WRONG = "same", "refused", "no base", "no memory", "wrong"
OUTCOMES = (SAME, REFUSED, NO_BASE, NO_MEMORY, WRONG)
# Rarer parts of a variant.
PARTS = ("rescaled", "gathered", "MTP", "shards", "split", "explicit", "quantized")

OPTIONS = EngineOptions(
    kind=LIVE, n_ctx=160, n_threads=1, n_ubatch=64, load_seconds=60, answer_seconds=60
)
# Prompts of several lengths: with a shared beginning that is worth computing once, one the
# beginning of another, one longer than a window of sliding attention, one longer than n_ubatch.
_SHARED = (1, *range(40, 70))
PROMPTS: tuple[tuple[int, ...], ...] = (
    (1, 50),
    (1, 50, 60, 70, 81),
    (*_SHARED, 99, 98),
    (*_SHARED, 97),
    (*_SHARED, 97, 55, 56, 57, 58, 59),
    (1, *(3 + n * 37 % 250 for n in range(90))),
)
# What is written after some of them, whatever the model thinks of it.
_WRITTEN = (77, 200, 45, 130)
_N_WRITING = 3
# Maps that are drawn at once, and how often: those of some architectures are nearly all refused.
_TURN = 10
_MAX_TURNS = 40


@dataclass(frozen=True)
class Outcome:
    """How a case ended, why, and which rarer parts the variant had."""

    kind: str
    why: str = ""
    parts: tuple[str, ...] = ()


def compare(case: Case) -> Outcome:
    """Run the variant of a case in both ways."""
    with folder_in_memory() as folder:
        return _compare(case, folder)


def _compare(case: Case, folder: Path) -> Outcome:
    source = source_of(case, folder)
    with Model(source) as model:
        try:
            plan = plan_of(case, model)
        except RysError as e:
            return Outcome(REFUSED, str(e))
        limit = plan.header.n_data_bytes // 2 if case.split else None
        written = write_plan(plan, folder / "out.gguf", split_max_bytes=limit).paths[0]
        file = hollow_file(plan, folder / "hollow.gguf")
    session = Session(source, OPTIONS)
    try:
        session.start()
        ours = answers(session.base)
    except (EngineFailed, Refused) as e:
        session.close()
        return Outcome(NO_MEMORY if isinstance(e, Refused) else NO_BASE, str(e))
    parts = _parts(case, plan)
    try:
        with session.variant(file) as variant:
            live = answers(variant)
        again = answers(session.base)
        theirs = of_file(written)
    except EngineFailed as e:
        return Outcome(WRONG, str(e), parts)
    finally:
        session.close()
    return Outcome(*_judged(ours, live, again, theirs, is_base=case.layer_map.is_identity), parts)


def hollow_file(plan: Plan, path: Path) -> HollowFile:
    """The variant of a plan without data, written to `path`."""
    variant = hollow(plan)
    variant.write(plan.model, path)
    return HollowFile(path, variant.pairs, variant.pattern)


def of_file(path: Path) -> list[Array]:
    """What the model in a file answers."""
    session = Session(path, OPTIONS)
    try:
        session.start()
        return answers(session.base)
    finally:
        session.close()


def answers(loaded: Loaded) -> list[Array]:
    """The logits after each prompt, and then those of what is written."""
    rows = list(loaded.logits(PROMPTS))
    written: list[list[Array]] = [[] for _ in PROMPTS[:_N_WRITING]]

    def follow(n: int, row: Array) -> int:
        written[n].append(row.copy())
        return _WRITTEN[len(written[n]) - 1]

    loaded.write(PROMPTS[:_N_WRITING], [len(_WRITTEN)] * _N_WRITING, follow)
    return [*rows, *(row for part in written for row in part)]


def _judged(
    ours: Sequence[Array],
    live: Sequence[Array],
    again: Sequence[Array],
    theirs: Sequence[Array],
    *,
    is_base: bool,
) -> tuple[str, str]:
    if not _equal(ours, again):
        return WRONG, "the base computes something else after its variant"
    if not all(np.isfinite(row).all() for row in theirs):
        return WRONG, "the written file's logits are not numbers"
    if not _equal(live, theirs):
        shapes = {row.shape for row in (*live, *theirs)}
        if len(live) != len(theirs) or len(shapes) > 1:
            return WRONG, "the live variant gives other numbers of logits"
        worst = max(float(np.abs(a - b).max()) for a, b in zip(live, theirs, strict=True))
        return WRONG, f"the live variant is {worst:.3g} from the written file"
    if _equal(ours, live) != is_base:
        return WRONG, f"the variant computes {'something else than' if is_base else 'as'} the base"
    return SAME, ""


def _equal(a: Sequence[Array], b: Sequence[Array]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def _parts(case: Case, plan: Plan) -> tuple[str, ...]:
    kinds = {type(t.data).__name__ for t in plan.tensors if not t.is_copy}
    found = {
        "rescaled": "bytes" in kinds,
        "gathered": "GatheredTensor" in kinds,
        "MTP": case.n_mtp > 0,
        "shards": case.n_shards > 1,
        "split": case.split,
        "explicit": case.schedule == "explicit",
        "quantized": case.quantize is not None,
    }
    return tuple(name for name in PARTS if found[name])


def outcomes(arch: str, n: int, seed_: int, max_layers: int) -> Iterator[tuple[Case, Outcome]]:
    """What becomes of random maps of an architecture, until `n` of them have been run."""
    turn = 0
    while n > 0 and turn < _MAX_TURNS:
        for case in drawn(arch, _TURN, f"{seed_}/{turn}/{arch}", max_layers):
            outcome = compare(case)
            yield case, outcome
            n -= outcome.kind in (SAME, NO_MEMORY, WRONG)
            if n == 0:
                break
        turn += 1
