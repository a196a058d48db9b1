"""Render models, plans and diffs for the commands, as lines of text and as JSON.

Everything from a file passes through `printable` before it gets here or on its way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rys_gguf.formats.model import Model
from rys_gguf.layers.describe import Description, LegalLengths, letter, where_read
from rys_gguf.patch.diff import HeaderDiff, diff_plan, json_value, show_value
from rys_gguf.patch.memory import Memory
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.provenance import KEPT_FOR_UNDO
from rys_gguf.patch.writer import Written
from rys_gguf.text import printable, size

_SHOWN_TENSORS = 10
_SHOWN_LENGTHS = 12
_STRIP_WIDTH = 64


def plan_lines(planned: Plan, disk: str | None = None, *, full: bool) -> Iterator[str]:
    """Map, header diff, sizes, memory and `disk`; with `full` every tensor and value."""
    model, layer_map = planned.model, planned.layer_map
    yield f"{model.name}  {layer_map.spec}  schedule {planned.schedule.value}"
    yield f"layers   {model.n_trunk} -> {len(layer_map)}" + _mtp(model.n_mtp)
    for stretch in layer_map.stretches():
        yield f"  {stretch}"
    seam = ", ".join(f"{out} <- {source}" for out, source in layer_map.seams())
    if seam:
        yield f"seam     {seam}"
    yield "header"
    yield from _header_lines(diff_plan(planned), full=full)
    names = [(t.target.name, t.source.name) for t in planned.tensors if t.source]
    n_renamed = sum(name != source for name, source in names)
    n_copies = len(names) - len({source for _, source in names})
    copies = "1 tensor is a copy" if n_copies == 1 else f"{n_copies} tensors are copies"
    yield f"  {copies}, {n_renamed} have a different name from their source"
    if changed := [t for t in planned.tensors if t.source and not t.is_copy]:
        yield f"  {len(changed)} tensors hold data different from their source's"
    if added := [t for t in planned.tensors if not t.source]:
        yield f"  {len(added)} tensor{'s are' if len(added) > 1 else ' is'} new"
    if full:
        for tensor in planned.tensors:
            source_name = tensor.source.name if tensor.source else "(new)"
            if tensor.target.name != source_name:
                yield f"    {printable(tensor.target.name)} <- {printable(source_name)}"
    weights = f"{size(planned.memory.weights, sign=True)} weights"
    yield "memory   " + ", ".join([weights, *cache_parts(planned.memory)])
    if disk is not None:
        yield f"disk     {disk}"


def cache_parts(memory: Memory) -> Iterator[str]:
    """What a variant needs besides its weights."""
    if memory.kv_per_token:
        yield f"{size(memory.kv_per_token, sign=True)} KV cache per token (f16)"
    if memory.state:
        yield f"{size(memory.state, sign=True)} recurrent state per sequence"


def diff_lines(difference: HeaderDiff, *, full: bool) -> Iterator[str]:
    """The differences between two headers; with `full` every tensor and value."""
    yield from _header_lines(difference, full=full)
    for change in difference.tensors if full else difference.tensors[:_SHOWN_TENSORS]:
        shown = [f"{t.type_name} {list(t.ne)}" if t else "-" for t in (change.old, change.new)]
        sign = "+" if change.old is None else "-" if change.new is None else "~"
        yield f"{sign} {printable(change.name)}  {shown[0]} -> {shown[1]}"
    if hidden := 0 if full else len(difference.tensors[_SHOWN_TENSORS:]):
        yield f"  and {hidden} more tensors (--full lists them)"


def _header_lines(difference: HeaderDiff, *, full: bool) -> Iterator[str]:
    for line in difference.layout:
        yield f"  ~ {line}"
    shown = [c for c in difference.kvs if full or not c.key.startswith(KEPT_FOR_UNDO)]
    for change in shown:
        sides = []
        for kv, other in ((change.old, change.new), (change.new, change.old)):
            if kv is not None:
                # The type is said once unless it is what changed.
                same = other is not None and kv.type_name == other.type_name
                sides.append(show_value(kv, full=full) + ("" if same else f" ({kv.type_name})"))
        yield f"  {change.sign} {printable(change.key)}  {' -> '.join(sides)}"
    if n_hidden := len(difference.kvs) - len(shown):
        yield f"  and {n_hidden} keys for unapply (--full lists them)"
    yield f"tensors  {difference.n_tensors[0]} -> {difference.n_tensors[1]}"
    yield (
        f"bytes    {difference.n_bytes[0]} -> {difference.n_bytes[1]} "
        f"({size(difference.n_bytes[1] - difference.n_bytes[0], sign=True)})"
    )


def description_lines(model: Model, description: Description) -> Iterator[str]:
    """A model's layers as a strip of letters, its rules, windows, types and sizes."""
    yield f"{model.name}  {printable(description.architecture)}  {size(model.n_bytes)}"
    yield f"layers   {description.n_trunk}" + _mtp(description.n_mtp)
    strip = description.strip
    for start in range(0, len(strip), _STRIP_WIDTH):
        row = strip[start : start + _STRIP_WIDTH]
        groups = " ".join(row[k : k + 8] for k in range(0, len(row), 8))
        yield f"  {start:4} {groups}"

    kinds = {k: description.kinds.count(k) for k in dict.fromkeys(description.kinds) if k}
    legend = [f"{letter(kind)} {kind} ({n})" for kind, n in kinds.items()]
    if description.n_mtp:
        legend.append(f"M multi-token prediction ({description.n_mtp})")
    if legend:
        yield "       " + ", ".join(legend)
    for rule in description.rules:
        yield f"rule     {printable(rule, 1000)}"
    yield f"         source: {where_read(description.source, description.llama_cpp)}"
    for legal in description.legal:
        yield f"windows  {legal.schedule.value}: {_lengths(legal)}"
    for name, (n, n_bytes) in description.types.items():
        yield f"type     {name:8} {n:5} tensors  {size(n_bytes)}"
    sizes = description.layer_bytes
    yield (
        f"bytes    {size(min(sizes))} to {size(max(sizes))} per layer, "
        f"{size(description.global_bytes)} outside layers"
    )


