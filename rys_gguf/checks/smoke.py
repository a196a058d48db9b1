"""Let a model write a little, and judge whether it still writes language.

A model with wrong per-layer metadata or a badly chosen window tends to repeat itself. So it is
asked, greedily, for things that need no repetition, and its replies go through the detectors of
`loops`. A broken model may also write nonsense without repeating itself; that shows in how unsure
it was of its own words. Small models loop even unmodified, which is why a variant is compared with
its source where possible.

A variant that passes still writes text; whether the text is right is another question.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rys_gguf.checks.loops import Finding, judge, repeated_share
from rys_gguf.engines.base import Engine, EngineOptions, Generation, Writing
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.template import has_template


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, and the beginning of an answer for a model that only continues text."""

    name: str
    question: str
    opening: str

    @property
    def as_text(self) -> str:
        """The text that a model without a chat template continues."""
        return f"{self.question}\n\n{self.opening}"


# Each asks for something whose parts have to differ, so that a reply that repeats is wrong. None
# asks for a series (a times table, a calendar), which may repeat.
PROMPTS = (
    Prompt(
        "scenes",
        "Describe an evening at a night market in 10 separate one-sentence scenes, numbered from "
        "1 to 10. No two sentences may open with the same word.",
        "1.",
    ),
    Prompt(
        "table",
        "Make a table with the columns Animal, Home and Food, and fill in six different animals.",
        "| Animal | Home | Food |",
    ),
    Prompt(
        "code",
        "Write a Python function that returns the median of a list of numbers, and show one call "
        "of it.",
        "def",
    ),
    Prompt(
        "sum",
        "A baker sells 14 loaves in the morning and 23 in the afternoon, at 3 coins each. Work out "
        "step by step what the baker earned that day.",
        "First,",
    ),
    Prompt(
        "story",
        "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
        "One",
    ),
    Prompt(
        "reason",
        "Explain to a child why the sea is salty and lakes mostly are not.",
        "The",
    ),
    Prompt(
        "dialogue",
        "Write a dialogue of ten lines between a tailor and a customer who wants his old coat "
        "mended.",
        "Tailor:",
    ),
    Prompt(
        "steps",
        "List the steps for planting a young tree, in order, each with the reason for it.",
        "1.",
    ),
)
N_TOKENS = 112


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply to the prompt of that name; `truncated` if the token limit ended it.

    `text` includes the thoughts of a model that thinks although it was told not to. `mean_nll` is
    the mean of -log p over the tokens it chose, in nats: infinite if a probability was not a
    number, None if there were no tokens.
    """

    prompt: str
    text: str
    truncated: bool
    n_tokens: int
    mean_nll: float | None = None

    @property
    def findings(self) -> list[Finding]:
        """Everything wrong with it."""
        return judge(self.text, truncated=self.truncated)

    @property
    def bad_share(self) -> float:
        """The useless share, 0 to 1: all of it if it is not text, else the part that repeats."""
        findings = self.findings
        if not all(f.kind.is_text for f in findings):
            return 1.0
        return max([repeated_share(self.text)[0], *(f.score for f in findings)])


def run_smoke(
    model: str | os.PathLike[str],
    options: EngineOptions,
    *,
    n_tokens: int = N_TOKENS,
    prompts: Sequence[Prompt] = PROMPTS,
    progress: Callable[[Reply], None] = lambda _: None,
) -> tuple[Reply, ...]:
    """A model's replies, of at most `n_tokens` each, greedy, without thinking.

    A model that has no chat template continues the prompt instead. `progress` is called with each
    reply as it arrives. Raises EngineFailed if the model does not load or a request fails.
    """
    chats = has_template(model, options)
    # One by one: side by side the live engine rounds otherwise, which turned a near tie and with it
    # the verdict on a variant of SmolLM2. One by one it writes what a server writes there.
    found: list[Reply] = []
    with open_engine(model, options) as engine:
        for prompt in prompts:
            found += replies_to(engine, [prompt], n_tokens, chats=chats)
            progress(found[-1])
    return tuple(found)


def replies_to(
    engine: Engine, prompts: Sequence[Prompt], n_tokens: int, *, chats: bool
) -> list[Reply]:
    """A running engine's replies; `chats` says to use the chat template. Raises EngineFailed."""
    written = engine.write(
        [
            Writing(
                prompt.question if chats else prompt.as_text, n_tokens, chat=chats, with_nll=True
            )
            for prompt in prompts
        ]
    )
    return [_reply(prompt, found) for prompt, found in zip(prompts, written, strict=True)]


def _reply(prompt: Prompt, written: Generation) -> Reply:
    # Thoughts must not loop either.
    text = "\n".join(part for part in (written.thoughts, written.text) if part)
    return Reply(prompt.name, text, written.truncated, written.n_tokens, written.mean_nll)


