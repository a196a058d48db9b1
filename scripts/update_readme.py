"""Write the table of architectures into README.md, between its two markers.

usage: python scripts/update_readme.py [--check]     (--check only says whether it is current)
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from rys_gguf.layers.architectures import ARCHITECTURES, CHECKED_AGAINST
from rys_gguf.layers.describe import entry

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- architectures -->\n", "<!-- /architectures -->\n"


def table() -> str:
    """Architectures grouped by the windows they allow."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for arch in ARCHITECTURES.values():
        found = entry(arch)
        groups[found.portable, found.explicit].append(arch.name)
    lines = [
        f"{len(ARCHITECTURES)} architectures, read from llama.cpp {CHECKED_AGAINST}.\n",
        "| a window respects | with --schedule explicit | architectures |",
        "| --- | --- | --- |",
    ]
    for (portable, explicit), names in sorted(groups.items(), key=lambda g: (-len(g[1]), g[0])):
        same = "the same" if explicit == portable else explicit
        lines.append(f"| {portable} | {same} | {', '.join(sorted(names))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Replace what stands between the markers, or compare."""
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    new = f"{before}{BEGIN}{table()}{END}{after}"
    if "--check" in sys.argv:
        sys.exit(0 if new == text else "README.md: the table is old; run scripts/update_readme.py")
    README.write_text(new)


if __name__ == "__main__":
    main()
