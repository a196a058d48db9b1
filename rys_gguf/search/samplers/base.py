"""The sampler: says what to ask next from the trials so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rys_gguf.runs.candidate import Candidate
from rys_gguf.runs.trial import Trials
from rys_gguf.search.job import Batch


class Sampler(Protocol):
    """A strategy. It keeps no state of its own: everything it decides follows from `trials`.

    So a run that was interrupted anywhere goes on as if it had not been: for any prefix of the log,
    `next` gives what it would have given then, less what is recorded. Where chance is needed it is
    seeded from the run and the number of trials. tests/search/sampler_contract.py holds every
    sampler to that.
    """

    def next(self, trials: Trials) -> Batch | None:
        """What to run now; None once the search is over."""

    def ranked(self, trials: Trials) -> Sequence[Candidate]:
        """The candidates that may become finalists, best first. Asked once `next` gave None."""