# Measured on 19 variants of SmolLM2-135M-Instruct and 6 of Gemma 3 270M, whose replies of 112 or
# 128 tokens were read by eye. SmolLM2 itself has findings in 1 to 3 of 8 replies, a bad share of 24
# to 31 % and 0.54 nats per token. Its readable variants: 1 to 3, 25 to 43 %, 0.55 to 0.64 nats.
# Those that loop: 6 to 8, 61 to 100 %. One between the two (blocks:20,24): 4 to 6, 36 to 50 %. Word
# salad may have no finding at all, but 1.2 to 1.4 nats. Gemma, which has no template, loops
# unmodified in 6 or 7 of 8 replies, 65 to 80 %, 0.30 nats.
_MAX_FAILED_SHARE = 0.5
_MAX_NOT_TEXT = 1
_MAX_MORE_FAILED = 3
_MAX_MORE_BAD = 0.25
_MAX_NLL = 1.1
_MAX_MORE_NLL = 0.4
_UNTELLING_BAD_SHARE = 0.75
_FEW_TOKENS = 0.25


@dataclass(frozen=True, slots=True)
class ReplyPair:
    """The variant's reply to one prompt, and the base's if there is one."""

    variant: Reply
    base: Reply | None


@dataclass(frozen=True, slots=True)
class LoopVerdict:
    """Whether the replies speak against the variant.

    `reasons` say why it failed and are empty if it passed; `notes` say what limits the verdict.
    """

    replies: tuple[ReplyPair, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no reason to reject the variant."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over all replies: those with a finding, those that are not text, and the means.

    `mean_nll` is the mean over the replies that have one, in nats per token.
    """

    n: int
    n_failed: int
    n_not_text: int
    bad_share: float
    mean_nll: float
    n_tokens: int

    @classmethod
    def of(cls, replies: Iterable[Reply]) -> Tally:
        """The counts of these replies."""
        replies = list(replies)
        findings = [reply.findings for reply in replies]
        return cls(
            n=len(replies),
            n_failed=sum(map(bool, findings)),
            n_not_text=sum(not all(f.kind.is_text for f in found) for found in findings),
            bad_share=fmean(reply.bad_share for reply in replies),
            mean_nll=fmean([r.mean_nll for r in replies if r.mean_nll is not None] or [0.0]),
            n_tokens=sum(reply.n_tokens for reply in replies),
        )


def compare(variant: Sequence[Reply], base: Sequence[Reply] | None = None) -> LoopVerdict:
    """Judge a variant, alone or beside its base's replies to the same prompts.

    Alone, at most half of its replies may have a finding and at most one may not be text. Beside
    its base, it must not be clearly worse.
    """
    if not variant:
        raise ValueError("no replies to judge")
    if base is None:
        alone = tuple(ReplyPair(reply, None) for reply in variant)
        return LoopVerdict(alone, *_judge_alone(Tally.of(variant)))
    if [reply.prompt for reply in variant] != [reply.prompt for reply in base]:
        raise ValueError("the two models answered different prompts")
    pairs = tuple(map(ReplyPair, variant, base))
    return LoopVerdict(pairs, *_judge_beside(Tally.of(variant), Tally.of(base)))


def _judge_alone(have: Tally) -> tuple[tuple[str, ...], tuple[str, ...]]:
    reasons = []
    if have.n_not_text > _MAX_NOT_TEXT:
        reasons.append(f"{have.n_not_text} of {have.n} replies are not text")
    if have.n_failed > _MAX_FAILED_SHARE * have.n:
        reasons.append(
            f"{have.n_failed} of {have.n} replies loop, repeat themselves or are not text"
        )
    if have.mean_nll > _MAX_NLL:
        reasons.append(f"{have.mean_nll:.2f} nats per token: the model is unsure of its own words")
    notes = ("small models loop even unmodified: compare with the source to be sure",)
    return tuple(reasons), notes if reasons else ()


def _judge_beside(have: Tally, base: Tally) -> tuple[tuple[str, ...], tuple[str, ...]]:
    reasons = []
    if have.n_not_text > base.n_not_text + _MAX_NOT_TEXT:
        reasons.append(
            f"{have.n_not_text} of {have.n} replies are not text, {base.n_not_text} of the base's"
        )
    if have.n_failed >= base.n_failed + _MAX_MORE_FAILED:
        reasons.append(
            f"{have.n_failed} of {have.n} replies loop, repeat themselves or are not text, "
            f"{base.n_failed} of the base's"
        )
    if have.bad_share > base.bad_share + _MAX_MORE_BAD:
        reasons.append(
            f"{have.bad_share:.0%} of the text is repeated or not text, "
            f"{base.bad_share:.0%} of the base's"
        )
    if have.mean_nll > base.mean_nll + _MAX_MORE_NLL:
        reasons.append(
            f"{have.mean_nll:.2f} nats per token: the model is unsure of its own words "
            f"(the base: {base.mean_nll:.2f})"
        )
    notes = []
    if base.bad_share > _UNTELLING_BAD_SHARE:
        notes.append(
            f"{base.bad_share:.0%} of the base's own text is repeated or not text: "
            f"comparing with it says little"
        )
    if have.n_tokens < _FEW_TOKENS * base.n_tokens:
        notes.append(f"the replies are short: {have.n_tokens} tokens, the base's {base.n_tokens}")
    return tuple(reasons), tuple(notes)
