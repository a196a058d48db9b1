"""From a file and a spec to a written variant, in one call."""

from __future__ import annotations

import os
from pathlib import Path

from rys_gguf.errors import InvalidLayerMap
from rys_gguf.files.source import Progress
from rys_gguf.formats.model import Model
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.schedule import Schedule
from rys_gguf.patch.naming import default_output
from rys_gguf.patch.plan import make_plan
from rys_gguf.patch.writer import Written, write_plan


def apply(  # noqa: PLR0913 - all but three can only be given by name
    source: str | os.PathLike[str],
    spec: str,
    output: str | os.PathLike[str] | None = None,
    *,
    damp: float = 1.0,
    schedule: Schedule = Schedule.PORTABLE,
    provenance: bool = True,
    assume_uniform: bool = False,
    force: bool = False,
    split_max_bytes: int | None = None,
    progress: Progress = lambda _: None,
) -> Written:
    """Write the variant of the model file `source` that `spec` describes, such as "blocks:10,14".

    `damp` multiplies what its copies add to the residual stream. The file goes to `output`, or
    beside the source under the name that `default_output` gives. The other arguments are those of
    `make_plan` and `write_plan`, and so are the errors; a spec that does not fit the model raises
    InvalidLayerMap.
    """
    with Model(source) as model:
        plan = make_plan(
            model,
            parse_spec(model, spec, damp),
            schedule=schedule,
            provenance=provenance,
            assume_uniform=assume_uniform,
        )
        path = Path(output) if output is not None else default_output(model, plan.layer_map)
        return write_plan(
            plan, path, force=force, split_max_bytes=split_max_bytes, progress=progress,
            may_be_link=output is not None,
        )  # fmt: skip


def parse_spec(model: Model, spec: str, damp: float = 1.0) -> LayerMap:
    """The map that a spec describes on a model, with its copies damped.

    Raises InvalidLayerMap, naming the model.
    """
    try:
        layer_map = LayerMap.parse(spec, model.n_trunk)
        return layer_map if damp == 1 else layer_map.damped(damp)
    except InvalidLayerMap as e:
        first, newline, picture = str(e).partition("\n")
        n = model.n_mtp
        blocks = "1 MTP block, which stays" if n == 1 else f"{n} MTP blocks, which stay"
        tail = f" (and {blocks} last)" if n else ""
        raise InvalidLayerMap(f"{model.name}: {first}{tail}{newline}{picture}") from e
