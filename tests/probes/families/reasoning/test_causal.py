"""Causes and aims: the answers follow from the words of the text."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rys_gguf.probes.item import Item
from rys_gguf.probes.names import LEVELS
from tests.probes.made import items, made


def test_causal_by_acting_it_out() -> None:
    """The words of the rule give both outcomes, and the text states aims."""
    for item in items("causal"):
        text = item.question
        if " can each " not in text:
            aim(item)
            continue
        names = re.split(r", | and ", text.split(" can each ")[0])
        rule = text.split(". ")[1]
        did = {x for x in names if re.search(rf"\b{x}\b", did_part(text))}
        first = outcome(rule, names, did)
        if "Did the" in text:
            assert item.gold == ("yes" if first else "no"), text
            continue
        question = text.split(". ", 2)[2].split("?")[0]
        patterns = r"[Ii]f (\w+) alone had|if (\w+), and nobody|Suppose that (\w+), and"
        target = next(g for g in re.search(patterns, question).groups() if g)  # type: ignore[union-attr]
        changed = outcome(rule, names, did ^ {target}) != first
        assert item.gold == ("yes" if changed else "no"), text


@pytest.mark.parametrize("level", LEVELS)
def test_no_rule_gives_its_answer_away(level: int) -> None:
    """Half of the items of every rule are answered yes, so the rule alone tells nothing."""
    answers: dict[str, Counter[str]] = {}
    for item in made("causal", level, 2000):
        if match := re.search(r" if, and only if, (.+?)\. ", item.question):
            words = re.sub(r"\b[A-Z]\w+", "X", match.group(1))
            words = re.sub(r"^X does not .+ but", "no X but", words)
            kind = re.match(r"at least \w+|exactly|both of|all of|more of|no X but \w+|X", words)
            assert kind, words
            answers.setdefault(kind.group(), Counter())[str(item.gold)] += 1
    assert len(answers) >= 2
    for rule, counts in answers.items():
        assert counts.total() > 60
        assert 0.4 < counts["yes"] / counts.total() < 0.6, rule


def did_part(text: str) -> str:
    """The sentence that says who acted: the third, unless nobody did."""
    sentence = text.split(". ")[2]
    return "" if sentence.endswith("did not") else sentence


def outcome(rule: str, names: list[str], did: set[str]) -> bool:
    """Whether the outcome happens, by the words of the rule."""
    # "If" says nothing of the other case, and "only if" nothing of this one.
    _, rule = rule.split(" if, and only if, ")
    if never := re.match(r"(\w+) does not .+ but (at least one of the others|either) ", rule):
        if never.group(1) in did:
            return False
        if "others" in rule:
            return bool(did)
        a, b, c = re.search(r"either (\w+) does or both (\w+) and (\w+) do$", rule).groups()  # type: ignore[union-attr]
        return a in did or {b, c} <= did
    if (grouped := of_groups(rule, names, did)) is not None:
        return grouped
    if both := re.match(r"(\w+) and at least one of the others", rule):
        return both.group(1) in did and len(did) > 1
    if first := re.match(r"(\w+) .* or all of (\w+), (\w+) and (\w+) do$", rule):
        a, *others = first.groups()
        return a in did or set(others) <= did
    for words, test in (
        ("at least one", len(did) >= 1),
        ("at least two", len(did) >= 2),
        ("exactly one", len(did) == 1),
        ("all of them", len(did) == len(names)),
        ("both of them", len(did) == len(names)),
    ):
        if words in rule:
            return test
    raise AssertionError(rule)


def of_groups(rule: str, names: list[str], did: set[str]) -> bool | None:
    """The outcome by a rule of levels above 3; None if it is none of theirs."""
    numbers = {"two": 2, "three": 3, "four": 4}
    if len(names) < 5:
        return None
    if but := re.match(r"(\w+) does not .+ but at least two of the others do$", rule):
        return but.group(1) not in did and len(did) > 1
    if counted := re.match(r"(at least|exactly) (two|three|four) of them ", rule):
        n = numbers[counted.group(2)]
        return len(did) == n if counted.group(1) == "exactly" else len(did) >= n
    for pattern, holds in (
        (r"all of (.+) or all of (.+) \w+", lambda f, s: f <= did or s <= did),
        (r"at least one of (.+) and at least one of (.+)", lambda f, s: f & did and s & did),
        (r"more of (.+) than of (.+)", lambda f, s: len(f & did) > len(s & did)),
    ):
        if groups := re.match(pattern, rule):
            first, second = (
                {x for x in names if re.search(rf"\b{x}\b", g)} for g in groups.groups()
            )
            assert first | second == set(names)
            return bool(holds(first, second))
    raise AssertionError(rule)


def aim(item: Item) -> None:
    """Check an item about intentions against the sentence that states the aim."""
    asked = re.search(
        r"(?:Was it (\w+)'s aim to|Did (\w+) do it in order to) (.+)\?", item.question
    )
    assert asked
    who, what = asked.group(1) or asked.group(2), asked.group(3)
    told = item.question[: asked.start()]
    if item.level > 3:
        # Others have aims as well: each pair has its own sentences.
        (start,) = (
            m.start()
            for m in re.finditer(rf"(?:\w+ and {who}|{who} and \w+) \w+.+? together", told)
            if told[: m.start()] == "" or told[m.start() - 2] == "."
        )
        told = told[start:]
    if pair := re.match(r"(\w+) and (\w+) .+ together", told):
        # Both did it: each had an aim.
        a, b = pair.groups()
        for words in (
            f"together: {a} in order to (.+), {b} in order to (.+?)\\.",
            f"together to (.+) and (.+): {a} wanted only the first, {b} the second\\.",
            f"All that {a} wanted was to (.+); {b} only wanted to (.+?)\\.",
        ):
            if aims := re.search(words, told):
                wanted = aims.group((a, b).index(who) + 1)
                break
        else:
            raise AssertionError(told)
    else:
        assert re.match(rf"(All that )?{who} ", told), told
        match = re.search(r"(?:in order to|wanted was to) (.+?)(?:\.|,)", told)
        assert match
        wanted = match.group(1)
    assert item.gold == ("yes" if wanted == what else "no"), item.question
