"""A window is a tail: the base's input of layer j, computed by the base's layers from i on.

Up to the end of the window's first pass, the variant of a window (i, j) computes what the base
computes. After it, the variant computes layers i, i+1, ... and the head. So the base is computed
once for all windows, and a model of its last layers for all windows that begin at the same layer.
Where more is repeated than one window once, more layers follow, but the base's part is the same.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from rys_gguf.engines.live.batches import Batch, Prompt
from rys_gguf.engines.live.context import Context, Fed, Logits, Need
from rys_gguf.engines.live.loaded import Loaded, batches_of
from rys_gguf.engines.live.session import Session

# The part of the machine's memory that inputs may take.
_MEMORY_SHARE = 16
_LITTLE_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class _Kept:
    """The inputs of all layers for one batch, kept by the child under a key."""

    key: str
    n_bytes: int


class Tails:
    """Computes windows of a session's base, which has `n_layers` layers of `n_embd` numbers.

    The base's inputs of all layers are kept for the windows to come: those of the prompts that were
    used last, and at most `max_bytes`. Not for several threads. Every method raises EngineFailed.
    """

    def __init__(
        self, session: Session, n_layers: int, n_embd: int, max_bytes: int | None = None
    ) -> None:
        self._link = session.link
        self._base = session.base
        self._layers = tuple(range(1, n_layers))
        self._token_bytes = 4 * n_embd * len(self._layers)
        self._max_bytes = _default_bytes() if max_bytes is None else max_bytes
        self._kept: dict[Batch, _Kept] = {}
        self._numbers = itertools.count()
        self._context: Context | None = None
        self.n_base_tokens = 0

    def has_room(self, prompts: Sequence[Prompt]) -> bool:
        """Whether the inputs for these prompts can be kept, together with as many others."""
        n_tokens = sum(batch.n_tokens for batch in batches_of(prompts))
        return 2 * n_tokens * self._token_bytes <= self._max_bytes

    def logits(
        self,
        tail: Loaded,
        ends: Sequence[int],
        prompts: Sequence[Prompt],
        ids: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Logits]]:
        """The logits of the windows (i, j) for each j of `ends`; `tail` are the layers from i on.

        They are as `Loaded.logits` of the whole variant, bit for bit on a CPU. Each j lies below
        the number of layers.
        """

        def inputs(batch: Batch) -> list[Fed | None]:
            key = self._key(batch)
            return [Fed(key, end) for end in ends]

        return tail.logits_from(inputs, prompts, ids)

    def _key(self, batch: Batch) -> str:
        """Where the inputs are kept for a batch."""
        kept = self._kept.pop(batch, None) or self._keep(batch)
        self._kept[batch] = kept  # the one used last is the last
        return kept.key

    def _keep(self, batch: Batch) -> _Kept:
        n_bytes = batch.n_tokens * self._token_bytes
        while (
            self._kept and n_bytes + sum(k.n_bytes for k in self._kept.values()) > self._max_bytes
        ):
            oldest = self._kept.pop(next(iter(self._kept)))
            self._link.ask("forget_inputs", key=oldest.key)
        key = str(next(self._numbers))
        context = self._context_for(batch)
        for _ in context.run(batch, {prompt: {} for prompt in batch.prompts}, keep=key):
            pass
        self.n_base_tokens += batch.n_tokens
        return _Kept(key, n_bytes)

    def _context_for(self, batch: Batch) -> Context:
        need = Need.of([batch], 0)
        if self._context is None or not need.fits(self._context.need):
            if self._context is not None:
                need = need.joined(self._context.need)
                self._context.free()
                self._context = None
            base = self._base
            self._context = Context(
                self._link, base.number, base.n_vocab, need, base.sizes, self._layers
            )
        return self._context


def _default_bytes() -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return _LITTLE_MEMORY
    return max(_LITTLE_MEMORY, total // _MEMORY_SHARE)
