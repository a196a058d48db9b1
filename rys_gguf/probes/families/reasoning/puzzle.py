"""What the generators of puzzles share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rys_gguf.probes.draw import Place
from rys_gguf.probes.item import LETTERS, YES_NO, Choice

FAMILY = "reasoning"


def choice(
    place: Place, question: str, answer: str, texts: Sequence[str] = (), *, template: str
) -> Choice:
    """An item to be answered with one of the texts, or with yes or no where there are none.

    `template` names the wording within the topic.
    """
    return Choice(
        id=place.name,
        family=FAMILY,
        topic=place.topic,
        level=place.level,
        question=question,
        template=f"{place.topic}: {template}",
        answer=answer,
        options=LETTERS[: len(texts)] if texts else YES_NO,
        texts=tuple(texts),
    )


def with_answer(rng: random.Random, right: str, wrong: Sequence[str], index: int) -> list[str]:
    """All options: the wrong ones shuffled, the right one at a position that follows `index`."""
    texts = rng.sample(wrong, len(wrong))
    texts.insert(index % (len(wrong) + 1), right)
    return texts
