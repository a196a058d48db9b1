"""The parts of the pages that are made of the code itself: tables, help texts, the picture."""

from __future__ import annotations

from collections.abc import Callable

import click

from rys_gguf.cli import main
from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from rys_gguf.layers.describe import entry
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.layers.residual import OF_PROJECTIONS

# The picture's model and window: those of README's example.
N_LAYERS, SPEC, WINDOW = 30, "blocks:10,14", range(10, 14)
# As wide as click makes a help text on a terminal of 80 columns.
HELP_WIDTH = 80


def architectures() -> str:
    """One row per architecture."""
    lines = [
        f"{len(ARCHITECTURES)} architectures, read from llama.cpp {CHECKED_AGAINST}.\n",
        "| architecture | what decides a layer's kind | portable windows | explicit windows |",
        "| --- | --- | --- | --- |",
    ]
    for arch in sorted(ARCHITECTURES.values(), key=lambda a: a.name):
        row = entry(arch)
        rules = "<br>".join(row.rules)
        explicit = "the same" if row.explicit == row.portable else row.explicit
        lines.append(f"| `{row.name}` | {rules} | {row.portable} | {explicit} |")
    return "\n".join(lines) + "\n"


def dampers() -> str:
    """One row per architecture whose layers can be damped."""
    lines = ["| architecture | tensors `blk.N.` that damp a layer |", "| --- | --- |"]
    for arch in sorted(ARCHITECTURES.values(), key=lambda a: a.name):
        if arch.dampers:
            tensors = ", ".join(f"`{damper.tensor}`" for damper in arch.dampers)
            lines.append(f"| `{arch.name}` | {tensors} |")
    return "\n".join(lines) + "\n"


def projections() -> str:
    """The architectures whose checkpoints a recipe of mergekit can damp."""
    return ", ".join(f"`{name}`" for name in sorted(OF_PROJECTIONS)) + "\n"


def commands() -> str:
    """The help of every command, as a terminal shows it."""
    parts = []
    with click.Context(main, info_name="rys-gguf", **main.context_settings) as root:
        for name in main.list_commands(root):
            command = main.get_command(root, name)
            assert command is not None
            with click.Context(
                command,
                root,
                info_name=name,
                terminal_width=HELP_WIDTH,
                max_content_width=HELP_WIDTH,
            ) as context:
                parts.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def layer_picture() -> str:
    """An SVG of the example: the model's layers, and those of the variant below them."""
    layer_map = LayerMap.parse(SPEC, N_LAYERS)
    cell, height, left, top = 20, 26, 78, 6
    seen: set[int] = set()
    boxes: list[str] = []
    lines = []
    boxes += [_box(left + source * cell, top, source) for source in range(N_LAYERS)]
    for out, source in enumerate(layer_map.sources):
        is_copy = source in seen
        seen.add(source)
        x, y = left + out * cell, top + 92
        boxes.append(_box(x, y, source))
        middle = f"{left + source * cell + cell / 2:g},{top + height}"
        kind = ' class="copy"' if is_copy else ""
        lines.append(f'<path{kind} d="M{middle} L{x + cell / 2:g},{y}"/>')
    width = left + len(layer_map) * cell + 12
    # The copy stands right behind the window.
    middle_of_copy = left + (WINDOW.stop + len(WINDOW) / 2) * cell
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 156" role="img"
 aria-label="Layers 10 to 13 of a model with 30 layers are repeated, which gives 34 layers">
<style>
text {{ font: 11px system-ui, sans-serif; fill: #57606a; text-anchor: middle }}
text.name {{ text-anchor: start; font-weight: 600 }}
rect {{ fill: #eaeef2; stroke: #8c959f }}
rect.window {{ fill: #54aeff; stroke: #0969da }}
text.window {{ fill: #032563; font-weight: 600 }}
path {{ stroke: #8c959f; stroke-opacity: .45; fill: none }}
path.copy {{ stroke: #0969da; stroke-opacity: 1; stroke-width: 1.6 }}
@media (prefers-color-scheme: dark) {{
  text {{ fill: #9198a1 }}
  rect {{ fill: #212830; stroke: #656c76 }}
}}
</style>
<text class="name" x="4" y="{top + 17}">30 layers</text>
<text class="name" x="4" y="{top + 109}">34 layers</text>
{chr(10).join(lines)}
{chr(10).join(boxes)}
<text x="{middle_of_copy:g}" y="{top + 140}">the copy: same weights, second pass</text>
</svg>
"""


def _box(x: int, y: int, source: int) -> str:
    kind = ' class="window"' if source in WINDOW else ""
    return (
        f'<rect{kind} x="{x}" y="{y}" width="18" height="26" rx="3"/>'
        f'<text{kind} x="{x + 9}" y="{y + 17}">{source}</text>'
    )


# The marked parts of pages, by the name in the mark; and whole files, by their path.
PARTS: dict[str, Callable[[], str]] = {
    "architectures": architectures,
    "dampers": dampers,
    "projections": projections,
    "commands": commands,
}
FILES: dict[str, Callable[[], str]] = {"docs/images/repeat.svg": layer_picture}
