"""Write what a tool writes that renames tensors, raises block_count, and knows no rule.

usage: python scripts/naive.py MODEL I,J OUTPUT

Such a file often loads and computes something else; `rys-gguf prove` shows whether it does.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from rys_gguf import LayerMap, Model, Plan, Schedule, write_plan
from rys_gguf.layers.carry import ModelRules, metadata_of
from rys_gguf.layers.rule import Architecture
from rys_gguf.patch.memory import added_memory
from rys_gguf.patch.tensors import plan_tensors


def naive_plan(model: Model, layer_map: LayerMap) -> Plan:
    """A plan by the map alone: no rule is asked, and no value but block_count changes."""
    rules = ModelRules(Architecture(model.architecture, (), ""), metadata_of(model))
    count = model.header.get(model.key("block_count"))
    assert count is not None
    raised = type(count).of(
        count.key, count.type, len(layer_map) + model.n_mtp, byteorder=count.byteorder
    )
    tensors = plan_tensors(model, layer_map, rules.arch, {})
    header = replace(
        model.header,
        kvs=tuple(raised if kv.key == count.key else kv for kv in model.header.kvs),
        tensors=tuple(planned.target for planned in tensors),
    )
    memory = added_memory(model, rules.meta, layer_map)
    return Plan(model, rules, layer_map, Schedule.PORTABLE, header, tensors, memory, ())


def main() -> None:
    """Write one file."""
    if len(sys.argv) != 4:  # noqa: PLR2004 - three arguments
        sys.exit(__doc__)
    path, window, output = sys.argv[1:]
    with Model(path) as model:
        write_plan(naive_plan(model, LayerMap.parse(f"blocks:{window}", model.n_trunk)), output)


if __name__ == "__main__":
    main()
