"""Write what a tool writes that renames tensors, raises block_count, and knows no rule.

usage: python scripts/naive.py MODEL I,J OUTPUT

Such a file often loads and computes something else; `rys-gguf prove` shows whether it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from rys_gguf import LayerMap, Model, Plan, Schedule, write_plan
from rys_gguf.formats.header import layer_of, padded, rename
from rys_gguf.patch.plan import PlannedTensor


def naive_plan(model: Model, layer_map: LayerMap) -> Plan:
    """A plan by the map alone: no rule is asked, and no value but block_count changes."""
    count = model.header.get(model.key("block_count"))
    assert count is not None
    raised = type(count).of(
        count.key, count.type, len(layer_map) + model.n_mtp, byteorder=model.header.byteorder
    )
    tensors = tuple(_tensors(model, layer_map))
    header = replace(
        model.header,
        kvs=tuple(raised if kv.key == count.key else kv for kv in model.header.kvs),
        tensors=tuple(planned.target for planned in tensors),
    )
    return Plan(model, layer_map, Schedule.PORTABLE, header, tensors, ())


def _tensors(model: Model, layer_map: LayerMap) -> Iterator[PlannedTensor]:
    offset = 0
    for source in model.header.tensors:
        layer = layer_of(source.name)
        if layer is None:
            names = [source.name]
        elif layer >= model.n_trunk:
            names = [rename(source.name, layer + layer_map.n_added)]
        else:
            names = [rename(source.name, out) for out in layer_map.outputs_of(layer)]
        for name in names:
            target = replace(source, name=name, offset=offset)
            yield PlannedTensor(target, source, model.data(source))
            offset = padded(offset + source.n_bytes, model.header.alignment)


def main() -> None:
    """Write one file."""
    if len(sys.argv) != 4:  # noqa: PLR2004 - three arguments
        sys.exit(__doc__)
    path, window, output = sys.argv[1:]
    with Model(path) as model:
        write_plan(naive_plan(model, LayerMap.parse(f"blocks:{window}", model.n_trunk)), output)


if __name__ == "__main__":
    main()
