"""The program that the child process runs for xllamacpp: serve one model until signalled.

usage: python child.py '{"model": PATH, "port": N, "n_ctx": N, "n_threads": N, "n_ubatch": N,
    "texts_only": BOOL}'

The API key that clients must send is in the environment's LLAMA_API_KEY, as for llama-server.

It is run as a file and imports nothing of this package, so that it is always the code the parent
was loaded with.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> None:
    """Load the model, serve it, wait for a signal."""
    import xllamacpp

    settings = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = settings["port"]
    params.n_ctx = settings["n_ctx"]
    params.n_parallel = 1
    params.warmup = False
    # The caller chooses the sizes; fitting them to the device would load the model a second time.
    params.fit_params = False
    # In the environment, since other users can read the arguments of a process.
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    # Web pages get no answer that they may read, not even that there is a server.
    params.cors_origins = f"http://127.0.0.1:{settings['port']}"
    params.cors_credentials = False
    if settings["n_threads"]:
        params.cpuparams.n_threads = settings["n_threads"]
        params.cpuparams_batch.n_threads = settings["n_threads"]
    if settings.get("texts_only"):
        # Its weights are mapped, and never read.
        params.n_gpu_layers = 0
        params.no_extra_bufts = True
    if settings["n_ubatch"]:
        params.n_ubatch = settings["n_ubatch"]
    # At once, also while llama.cpp loads or answers: there is nothing to tidy up.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as e:
        # llama.cpp logs the details in a thread of its own; on a busy machine it needs a moment.
        time.sleep(0.2)
        sys.exit(str(e))
    print("serving", server.listening_address, flush=True)  # noqa: T201 - goes to the parent's log
    signal.pause()


if __name__ == "__main__":
    main()
