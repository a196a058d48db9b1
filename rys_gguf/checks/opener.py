"""Plans in a live session: windows as tails where possible, whole variants elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rys_gguf.checks.distance import logit_distance
from rys_gguf.checks.pointers import loaded_plan
from rys_gguf.engines.live.batches import Prompt
from rys_gguf.engines.live.context import Logits, NextToken
from rys_gguf.engines.live.engine import Answers
from rys_gguf.engines.live.loaded import Loaded
from rys_gguf.engines.live.session import Session
from rys_gguf.engines.live.tails import Tails
from rys_gguf.errors import EngineFailed
from rys_gguf.layers.layer_map import LayerMap
from rys_gguf.patch.plan import Plan
from rys_gguf.patch.tail import tail_of, tail_plan


class PlanOpener:
    """Opens plans of one model in a session; it holds the tail that was used last.

    The first window is computed in both ways. Unless the results are the same, no other is computed
    as a tail. The session may be restarted meanwhile.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._trust = Trust()
        self._base: Loaded | None = None
        self._tails: Tails | None = None
        self._tail_map: LayerMap | None = None
        self._tail: Loaded | None = None
        self._stack = contextlib.ExitStack()

    @contextlib.contextmanager
    def open(self, plan: Plan) -> Iterator[Answers]:
        """What a plan would write, as a model of the session. Raises EngineFailed."""
        split = tail_of(plan.layer_map) if plan.layer_map.undamped.windows() else None
        if split is not None and self._trust.allows:
            n_same, rest = split
            tail, tails = self._tail_of(plan, rest)
            if tail is not None:
                with _Window(tails, tail, n_same, self._trust, lambda: self._whole(plan)) as window:
                    yield window
                return
        with self._whole(plan) as whole:
            yield whole

    def close(self) -> None:
        """Free the tail; windows may still be opened."""
        self._tail_map = self._tail = None
        self._stack.close()

    def _whole(self, plan: Plan) -> contextlib.AbstractContextManager[Loaded]:
        return loaded_plan(self._session, plan)

    def _tail_of(self, plan: Plan, rest: LayerMap) -> tuple[Loaded | None, Tails]:
        """The layers of a tail; None where that is no model, or the engine gives no inputs."""
        model, session = plan.model, self._session
        if self._tails is None or self._base is not session.base:
            self._base, self._tail_map = session.base, None
            self._tails = Tails(session, model.n_trunk, model.scalar("embedding_length"))
        if rest != self._tail_map:
            self.close()
            gives_inputs = session.about["gives_layer_inputs"]
            found = tail_plan(model, plan.rules, rest) if gives_inputs else None
            if found is not None:
                with contextlib.suppress(EngineFailed):  # the whole variant may still be loaded
                    self._tail = self._stack.enter_context(self._whole(found))
            self._tail_map = rest
        return self._tail, self._tails


class Trust:
    """Whether tails compute what whole variants do; unknown until it was tried."""

    def __init__(self) -> None:
        self.is_shown = False
        self._was_tried = False

    @property
    def allows(self) -> bool:
        """Whether to use tails, or to try them."""
        return self.is_shown or not self._was_tried

    def compare(
        self, whole: Callable[[], list[Logits]], tail: Callable[[], list[Logits]]
    ) -> list[Logits]:
        """The logits of the whole variant, which those of a tail have to equal.

        On a device that does not repeat itself they may be as far apart as its own results are.
        """
        self._was_tried = True  # for good, if the process dies of it
        first, other = whole(), tail()
        distance = logit_distance(first, other)
        self.is_shown = distance == 0 or distance <= logit_distance(first, whole())
        return first


class _Window:
    """The variant whose first `n_same` layers are the base's: `tail` are those behind them.

    What the tail cannot do, the whole variant does, which `open_whole` opens when it is needed. Use
    it as a context manager.
    """

    def __init__(
        self,
        tails: Tails,
        tail: Loaded,
        n_same: int,
        trust: Trust,
        open_whole: Callable[[], contextlib.AbstractContextManager[Loaded]],
    ) -> None:
        self._tails = tails
        self._tail = tail
        self._n_same = n_same
        self._trust = trust
        self._open_whole = open_whole
        self._stack = contextlib.ExitStack()
        self._whole: Loaded | None = None

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *exc: object) -> None:
        self._whole = None
        self._stack.close()

    def logits(
        self, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]] | None = None
    ) -> list[Logits]:
        """As those of the whole variant."""

        def whole() -> list[Logits]:
            return self._opened().logits(prompts, ids)

        def tail() -> list[Logits]:
            (rows,) = self._tails.logits(self._tail, [self._n_same], prompts, ids)
            return rows

        if not self._trust.allows or not self._tails.has_room(prompts):
            return whole()
        return tail() if self._trust.is_shown else self._trust.compare(whole, tail)

    def write(
        self,
        prompts: Sequence[Prompt],
        limits: Sequence[int],
        next_token: NextToken,
        *,
        n_wanted: int | None = None,
    ) -> None:
        """As the whole variant does it: each token takes all layers."""
        self._opened().write(prompts, limits, next_token, n_wanted=n_wanted)

    def _opened(self) -> Loaded:
        if self._whole is None:
            self._whole = self._stack.enter_context(self._open_whole())
        return self._whole
