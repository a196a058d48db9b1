"""A context in the child process: it computes batches, wave by wave."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rys_gguf.engines.live.batches import Batch, Prompt, Segment
from rys_gguf.engines.live.link import Link

Logits = npt.NDArray[np.float32]
# What continues prompts: from a prompt's number and the logits after it to the next token, or None.
NextToken = Callable[[int, Logits], int | None]

_CELLS = 256  # a KV cache is a multiple of as many tokens


@dataclass(frozen=True, slots=True)
class Sizes:
    """The longest prompt allowed, the tokens computed at once, and the threads.

    `unified` puts all sequences of a batch into one cache. That is faster on a GPU, which computes
    few large batches best. Apart, as on a CPU, a sequence of less than 64 tokens is computed as if
    it were alone; of a longer one, what stands beside it may change the last bits.
    """

    n_ctx: int
    n_ubatch: int
    n_threads: int
    unified: bool = False


@dataclass(frozen=True, slots=True)
class Need:
    """What batches take: tokens in all, tokens of the longest prompt, in a wave, and sequences."""

    n_tokens: int
    n_longest: int
    n_widest: int
    n_sequences: int

    @classmethod
    def of(cls, batches: Sequence[Batch], more: int) -> Need:
        """What the batches take, with `more` tokens for each prompt."""
        return cls(
            max(batch.n_tokens + more * len(batch.prompts) for batch in batches),
            max(len(prompt) for batch in batches for prompt in batch.prompts) + more,
            max(batch.n_widest for batch in batches),
            max(len(batch.prompts) for batch in batches),
        )

    def fits(self, other: Need) -> bool:
        """Whether the other is enough."""
        return (
            self.n_tokens <= other.n_tokens
            and self.n_longest <= other.n_longest
            and self.n_widest <= other.n_widest
            and self.n_sequences <= other.n_sequences
        )

    def joined(self, other: Need) -> Need:
        """Enough for either."""
        return Need(
            max(self.n_tokens, other.n_tokens),
            max(self.n_longest, other.n_longest),
            max(self.n_widest, other.n_widest),
            max(self.n_sequences, other.n_sequences),
        )


@dataclass(frozen=True, slots=True)
class Fed:
    """Inputs of a layer that the base kept under a key, which are computed instead of tokens."""

    key: str
    layer: int


class Context:
    """A context that has room for `need`; it can keep the inputs of `layers`."""

    def __init__(
        self,
        link: Link,
        model: int,
        n_vocab: int,
        need: Need,
        sizes: Sizes,
        layers: Sequence[int] = (),
    ) -> None:
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
        if layers:
            link.ask("keep_inputs", context=self._number, layers=list(layers))

    def free(self) -> None:
        """Free it."""
        self._link.ask("free_context", context=self._number)

    def run(
        self,
        batch: Batch,
        wanted: dict[Prompt, dict[int, int]] | None,
        fed: Fed | None = None,
        keep: str | None = None,
    ) -> Iterator[tuple[Prompt, Logits]]:
        """The logits after each prompt of a batch.

        It computes `fed` if that is given, and keeps the inputs of its layers under the key `keep`.
        """
        self._link.ask("clear", context=self._number)
        for n_wave, wave in enumerate(batch.waves):
            ends = [batch.prompts[s.sequence] for s in wave if s.ends]
            rows = self._decode(
                batch,
                wave,
                [list(wanted[prompt]) for prompt in ends] if wanted else None,
                inputs=[_of_wave(fed.key, n_wave), fed.layer] if fed else None,
                keep=None if keep is None else _of_wave(keep, n_wave),
            )
            yield from zip(ends, rows, strict=True)
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
        self, batch: Batch, wave: Sequence[Segment], ids: list[list[int]] | None, **fields: Any
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
        return self._rows([*tokens, *positions, *sequences], len(tokens), outputs, ids, **fields)

    def _rows(
        self,
        numbers: Sequence[int],
        n: int,
        outputs: Sequence[int],
        ids: list[list[int]] | None,
        **fields: Any,
    ) -> list[Logits]:
        """Compute `n` tokens: the logits of each output, all of them or those of its `ids`."""
        _, raw = self._link.ask(
            "decode",
            np.array(numbers, np.int32).tobytes(),
            context=self._number,
            n=n,
            outputs=list(outputs),
            ids=ids,
            **fields,
        )
        counts = [self._n_vocab] * len(outputs) if ids is None else [len(some) for some in ids]
        with self._link.reading("logits"):
            values = np.frombuffer(raw, np.float32)
            if len(values) != sum(counts):
                raise ValueError("another number of logits")
        return np.split(values, np.cumsum(counts)[:-1]) if counts else []


def _of_wave(key: str, n: int) -> str:
    return f"{key}.{n}"


def _padded(n: int) -> int:
    return (n + _CELLS - 1) // _CELLS * _CELLS
