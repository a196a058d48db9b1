"""A model in the child process: ask many prompts at once, and get their logits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.live.batches import Batch, Prompt, Segment, make_batches
from rys_gguf.engines.live.link import Link
from rys_gguf.errors import EngineFailed
from rys_gguf.text import printable

Logits = npt.NDArray[np.float32]

# Tokens that are computed together: enough to be limited by arithmetic, few enough that attention,
# which looks at all of a batch, costs little.
_BATCH_TOKENS = 512
_MAX_SEQUENCES = 64
_MAX_WRITING = 16
_CELLS = 256  # a KV cache is a multiple of as many tokens


@dataclass(frozen=True, slots=True)
class Sizes:
    """The longest prompt allowed, the tokens computed at once, and the threads.

    `unified` puts all sequences of a batch into one cache. That is faster on a GPU, which computes
    few large batches best. Apart, as on a CPU, each sequence is computed as if it were alone.
    """

    n_ctx: int
    n_ubatch: int
    n_threads: int
    unified: bool = False


class Loaded:
    """One model of the child; `number` is what the child knows it by.

    Every method raises EngineFailed.
    """

    def __init__(self, link: Link, number: int, *, n_vocab: int, sizes: Sizes, name: str) -> None:
        self.number = number
        self.n_vocab = n_vocab
        self._link = link
        self._sizes = sizes
        self._name = name
        self._context: _Context | None = None
        # The sequences of a context belong to one batch at a time.
        self._lock = threading.Lock()

    def free(self) -> None:
        """Free the model and what belongs to it."""
        self._drop_context()
        self._link.ask("free", model=self.number)

    def compute_at_once(self, n_ubatch: int) -> None:
        """Compute as many tokens at once from now on."""
        with self._lock:
            if n_ubatch != self._sizes.n_ubatch:
                self._drop_context()
                self._sizes = replace(self._sizes, n_ubatch=n_ubatch)

    def logits(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None = None
    ) -> list[Logits]:
        """The logits of the token after each prompt, shape (n_vocab,) or those of its `ids`.

        The prompts are computed together.
        """
        self._require(prompts, ids)
        wanted: dict[Prompt, dict[int, int]] = {}
        for n, prompt in enumerate(prompts):
            place = wanted.setdefault(prompt, {})
            for token in ids[n] if ids is not None else ():
                place.setdefault(token, len(place))
        found: dict[Prompt, Logits] = {}
        batches = make_batches(prompts, _BATCH_TOKENS, _MAX_SEQUENCES)
        with self._lock:
            for batch in batches:
                context = self._context_for(batches)
                found.update(context.run(batch, wanted if ids is not None else None))
        if ids is None:
            return [found[prompt] for prompt in prompts]
        return [
            found[prompt][[wanted[prompt][token] for token in ids[n]]]
            for n, prompt in enumerate(prompts)
        ]

    def write(
        self,
        prompts: Sequence[Prompt],
        limits: Sequence[int],
        next_token: Callable[[int, Logits], int | None],
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
        context: _Context,
        batch: Batch,
        numbers: Sequence[int],
        limits: Sequence[int],
        next_token: Callable[[int, Logits], int | None],
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
                fits = len(fed[k]) + 1 < limits[numbers[k]] and place < self._sizes.n_ctx
                if token is not None and fits:
                    fed[k].append(token)
                    steps.append((k, token, place))
            logits = context.step(steps, ids) if steps else {}

    def _require(self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None) -> None:
        for prompt in prompts:
            if not 0 < len(prompt) <= self._sizes.n_ctx:
                raise EngineFailed(
                    f"{printable(self._name)}: a prompt has {len(prompt)} tokens, and the context "
                    f"{self._sizes.n_ctx}"
                )
        for token in (t for tokens in (*prompts, *(ids or ())) for t in tokens):
            if not 0 <= token < self.n_vocab:
                raise EngineFailed(
                    f"{printable(self._name)}: token {token} is outside the {self.n_vocab} of the "
                    f"vocabulary"
                )

    def _context_for(self, batches: Sequence[Batch], more: int = 0) -> _Context:
        """A context for the batches, and for as many `more` tokens of each prompt."""
        need = _Need.of(batches, more)
        if self._context is None or not need.fits(self._context.need):
            self._drop_context()
            context = _Context(self._link, self.number, self.n_vocab, need, self._sizes)
            if not context.has_memory:
                context.free()
                raise EngineFailed(
                    f"{printable(self._name)}: the model has no memory of the tokens it has read, "
                    f"and a live engine needs one"
                )
            self._context = context
        return self._context

    def _drop_context(self) -> None:
        if self._context is not None:
            context, self._context = self._context, None
            context.free()


@dataclass(frozen=True, slots=True)
class _Need:
    """What batches take: tokens in all, tokens of the longest prompt, in a wave, and sequences."""

    n_tokens: int
    n_longest: int
    n_widest: int
    n_sequences: int

    @classmethod
    def of(cls, batches: Sequence[Batch], more: int) -> _Need:
        return cls(
            max(batch.n_tokens + more * len(batch.prompts) for batch in batches),
            max(len(prompt) for batch in batches for prompt in batch.prompts) + more,
            max(batch.n_widest for batch in batches),
            max(len(batch.prompts) for batch in batches),
        )

    def fits(self, other: _Need) -> bool:
        return (
            self.n_tokens <= other.n_tokens
            and self.n_longest <= other.n_longest
            and self.n_widest <= other.n_widest
            and self.n_sequences <= other.n_sequences
        )


class _Context:
    """A context that has room for `need`."""

    def __init__(self, link: Link, model: int, n_vocab: int, need: _Need, sizes: Sizes) -> None:
        self.need = need
        self._n_vocab = n_vocab
        self._link = link
        n_ctx = _padded(need.n_tokens)
        if not sizes.unified:
            n_ctx = need.n_sequences * _padded(need.n_longest)
        reply, _ = link.ask(
            "context",
            model=model,
            sizes=[n_ctx, max(need.n_widest, 32), sizes.n_ubatch, need.n_sequences],
            n_threads=sizes.n_threads,
            unified=sizes.unified,
        )
        with link.reading("a context"):
            self._number = int(reply["context"])
            # Encoders and diffusion models compute all tokens at once.
            self.has_memory = bool(reply["has_memory"])

    def free(self) -> None:
        self._link.ask("free_context", context=self._number)

    def run(
        self, batch: Batch, wanted: dict[Prompt, dict[int, int]] | None
    ) -> Iterator[tuple[Prompt, Logits]]:
        """The logits after each prompt of a batch."""
        self._link.ask("clear", context=self._number)
        for wave in batch.waves:
            ends = [batch.prompts[s.sequence] for s in wave if s.ends]
            ids = [list(wanted[prompt]) for prompt in ends] if wanted else None
            yield from zip(ends, self._decode(batch, wave, ids), strict=True)
            for segment in wave:
                if segment.copies:
                    self._link.ask(
                        "copy",
                        context=self._number,
                        sequence=segment.sequence,
                        to=list(segment.copies),
                    )

    def step(
        self, steps: Sequence[tuple[int, int, int]], ids: list[int] | None
    ) -> dict[int, Logits]:
        """The logits after one more token each: (sequence, token, position)."""
        sequences, tokens, positions = zip(*steps, strict=True)
        n = len(steps)
        rows = self._rows(
            [*tokens, *positions, *sequences], n, range(n), None if ids is None else n * [ids]
        )
        return dict(zip(sequences, rows, strict=True))

    def _decode(
        self, batch: Batch, wave: Sequence[Segment], ids: list[list[int]] | None
    ) -> list[Logits]:
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[int] = []
        for segment in wave:
            n = segment.end - segment.start
            tokens += batch.prompts[segment.sequence][segment.start : segment.end]
            positions += range(segment.start, segment.end)
            sequences += n * [segment.sequence]
            if segment.ends:
                outputs.append(len(tokens) - 1)
        return self._rows([*tokens, *positions, *sequences], len(tokens), outputs, ids)

    def _rows(
        self,
        numbers: Sequence[int],
        n: int,
        outputs: Sequence[int],
        ids: list[list[int]] | None,
    ) -> list[Logits]:
        """Compute `n` tokens: the logits of each output, all of them or those of its `ids`."""
        _, raw = self._link.ask(
            "decode",
            np.array(numbers, np.int32).tobytes(),
            context=self._number,
            n=n,
            outputs=list(outputs),
            ids=ids,
        )
        counts = [self._n_vocab] * len(outputs) if ids is None else [len(some) for some in ids]
        with self._link.reading("logits"):
            values = np.frombuffer(raw, np.float32)
            if len(values) != sum(counts):
                raise ValueError("another number of logits")
        return np.split(values, np.cumsum(counts)[:-1]) if counts else []


def _padded(n: int) -> int:
    return (n + _CELLS - 1) // _CELLS * _CELLS
