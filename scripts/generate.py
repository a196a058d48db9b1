"""Load a model in llama.cpp and print what it generates, greedily.

usage: python scripts/generate.py MODEL PROMPT [N_TOKENS]
"""

from __future__ import annotations

import os
import sys

import xllamacpp


def main() -> None:
    """Generate once."""
    model, prompt = sys.argv[1:3]
    n_tokens = int(sys.argv[3]) if len(sys.argv) > 3 else 48
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = 1024
    params.n_parallel = 1
    # llama.cpp logs to stderr from C++; nobody reads it unless the load fails.
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as sink:
        os.dup2(sink.fileno(), 2)
    server = xllamacpp.Server(params)
    answer = server.handle_chat_completions({
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": n_tokens,
        "temperature": 0,
    })
    print(answer["choices"][0]["message"]["content"].strip(), flush=True)
    del server
    os.dup2(kept, 2)


if __name__ == "__main__":
    main()
