"""The sampler: says what to ask next, given the trials so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.trial import Trials
from rys_gguf.search.job import Batch
from rys_gguf.search.space import Selection


class Sampler(Protocol):
    """A search strategy. It keeps no state: everything it decides follows from `trials`.

    A run that was interrupted anywhere therefore continues as if it had not been: given any prefix
    of the log, `next` gives what it would have given then, less what is already recorded. A sampler
    that needs random numbers seeds them from the run and the number of trials.
    tests/search/sampler_contract.py holds every sampler to this.
    """

    @property
    def first(self) -> Selection:
        """The candidates it starts with, and all windows that it leaves out as illegal."""

    @property
    def n_most(self) -> int:
        """At most how many candidates it tries."""

    @property
    def notes(self) -> Sequence[str]:
        """Lines that say where it departs from the request."""

    def describe(self) -> Iterator[str]:
        """Lines that tell a user what it will try."""

    def next(self, trials: Trials) -> Batch | None:
        """The jobs to run now; None once the search is over."""

    def ranked(self, trials: Trials) -> Sequence[Candidate]:
        """The candidates that may become finalists, best first. Called once `next` gave None."""
