"""Turn items into token sequences for one model.

Prompts become tokens once, with the source's own engine; every candidate of a sweep is then asked
the same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rys_gguf.engines.base import Engine
from rys_gguf.errors import RysError
from rys_gguf.probes.extract import opens_thoughts
from rys_gguf.probes.item import Item, Request
from rys_gguf.text import printable, quoted

_LONGEST_NUMBER_TOKEN = 3  # tokenizers that group digits group at most three

# Each option's name, and the tokens that one of its spellings begins with.
OptionTokens = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class TokenizedRequest:
    """A `Request` as tokens: those of the prompt, and for each option those it may begin with.

    `follows` says that its prompt is the one of the request before it.
    """

    tokens: tuple[int, ...]
    options: OptionTokens
    follows: bool = False


class Compiler:
    """Turns items into tokenized requests, with an engine that has the model loaded.

    Without a chat template (`chats` false) a prompt is plain text, followed by the opening.
    `contexts` are the texts that answers follow, by prompt, where the template alone does not give
    them.
    """

    def __init__(
        self, engine: Engine, *, chats: bool, contexts: Mapping[str, str] | None = None
    ) -> None:
        self._engine = engine
        self._chats = chats
        self._contexts = contexts
        self._prefix: dict[str, str] = {}
        # The tokens of an empty text: the token that the tokenizer puts in front of every text.
        self._first = engine.tokenize("")[:1]
        self._digits: dict[str, OptionTokens] = {}

    def compile(self, item: Item) -> tuple[TokenizedRequest, ...]:
        """The item's requests, in order.

        Raises RysError, naming the item, if two options begin with the same token.
        """
        tokenized = []
        before = None
        for request in item.requests():
            tokenized.append(self._tokenized(item, request, follows=request.prompt == before))
            before = request.prompt
        return tuple(tokenized)

    def text(self, prompt: str, opening: str = "") -> str:
        """The whole text that the model continues."""
        if self._contexts is not None:
            return self._contexts[prompt] + opening
        if not self._chats:
            return f"{prompt}\n{opening}"
        if prompt not in self._prefix:
            prefix = self._engine.templated(prompt)
            if opens_thoughts(prefix):
                raise RysError(
                    f"{printable(self._engine.model)}: its chat template lets the model think "
                    f"though enable_thinking is false, so that questions would become part of its "
                    f"thoughts. Give llama-server a template that does not "
                    f"(--llama-server PATH ... -- --chat-template-file FILE)"
                )
            # Only the last prompt is kept: requests with the same prompt come one after another.
            self._prefix = {prompt: prefix}
        return self._prefix[prompt] + opening

    def tokens(self, text: str) -> list[int]:
        """Token ids; a token in front that template and tokenizer both add counts once."""
        ids = self._engine.tokenize(text)
        return ids[1:] if ids[:2] == 2 * self._first else ids

    def _tokenized(self, item: Item, request: Request, *, follows: bool) -> TokenizedRequest:
        context = self.text(request.prompt, request.opening)
        if request.digits:
            # Up to 1110 options, but the same ones after every opening: looked up once.
            options = self._numbers(request.opening)
            prompt = self.tokens(f"{context} 0")[:-1]
            return TokenizedRequest(tuple(prompt), options, follows)
        spelled = [
            (name, self.tokens(context + spelling))
            for name, spellings in zip(request.names, request.options, strict=True)
            for spelling in spellings
        ]
        shared = _n_shared(ids for _, ids in spelled)
        options = _by_first_token(item.id, [(name, ids[shared:]) for name, ids in spelled])
        return TokenizedRequest(tuple(spelled[0][1][:shared]), options, follows)

    def _numbers(self, opening: str) -> OptionTokens:
        """The digit strings that are one token after an opening, and their tokens."""
        if opening not in self._digits:
            options: list[tuple[str, tuple[int, ...]]] = []
            before = self._after(opening, "0")[:-1]
            for length in range(1, _LONGEST_NUMBER_TOKEN + 1):
                names = [str(n) for n in range(10 ** (length - 1) if length > 1 else 0, 10**length)]
                # Tokenizers that learnt their merges from text have some groups and not others.
                tokenized = [(n, self._after(opening, n)) for n in names]
                single = [(n, (ids[-1],)) for n, ids in tokenized if ids[:-1] == before]
                if not single:
                    break
                options += single
            self._digits[opening] = tuple(options)
        return self._digits[opening]

    def _after(self, opening: str, digits: str) -> list[int]:
        return self._engine.tokenize(f"{opening} {digits}", special=False)


def _n_shared(sequences: Iterable[Sequence[int]]) -> int:
    """The number of tokens that all sequences have in common at their beginning."""
    together = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, together))


def _by_first_token(item_id: str, spelled: Sequence[tuple[str, Sequence[int]]]) -> OptionTokens:
    """Each option's first tokens. Raises RysError if two options share one, or one has none."""
    owner: dict[int, str] = {}
    for name, ids in spelled:
        if not ids or owner.setdefault(ids[0], name) != name:
            taken = f"{quoted(owner[ids[0]])}" if ids else "another"
            raise RysError(
                f"item {quoted(item_id)}: option {quoted(name)} begins with the same "
                f"token of this model as {taken}; give the options letters (texts) instead"
            )
    return tuple(
        (name, tuple(token for token, owned_by in owner.items() if owned_by == name))
        for name in dict.fromkeys(name for name, _ in spelled)
    )
