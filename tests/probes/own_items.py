"""One item of each kind, to be asked of fake and real engines."""

from __future__ import annotations

from rys_gguf.probes.item import Choice, Contrast, Number, Ratings

YES = Choice(id="y", family="reasoning", topic="t", level=0, question="Is fire hot?", answer="yes")
SUM = Number(id="n", family="math", topic="sum", level=0, question="What is 3 + 4?", answer=7)
MOOD = Ratings(
    id="r", family="eq", topic="ratings", level=0, question="Ann won the race.",
    emotions=("joy", "anger"), reference=(9, 0),
)  # fmt: skip
TWO = Contrast(
    id="c", family="eq", topic="contrast", level=0, question="Ann broke it herself.",
    other="The storm broke it.", emotion="guilt", higher="question",
)  # fmt: skip
LETTERS = Choice(
    id="l", family="reasoning", topic="t", level=0, question="Which is a fruit?", answer="B",
    options=("A", "B", "C"), texts=("stone", "apple", "chair"),
)  # fmt: skip
