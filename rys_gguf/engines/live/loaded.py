"""A model in the child process: ask many prompts at once, and get their logits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from rys_gguf.engines.base import no_next_token
from rys_gguf.engines.live.batches import Batch, Prompt, make_batches
from rys_gguf.engines.live.context import Context, Fed, Logits, Need, NextToken, Sizes
from rys_gguf.engines.live.link import Link
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

# Tokens that are computed together: enough to be limited by arithmetic, few enough that attention,
# which looks at all of a batch, costs little.
_BATCH_TOKENS = 512
_MAX_SEQUENCES = 64
_MAX_WRITING = 16


def batches_of(prompts: Sequence[Prompt]) -> tuple[Batch, ...]:
    """The batches in which prompts are asked."""
    return make_batches(prompts, _BATCH_TOKENS, _MAX_SEQUENCES)


class Loaded:
    """One model of the child; `number` is what the child knows it by.

    Every method raises EngineFailed, and Refused if the model is of a kind that predicts no next
    token.
    """

    def __init__(self, link: Link, number: int, *, n_vocab: int, sizes: Sizes, name: str) -> None:
        self.number = number
        self.n_vocab = n_vocab
        self._link = link
        self.sizes = sizes
        self._name = name
        self._context: Context | None = None
        # The sequences of a context belong to one batch at a time.
        self._lock = threading.Lock()

    def free(self) -> None:
        """Free the model and what belongs to it."""
        self._drop_context()
        self._link.ask("free", model=self.number)

    def compute_at_once(self, n_ubatch: int) -> None:
        """Compute as many tokens at once from now on."""
        with self._lock:
            if n_ubatch != self.sizes.n_ubatch:
                self._drop_context()
                self.sizes = replace(self.sizes, n_ubatch=n_ubatch)

    def logits(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None = None
    ) -> list[Logits]:
        """The logits of the token after each prompt, shape (n_vocab,) or those of its `ids`.

        The prompts are computed together.
        """
        if not prompts:
            return []
        (rows,) = self.logits_from(lambda _: [None], prompts, ids)
        return rows

    def logits_from(
        self,
        inputs: Callable[[Batch], Sequence[Fed | None]],
        prompts: Sequence[Prompt],
        ids: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Logits]]:
        """`logits` for each of the `inputs` of the first layer; None for the prompts themselves.

        `inputs` gives as many for every batch, at least one.
        """
        self._require(prompts, ids)
        wanted: dict[Prompt, dict[int, int]] = {}
        for n, prompt in enumerate(prompts):
            place = wanted.setdefault(prompt, {})
            for token in ids[n] if ids is not None else ():
                place.setdefault(token, len(place))
        found: list[dict[Prompt, Logits]] = []
        batches = batches_of(prompts)
        with self._lock:
            for batch in batches:
                context = self._context_for(batches)
                for n, fed in enumerate(inputs(batch)):
                    if n == len(found):
                        found.append({})
                    found[n].update(context.run(batch, wanted if ids is not None else None, fed))
        if ids is None:
            return [[rows[prompt] for prompt in prompts] for rows in found]
        return [
            [
                rows[prompt][[wanted[prompt][token] for token in ids[n]]]
                for n, prompt in enumerate(prompts)
            ]
            for rows in found
        ]

    def write(
        self,
        prompts: Sequence[Prompt],
        limits: Sequence[int],
        next_token: NextToken,
        *,
        n_wanted: int | None = None,
    ) -> None:
        """Continue each prompt by tokens that `next_token` chooses, until it gives None.

        It gets the prompt's number and the logits of the token after what is there, those of the
        first `n_wanted` tokens if not all are wanted. A prompt gets at most as many tokens as its
        limit and the context allow.
        """
        self._require(prompts, None)
        left = list(range(len(prompts)))
        ids = None if n_wanted is None else list(range(n_wanted))
        while left:
            # A batch holds a prompt only once.
            of_prompt: dict[Prompt, int] = {}
            for n in left:
                of_prompt.setdefault(prompts[n], n)
            left = [n for n in left if of_prompt[prompts[n]] != n]
            for batch in make_batches(list(of_prompt), _BATCH_TOKENS, _MAX_WRITING):
                numbers = [of_prompt[prompt] for prompt in batch.prompts]
                most = max(limits[n] for n in numbers)
                with self._lock:
                    context = self._context_for([batch], more=most)
                    self._write_batch(context, batch, numbers, limits, next_token, ids)

    def _write_batch(
        self,
        context: Context,
        batch: Batch,
        numbers: Sequence[int],
        limits: Sequence[int],
        next_token: NextToken,
        ids: list[int] | None,
    ) -> None:
        wanted = None if ids is None else dict.fromkeys(batch.prompts, dict.fromkeys(ids, 0))
        rows = dict(context.run(batch, wanted))
        fed: dict[int, list[int]] = {k: [] for k in range(len(batch.prompts))}
        logits = {k: rows[prompt] for k, prompt in enumerate(batch.prompts)}
        while logits:
            steps = []
            for k, row in logits.items():
                token = next_token(numbers[k], row)
                place = len(batch.prompts[k]) + len(fed[k])
                fits = len(fed[k]) + 1 < limits[numbers[k]] and place < self.sizes.n_ctx
                if token is not None and fits:
                    fed[k].append(token)
                    steps.append((k, token, place))
            logits = context.step(steps, ids) if steps else {}

    def _require(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None) -> None:
        for prompt in prompts:
            if not 0 < len(prompt) <= self.sizes.n_ctx:
                raise EngineFailed(
                    f"{printable(self._name)}: a prompt has {len(prompt)} tokens, and the context "
                    f"{self.sizes.n_ctx}"
                )
        for token in (t for tokens in (*prompts, *(ids or ())) for t in tokens):
            if not 0 <= token < self.n_vocab:
                raise EngineFailed(
                    f"{printable(self._name)}: token {token} is outside the {self.n_vocab} of the "
                    f"vocabulary"
                )

    def _context_for(self, batches: Sequence[Batch], more: int = 0) -> Context:
        """A context for the batches, and for as many `more` tokens of each prompt."""
        need = Need.of(batches, more)
        if self._context is None or not need.fits(self._context.need):
            self._drop_context()
            context = Context(self._link, self.number, self.n_vocab, need, self.sizes)
            if not context.has_memory:
                context.free()
                raise no_next_token(self._name)
            self._context = context
        return self._context

    def _drop_context(self) -> None:
        if self._context is not None:
            context, self._context = self._context, None
            context.free()
