"""Run tasks of lm-evaluation-harness on a model, through this package's engine.

llama.cpp's server gives no log-probabilities of a prompt, so only tasks that generate text can run;
for others the harness itself says so.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rys_gguf.engines.base import EngineOptions
from rys_gguf.engines.interpreter import python_module
from rys_gguf.engines.server import ServerEngine
from rys_gguf.engines.template import has_template
from rys_gguf.extras import require


def run_harness(
    model: Path, tasks: str, options: EngineOptions, arguments: Sequence[str] = ()
) -> int:
    """Run `lm_eval` on the tasks (names, comma-separated) and return its exit code.

    It prints its own output. `arguments` go to it as they are. Raises RysError if it is not
    installed, EngineFailed if the engine does not start.
    """
    require("--lm-eval", "lm_eval")
    chats = has_template(model, options)
    with ServerEngine(model, options) as engine:
        kind, path = ("chat-completions", "chat/completions") if chats else ("completions",) * 2
        settings = {
            # Commas separate settings, and the file may have come with its name.
            "model": re.sub("[,=]", "_", model.name),
            "base_url": f"{engine.url}/v1/{path}",
            "num_concurrent": "1",
            "tokenizer_backend": "None",
            "tokenized_requests": "False",
        }
        arguments = [
            *("--model", f"local-{kind}"),
            *("--model_args", ",".join(f"{key}={value}" for key, value in settings.items())),
            *("--tasks", tasks),
            *(("--apply_chat_template",) if chats else ()),
            *arguments,
        ]
        environment = {**os.environ, "OPENAI_API_KEY": engine.api_key, **_no_proxy()}
        return subprocess.run(
            python_module("lm_eval", *arguments), env=environment, check=False
        ).returncode


def _no_proxy() -> dict[str, str]:
    """What keeps the harness from sending questions and key to the proxy of the environment."""
    names = ("no_proxy", "NO_PROXY")
    before = next((os.environ[name] for name in names if os.environ.get(name)), None)
    return dict.fromkeys(names, "127.0.0.1" if before is None else f"{before},127.0.0.1")