def _lengths(legal: LegalLengths) -> str:
    possible = {n: legal.n_possible - n + 1 for n in range(1, legal.n_tried + 1)}
    tried = "" if legal.n_tried == legal.n_possible else f" of up to {legal.n_tried} layers"
    if not legal.n_windows:
        return f"none{tried}"
    if legal.n_windows == possible:
        return f"any{tried}"
    lengths = sorted(legal.n_windows)
    shown = ", ".join(str(n) for n in lengths[:_SHOWN_LENGTHS])
    shown += ", ..." if len(lengths) > _SHOWN_LENGTHS else ""
    total = sum(legal.n_windows.values())
    return f"lengths {shown} ({total} of {sum(possible.values())} windows{tried})"


def _mtp(n: int) -> str:
    return f" + {n} MTP (stays last)" if n else ""


def diff_json(difference: HeaderDiff) -> dict[str, Any]:
    """The differences between two headers."""
    return {
        "layout": list(difference.layout),
        "kvs": [
            {"key": c.key, "old": json_value(c.old), "new": json_value(c.new)}
            for c in difference.kvs
        ],
        "tensors": [
            {
                "name": c.name,
                "old": None if c.old is None else {"type": c.old.type_name, "ne": c.old.ne},
                "new": None if c.new is None else {"type": c.new.type_name, "ne": c.new.ne},
            }
            for c in difference.tensors
        ],
        "n_tensors": difference.n_tensors,
        "n_bytes": difference.n_bytes,
    }


def plan_json(planned: Plan, *, full: bool = False) -> dict[str, Any]:
    """A plan: map, header diff, sizes, memory; with `full` every tensor."""
    layer_map, memory = planned.layer_map, planned.memory
    header = diff_json(diff_plan(planned))
    del header["tensors"]  # that is the map, said once below
    data: dict[str, Any] = {
        "model": str(planned.model.files[0].path),
        "architecture": planned.model.architecture,
        "spec": layer_map.spec,
        "schedule": planned.schedule.value,
        "n_layers": [layer_map.n_source, len(layer_map)],
        "n_mtp": planned.model.n_mtp,
        "layer_map": layer_map.sources,
        "runs": [
            {"out": r.out, "source": r.source, "n_layers": r.n_layers, "damp": r.damp}
            for r in layer_map.stretches()
        ],
        "seam": layer_map.seams(),
        "header": header,
        "n_bytes": [planned.model.n_bytes, planned.n_bytes],
        "memory": {
            "weights": memory.weights,
            "kv_per_token": memory.kv_per_token,
            "state": memory.state,
        },
        "notes": planned.notes,
    }
    if full:
        data["tensors"] = [
            {
                "name": t.target.name,
                "source": t.source.name if t.source else None,
                "n_bytes": t.target.n_bytes,
                "is_copy": t.is_copy,
            }
            for t in planned.tensors
        ]
    return data


def written_json(written: Written) -> dict[str, Any]:
    """The files of an output."""
    return {
        "output": [str(path) for path in written.paths],
        "n_shared": written.n_shared,
        "n_copied": written.n_copied,
    }


def description_json(model: Model, description: Description) -> dict[str, Any]:
    """What `inspect` shows."""
    return {
        "model": str(model.files[0].path),
        "architecture": description.architecture,
        "n_layers": description.n_trunk,
        "n_mtp": description.n_mtp,
        "kinds": description.kinds,
        "strip": description.strip,
        "rules": description.rules,
        "source": description.source,
        "types": {k: {"n": n, "n_bytes": n_bytes} for k, (n, n_bytes) in description.types.items()},
        "layer_bytes": description.layer_bytes,
        "global_bytes": description.global_bytes,
        "legal_windows": {legal.schedule.value: legal.n_windows for legal in description.legal},
        "longest_window_tried": description.legal[0].n_tried,
    }
