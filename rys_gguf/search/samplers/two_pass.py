"""Two passes: long windows far apart, then every short window around the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rys_gguf.errors import RysError
from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.trial import Trials
from rys_gguf.search.job import Batch
from rys_gguf.search.samplers.halving import Halving
from rys_gguf.search.space import Selection, Windows, coarse, fine, most_fine


class TwoPass:
    """Windows of `sizes[0]` layers first, then windows of `sizes[1]` layers.

    A size of which no window is legal is replaced by the nearest size with a legal one. Raises
    RysError unless there are two sizes.
    """

    def __init__(self, windows: Windows, sizes: Sequence[int], halving: Halving) -> None:
        if len(sizes) != 2:  # noqa: PLR2004 - one for each pass
            raise RysError("--plan two-pass takes two sizes, such as --sizes 8,4")
        legal = tuple(windows.legal_size(size) for size in sizes)
        self._windows = windows
        self._halving = halving
        self._coarse_size, self._fine_size = legal
        self.notes = tuple(
            f"windows of {size} layers are not legal here: {instead} instead"
            for size, instead in zip(sizes, legal, strict=True)
            if size != instead
        )
        first = coarse(windows, self._coarse_size)
        later = windows.choose(windows.of_size(self._fine_size, range(windows.n_layers)))
        self.first = Selection(first.candidates, first.illegal + later.illegal)
        n_fine = min(len(later.candidates), most_fine(*legal) * len(windows.forms))
        self.n_most = len(first.candidates) + n_fine

    def describe(self) -> Iterator[str]:
        """The first pass's candidates, and how the second pass chooses."""
        yield f"pass 1: {self.first.in_words()}"
        yield f"pass 2: windows of {self._fine_size} layers around the best two"

    def next(self, trials: Trials) -> Batch | None:
        """The first pass, the second pass, then rounds for ever fewer candidates of both."""
        if batch := self._halving.enter(self.first.candidates, "pass 1", trials):
            return batch
        if batch := self._halving.enter(self._second(trials), "pass 2", trials):
            return batch
        return self._halving.narrow(trials)

    def ranked(self, trials: Trials) -> list[Candidate]:
        """The candidates that got through all rounds that were asked, best first."""
        return self._halving.survivors(trials)

    def _second(self, trials: Trials) -> list[Candidate]:
        """The windows around the best of the first pass, as far as they are new."""
        standing = self._halving.standing(self.first.candidates, trials)
        # Ranked among themselves: once the second pass has begun, its trials must not change this.
        order = self._halving.best_first(standing, trials, 1) if standing else []
        best = list(dict.fromkeys(c.window for c in order if c.window))
        known = {c.key for c in self.first.candidates}
        chosen = fine(self._windows, best, self._fine_size)
        return [c for c in chosen.candidates if c.key not in known]
