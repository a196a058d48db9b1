"""Load a model in llama.cpp and print its greedy answer to one question.

usage: python scripts/generate.py MODEL QUESTION
"""

from __future__ import annotations

import sys

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine, open_engine


def main() -> None:
    """Ask once."""
    model, question = sys.argv[1:]
    with open_engine(model, EngineOptions(binary=find_engine(), n_ctx=1024)) as engine:
        print(engine.chat(question, 48).text.strip())


if __name__ == "__main__":
    main()
