"""A smoke test's verdict as lines of text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rys_gguf.checks.loops import EXCERPT
from rys_gguf.checks.smoke import LoopVerdict, Reply
from rys_gguf.text import printable


def smoke_lines(verdict: LoopVerdict) -> Iterator[str]:
    """The verdict in lines that are safe to print: every prompt with the offending text."""
    width = max(len(pair.variant.prompt) for pair in verdict.replies)
    for pair in verdict.replies:
        beside = f"   (base: {_summary(pair.base)})" if pair.base else ""
        yield f"{pair.variant.prompt:{width}}  {_summary(pair.variant)}{beside}"
        for excerpt in dict.fromkeys(f.excerpt for f in pair.variant.findings):
            yield f"{'':{width}}  | {printable(excerpt, EXCERPT)}"
    yield from (f"note: {note}" for note in verdict.notes)
    yield from (f"failed: {reason}" for reason in verdict.reasons)


def _summary(reply: Reply) -> str:
    findings = "; ".join(f"{f.kind.value}, {f.what}" for f in reply.findings)
    nats = "" if reply.mean_nll is None else f" {reply.mean_nll:.2f} nats"
    return f"{reply.bad_share:4.0%}{nats} {findings or 'no finding'}"


def as_json(verdict: LoopVerdict) -> dict[str, Any]:
    """The verdict as plain values, with every reply in full."""
    return {
        "ok": verdict.passed,
        "reasons": list(verdict.reasons),
        "notes": list(verdict.notes),
        "prompts": [
            {
                "prompt": pair.variant.prompt,
                "variant": _reply_json(pair.variant),
                "base": _reply_json(pair.base) if pair.base else None,
            }
            for pair in verdict.replies
        ],
    }


def _reply_json(reply: Reply) -> dict[str, Any]:
    findings = [
        {"kind": f.kind.value, "score": f.score, "what": f.what, "excerpt": f.excerpt}
        for f in reply.findings
    ]
    return {
        "text": reply.text,
        "truncated": reply.truncated,
        "tokens": reply.n_tokens,
        "damage": reply.bad_share,
        # JSON has no infinity.
        "surprise": reply.mean_nll if reply.mean_nll not in (math.inf, None) else None,
        "findings": findings,
    }
