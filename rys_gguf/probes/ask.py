"""Put items to a model: as forward passes whose next token is read, or for answers in words.

Prompts become tokens once, with the source's own engine; every candidate of a sweep is then asked
the same tokens. An answer that did not come is an error, never a wrong answer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rys_gguf.engines.sampling import GREEDY
from rys_gguf.engines.server import Engine
from rys_gguf.errors import EngineFailed, RysError
from rys_gguf.probes.extract import opens_thoughts
from rys_gguf.probes.item import Request, Choice, Contrast, Item, Number, Ratings
from rys_gguf.probes.score import Scored, score_probabilities, score_text
from rys_gguf.text import printable

_LONGEST_NUMBER_TOKEN = 3  # tokenizers that group digits group at most three

Probabilities = dict[str, float]


@dataclass(frozen=True, slots=True)
class TokenizedRequest:
    """An `Request` as tokens: the prompt's, and for each option those that begin one of its forms.

    `follows` says that its prompt is that of the request before it.
    """

    tokens: tuple[int, ...]
    options: tuple[tuple[str, tuple[int, ...]], ...]
    follows: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one item: its score, what was said, and what it took."""

    item: Item
    scored: Scored
    response: str | None
    probabilities: tuple[Probabilities, ...]
    n_tokens: int
    seconds: float


