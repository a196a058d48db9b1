"""Whether the live engine may be trusted with a model here: it is tried before it is used.

Two short variants of the model are written as `apply` writes them, and loaded as files are. Then
the same are made of pointers, in turns and in one context, and must compute the same. What was
shown of an engine, an architecture and a device is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rys_gguf._version import __version__
from rys_gguf.checks.distance import logit_distance
from rys_gguf.checks.pointers import loaded_plan
from rys_gguf.engines.base import LIVE, SERVER, EngineOptions
from rys_gguf.engines.live.arguments import gpu_layers
from rys_gguf.engines.live.context import Logits
from rys_gguf.engines.live.library import find_library
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import Session
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.files.folder import beside, private_folder
from rys_gguf.formats.model import Model
from rys_gguf.layers.carry import ModelRules
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.hollow import hollow
from rys_gguf.patch.plan import Plan, make_plan
from rys_gguf.patch.writer import write_plan

# CUDA replays a captured graph from the third equal decode on; a wrong one shows in the fourth.
_N_EQUAL = 4
_N_STEPS = 4
_PROMPT_LENGTHS = (40, 7)
_CTX = 256
_MAX_TRIED = 400
_KEY = re.compile(r"[0-9a-f]{64}")
# Which device an engine runs on.
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")


def choose_kind(
    model: Path, options: EngineOptions, say: Callable[[str], None] = lambda _: None
) -> EngineOptions:
    """The options with a kind: live where it works with this model, otherwise the server.

    `say` is told why it is the server. Raises RysError where the live engine was asked for and does
    not work.
    """
    if options.kind == SERVER:
        return options
    live = replace(options, kind=LIVE)
    try:
        require_live(model, live)
    except RysError as e:
        if options.kind == LIVE:
            raise
        say(f"note: not the live engine but llama.cpp's server: {str(e).splitlines()[0]}")
        return replace(options, kind=SERVER)
    return live


def require_live(model: Path, options: EngineOptions) -> None:
    """Raise RysError unless variants made of pointers compute what written ones do.

    It is tried once for each engine, architecture and device, which takes a few seconds.
    """
    gpu_layers(options.arguments)  # it must be able to follow them
    with Model(model) as opened:
        key = _key(opened, options)
        if key in _remembered():
            return
        with (
            private_folder(beside(model)) as folder,
            contextlib.closing(Session(model, options)) as session,
        ):
            session.start()
            _try(opened, session, folder)
    _remember(key)


def _try(model: Model, session: Session, folder: Path) -> None:
    plans = _short_plans(model)
    first, second = (_Written(session, plan, folder / f"{n}.gguf") for n, plan in enumerate(plans))
    headers = [hollow(plan) for plan in plans]
    with loaded_plan(session, plans[0]) as variant:
        first.require_same(variant)
        if headers[0].header == headers[1].header and not headers[1].own:
            # In one context, with the same shapes: an engine that reuses its graphs must notice.
            for header, written in ((headers[1], second), (headers[0], first)):
                session.point(variant, header.pairs)
                written.require_same(variant)
    with loaded_plan(session, plans[1]) as variant:
        second.require_same(variant)


class _Written:
    """What a written variant computes, and how exactly the device repeats itself."""

    def __init__(self, session: Session, plan: Plan, path: Path) -> None:
        self._name = plan.layer_map.label
        self._model = plan.model
        write_plan(plan, path)
        with session.file(path) as loaded:
            self._logits = _ask(loaded)
            self._tolerance = logit_distance(self._logits, _ask(loaded))
        path.unlink()

    def require_same(self, variant: Loaded) -> None:
        """Raise EngineFailed unless a variant computes the same."""
        distance = logit_distance(self._logits, _ask(variant))
        if not distance <= self._tolerance:
            raise EngineFailed(
                f"{self._model.name}: the self-test of the live engine failed: {self._name} made "
                f"of pointers differs from the written file by {distance:.3g} in a logit"
            )


def _ask(loaded: Loaded) -> list[Logits]:
    """Logits after prompts that are read several times, and after each of some more tokens."""
    rng = np.random.default_rng(1)
    prompts = [tuple(rng.integers(0, loaded.n_vocab, n).tolist()) for n in _PROMPT_LENGTHS]
    rows: list[Logits] = []
    for prompt in prompts:
        for _ in range(_N_EQUAL):
            rows += loaded.logits([prompt])

    def next_token(_: int, row: Logits) -> int:
        rows.append(row)
        return int(prompts[0][len(rows) % len(prompts[0])])

    loaded.write(prompts[1:], [_N_STEPS], next_token)
    return rows


def _short_plans(model: Model) -> tuple[Plan, Plan]:
    """Two plans of few layers that repeat different windows, or two windows of the whole model."""
    rules = ModelRules.of(model)
    found: dict[int, list[LayerMap]] = {}
    for layer_map in _short_maps(model.n_trunk):
        if not rules.carry(layer_map, Schedule.PORTABLE).conflicts:
            same = found.setdefault(len(layer_map), [])
            same.append(layer_map)
            if len(same) > 1:
                first, second = (make_plan(model, m, provenance=False, rules=rules) for m in same)
                return first, second
    raise EngineFailed(f"{model.name}: no two windows are legal that a self-test could compare")


def _short_maps(n: int) -> Iterator[LayerMap]:
    tried = 0
    for kept in range(2, n + 1):
        for size in range(1, kept + 1):
            for start in range(kept - size + 1):
                end = start + size
                sources = (*range(end), *range(start, kept))
                yield LayerMap(n, sources)
                tried += 1
                if tried == _MAX_TRIED:
                    yield from _windows(n)
                    return


def _windows(n: int) -> Iterator[LayerMap]:
    for size in range(1, n + 1):
        for start in range(n - size + 1):
            yield LayerMap.from_blocks([(start, start + size)], n)


# -- what is remembered ---------------------------------------------------------------------------


def _key(model: Model, options: EngineOptions) -> str:
    library = find_library(options.binary)
    status = library.path.stat()
    environment = {**os.environ, **dict(options.environment)}
    about = [
        __version__,
        str(library.path),
        status.st_size,
        status.st_mtime_ns,
        platform.node(),
        [environment.get(name) for name in _DEVICE_VARIABLES],
        options.arguments,
        model.architecture,
        sorted({tensor.type for tensor in model.header.tensors}),
    ]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _cache() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "rys-gguf" / "live-engines.txt"


def _remembered() -> set[str]:
    try:
        text = _cache().read_text("ascii")
    except (OSError, UnicodeDecodeError, RuntimeError):  # RuntimeError: there is no home
        return set()
    return set(filter(_KEY.fullmatch, text.split()))


def _remember(key: str) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        path = _cache()
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="ascii") as file:
            file.write(key + "\n")
