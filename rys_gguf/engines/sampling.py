"""How answers are sampled, and whether a model is asked through a chat template."""

from __future__ import annotations

import os
from typing import Any

from rys_gguf.engines.base import EngineOptions
from rys_gguf.formats.model import Model

# All of these spelled out: a GGUF may bring sampling defaults (general.sampling.*), and whatever
# punishes repetition would hide what is looked for. llama.cpp tools/server/README.md.
GREEDY: dict[str, Any] = {
    "temperature": 0.0,
    "top_k": 1,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,
    "seed": 0,
    "cache_prompt": False,
}


def has_template(model: str | os.PathLike[str], options: EngineOptions) -> bool:
    """Whether the model brings a chat template of its own, or the engine was given one."""
    # Not from /props: for a file without a template llama.cpp reports one of its own there.
    if any(a.split("=")[0] in _TEMPLATE_ARGUMENTS for a in options.arguments):
        return True
    with Model(model) as opened:
        template = opened.header.get("tokenizer.chat_template")
    return template is not None and bool(template.value)


_TEMPLATE_ARGUMENTS = ("--chat-template", "--chat-template-file")