class Compiler:
    """Turns items into requests for one model, with an engine that has it loaded.

    Without a chat template (`chats` false) a prompt is plain text, followed by the opening.
    Raises RysError, naming the item, where two options begin with the same token.
    """

    def __init__(self, engine: Engine, *, chats: bool) -> None:
        self._engine = engine
        self._chats = chats
        self._prefix: dict[str, str] = {}
        # Of nothing the tokenizer makes what it begins every text with, if anything.
        self._first = engine.tokenize("")[:1]
        self._digits: dict[str, tuple[tuple[str, tuple[int, ...]], ...]] = {}

    def compile(self, item: Item) -> tuple[TokenizedRequest, ...]:
        """The item's requests, in order."""
        tokenized = []
        before = None
        for request in item.requests():
            tokenized.append(self._tokenized(item, request, follows=request.prompt == before))
            before = request.prompt
        return tuple(tokenized)

    def text(self, prompt: str, opening: str = "") -> str:
        """The whole text the model goes on from."""
        if not self._chats:
            return f"{prompt}\n{opening}"
        if prompt not in self._prefix:
            prefix = self._engine.templated(prompt)
            if opens_thoughts(prefix):
                raise RysError(
                    f"{printable(self._engine.model)}: its chat template lets the model think "
                    f"though enable_thinking is false: what it is asked would be part of its "
                    f"thoughts. Give llama-server a template that does not "
                    f"(--llama-server PATH ... -- --chat-template-file FILE)"
                )
            self._prefix = {prompt: prefix}
        return self._prefix[prompt] + opening

    def _tokenized(self, item: Item, request: Request, *, follows: bool) -> TokenizedRequest:
        context = self.text(request.prompt, request.opening)
        if request.digits:
            # Up to 1110 options, the same ones after every opening: looked up once.
            options = self._numbers(request.opening)
            prompt = self.tokens(f"{context} 0")[:-1]
            return TokenizedRequest(tuple(prompt), options, follows)
        forms = [
            (name, self.tokens(context + form))
            for name, forms in zip(request.names, request.options, strict=True)
            for form in forms
        ]
        shared = _n_shared(ids for _, ids in forms)
        options = _by_first_token(item.id, [(name, ids[shared:]) for name, ids in forms])
        return TokenizedRequest(tuple(forms[0][1][:shared]), options, follows)

    def tokens(self, text: str) -> list[int]:
        """Token ids; a template may write the beginning of text that the tokenizer adds as well."""
        ids = self._engine.tokenize(text)
        return ids[1:] if ids[:2] == 2 * self._first else ids

    def _numbers(self, opening: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The digit strings that are one token after an opening, and their tokens."""
        if opening not in self._digits:
            found = []
            before = self._after(opening, "0")[:-1]
            for length in range(1, _LONGEST_NUMBER_TOKEN + 1):
                names = [str(n) for n in range(10 ** (length - 1) if length > 1 else 0, 10**length)]
                # Tokenizers that learnt their merges from text have some groups and not others.
                whole = [(n, self._after(opening, n)) for n in names]
                one = [(n, (ids[-1],)) for n, ids in whole if ids[:-1] == before]
                if not one:
                    break
                found += one
            self._digits[opening] = tuple(found)
        return self._digits[opening]

    def _after(self, opening: str, digits: str) -> list[int]:
        return self._engine.tokenize(f"{opening} {digits}", special=False)


def _n_shared(sequences: Iterable[Sequence[int]]) -> int:
    """How many tokens all sequences have in common at their beginning."""
    together = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, together))


def _by_first_token(
    item_id: str, forms: Sequence[tuple[str, Sequence[int]]]
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Each option's first tokens. Raises RysError if two options share one, or one has none."""
    owner: dict[int, str] = {}
    for name, ids in forms:
        if not ids or owner.setdefault(ids[0], name) != name:
            taken = f"{printable(owner[ids[0]])!r}" if ids else "another"
            raise RysError(
                f"item {printable(item_id)!r}: option {printable(name)!r} begins with the same "
                f"token of this model as {taken}; give the options letters (texts) instead"
            )
    return tuple(
        (name, tuple(token for token, owned_by in owner.items() if owned_by == name))
        for name in dict.fromkeys(name for name, _ in forms)
    )


def ask(
    engine: Engine, item: Item, requests: Sequence[TokenizedRequest], baseline: float = 0.0
) -> Answer:
    """A quick answer: one forward pass a request. `baseline` as in score. Raises EngineFailed."""
    start = time.monotonic()
    found = []
    n_tokens = 0
    for request in requests:
        ids = [token for _, tokens in request.options for token in tokens]
        values = engine.option_probabilities(request.tokens, ids, same_prompt=request.follows)
        by_id = dict(zip(ids, values, strict=True))
        found.append({
            name: sum(by_id[token] for token in tokens) for name, tokens in request.options
        })  # fmt: skip
        n_tokens += len(request.tokens)
    scored = score_probabilities(item, found, baseline=baseline)
    return Answer(item, scored, None, tuple(found), n_tokens, time.monotonic() - start)


def answer(engine: Engine, item: Item, *, chats: bool, baseline: float = 0.0) -> Answer:
    """An answer in the model's own words, greedy, thinking off. Raises EngineFailed."""
    start = time.monotonic()
    limit = n_predict(item)
    if chats:
        reply = engine.chat_messages(
            [{"role": "user", "content": item.prompt()}], max_tokens=limit, **GREEDY
        )
    else:
        prompt = f"{item.prompt()}\nAnswer:"
        reply = engine.complete(prompt, n_predict=limit, stop=["\n\n"], **GREEDY)
    text, truncated, n_tokens = _reply(engine, reply, chats=chats)
    scored = score_text(item, text, truncated=truncated, baseline=baseline)
    return Answer(item, scored, text, (), n_tokens, time.monotonic() - start)


def _reply(engine: Engine, reply: dict[str, Any], *, chats: bool) -> tuple[str, bool, int]:
    try:
        if not chats:
            return (
                reply["content"], reply["stop_type"] == "limit", int(reply["tokens_predicted"])
            )  # fmt: skip
        choice = reply["choices"][0]
        text = choice["message"].get("content") or ""
        if thoughts := choice["message"].get("reasoning_content"):
            text = f"<think>{thoughts}</think>{text}"
        return text, choice["finish_reason"] == "length", int(reply["usage"]["completion_tokens"])
    except (KeyError, IndexError, TypeError, AttributeError) as e:
        name = printable(engine.model.name)
        raise EngineFailed(f"{name}: llama.cpp's answer holds no text", engine.last_lines()) from e


def answer_line(got: Answer) -> dict[str, Any]:
    """An answer as a line of JSON keeps it."""
    item, scored = got.item, got.scored
    # Emotions that cannot be read are no opinion: no score at all, and a lower share of answers.
    unread = scored.status != "ok" and isinstance(item, (Contrast, Ratings))
    return {
        "item": item.id,
        "family": item.family,
        "topic": item.topic,
        "binary": scored.binary,
        "status": scored.status,
        "score": None if unread else scored.score,
        "credit": None if unread else scored.soft_score,
        "parsed": scored.parsed,
        "gold": item.gold,
        "response": got.response,
        "probabilities": [
            {name: round(p, 6) for name, p in asked.items()} for asked in got.probabilities
        ],
        "n_tokens": got.n_tokens,
        "seconds": round(got.seconds, 4),
    }


def n_predict(item: Item) -> int:
    """How many tokens an answer may take."""
    if isinstance(item, Number):
        return 24 + 2 * len(str(item.answer))
    if isinstance(item, Choice):
        return 32
    return 32 if isinstance(item, Contrast) else 64
