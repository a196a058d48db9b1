"""Load a model in llama.cpp and print its greedy answer to one question.

usage: python scripts/generate.py MODEL QUESTION
"""

from __future__ import annotations

import sys

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.find import find_engine
from rys_gguf.engines.server import Engine


def main() -> None:
    """Ask once."""
    model, question = sys.argv[1:]
    with Engine(model, EngineOptions(binary=find_engine(), n_ctx=1024)) as engine:
        answer = engine.chat([{"role": "user", "content": question}], max_tokens=48, temperature=0)
    print(answer["choices"][0]["message"]["content"].strip())


if __name__ == "__main__":
    main()
