"""Whether a model is asked through a chat template."""

from __future__ import annotations

import os

from rys_gguf.engines.base import EngineOptions
from rys_gguf.formats.model import Model

_TEMPLATE_ARGUMENTS = ("--chat-template", "--chat-template-file")


def has_template(model: str | os.PathLike[str], options: EngineOptions) -> bool:
    """Whether the model has a chat template of its own, or the engine is given one."""
    # The server cannot tell: for a model without a template it reports one that llama.cpp chose.
    if any(a.split("=")[0] in _TEMPLATE_ARGUMENTS for a in options.arguments):
        return True
    with Model(model) as opened:
        template = opened.header.get("tokenizer.chat_template")
    return template is not None and bool(template.value)
