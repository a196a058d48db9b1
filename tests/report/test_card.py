"""A model card: valid front matter whatever a header says, and only what is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from rys_gguf import LayerMap
from rys_gguf.errors import RysError
from rys_gguf.formats.model import Model
from rys_gguf.report.card import make_card
from tests import tiny
from tests.cli.calls import done, refused
from tests.fake_runs import make_run

SPEC = "blocks:10,14"
# All that a card may have in its front matter.
KEYS = {
    "base_model", "base_model_relation", "license", "license_name", "license_link", "library_name",
    "language", "tags", "model-index",
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model of 24 layers that says where it comes from."""
    path = tmp_path / "m.gguf"
    extra: dict[str, Any] = {
        "general.license": "apache-2.0",
        "general.source.repo_url": "https://huggingface.co/owner/tiny-1.5B",
        "general.languages": ["en", "de"],
    }
    return tiny.write(path, "llama", 24, extra=extra)


def make(source: Path, *blocks: str) -> Path:
    """The variant, written by the tool."""
    out = source.with_name("m-rys.gguf")
    done("apply", source, *(a for b in blocks or ("10,14",) for a in ("--blocks", b)), "-o", out)
    return out


def text_of(variant: Path, source: Path | None, spec: str = SPEC, **kwargs: Any) -> str:
    """The card of two files."""
    with Model(variant) as v:
        if source is None:
            return make_card(v, None, LayerMap.parse(spec, 24), **kwargs)
        with Model(source) as s:
            return make_card(v, s, LayerMap.parse(spec, s.n_trunk), **kwargs)


def read(text: str) -> Any:
    """A card as the Hub's own library reads it, which has types for half of it."""
    return ModelCard(text)


def front_matter(text: str) -> dict[str, Any]:
    """The front matter as the Hub's own library reads it."""
    data: Any = read(text).data
    return dict(data.to_dict())


def test_front_matter_says_what_the_header_says(source: Path) -> None:
    """Base model, licence and languages come from the source's header."""
    text = text_of(make(source), source)
    assert front_matter(text) == {
        "base_model": "owner/tiny-1.5B",
        "base_model_relation": "merge",
        "license": "apache-2.0",
        "library_name": "gguf",
        "language": ["en", "de"],
        "tags": ["gguf", "rys", "layer-duplication"],
    }
    assert front_matter(text_of(make_again(source), None)) == front_matter(text)


def make_again(source: Path) -> Path:
    """The variant that is there already."""
    return source.with_name("m-rys.gguf")


def test_what_the_header_does_not_say_is_left_open(tmp_path: Path) -> None:
    """No licence is `other`, no base model a comment for the author."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 24)
    text = text_of(make(source), source)
    found = front_matter(text)
    assert found["license"] == "other"
    assert "base_model" not in found
    assert "# base_model: OWNER/NAME" in text
    assert "language" not in found
    assert "Not measured." in text
    assert "No validation report." in text


@pytest.mark.parametrize(
    "hostile", ['a"\nlicense: mit\n---\n# x', "x: [y", "<script>|`*", "\x1b[2J\u202e", "- y # z"]
)
def test_hostile_headers_stay_values(tmp_path: Path, hostile: str) -> None:
    """Whatever a header holds can neither add keys nor end the front matter nor be markup."""
    extra = {
        "general.license": hostile,
        "general.license.link": hostile,
        "general.source.repo_url": "https://huggingface.co/" + hostile,
        "general.languages": [hostile, "en"],
    }
    source = tiny.write(tmp_path / "m.gguf", "llama", 24, extra=extra)
    text = text_of(make(source), source)
    found = front_matter(text)
    assert found["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]*", found.get("license_name", ""))
    assert "license_link" not in found
    assert "base_model" not in found
    assert found["language"] == ["en"]
    assert set(found) <= KEYS
    assert "\x1b" not in text
    assert "<script>" not in text.split("\n---\n", 1)[1]


@pytest.mark.parametrize(
    ("link", "is_kept"),
    [
        ("https://example.org/a/LICENSE?x=1#y", True),
        ("LICENSE", True),
        ("LICENSE.md", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://example.org/a b", False),
        ("//example.org", False),
        ("../LICENSE", False),
    ],
)
def test_a_licence_link_leads_to_a_page_or_a_file(tmp_path: Path, link: str, is_kept: bool) -> None:
    """The Hub shows it as a link, and whoever wrote the header chose it."""
    extra = {"general.license": "My Licence 1.0", "general.license.link": link}
    source = tiny.write(tmp_path / "m.gguf", "llama", 24, extra=extra)
    found = front_matter(text_of(make(source), source))
    assert (found["license"], found["license_name"]) == ("other", "my-licence-1.0")
    assert found.get("license_link") == (link if is_kept else None)


@pytest.mark.parametrize(
    "name", ["see https://example.org/x", "www.example.org", "me@example.org", "HTTP://example.org"]
)
def test_a_name_is_no_link(tmp_path: Path, name: str) -> None:
    """Markdown makes links of bare addresses wherever they stand but in code."""
    source = tiny.write(tmp_path / "m.gguf", "llama", 24, extra={"general.name": name})
    text = text_of(make(source), source)
    body = text.split("\n---\n", 1)[1]
    (title,) = (line for line in body.splitlines() if line.startswith("# "))
    assert re.fullmatch(r"# `[^`]+`", title)
    assert name in title


def test_the_front_matter_is_what_the_hub_reads(source: Path) -> None:
    """Its library reads the card, and writes it again without loss; results have their fields."""
    text = text_of(make(source), source, run=make_run(0))
    card = read(text)
    plain = front_matter(text)
    assert set(plain) == KEYS - {"license_name", "license_link"}
    results = {r.dataset_config: r for r in card.data.eval_results}
    assert set(results) == {"overall", "math", "eq", "reasoning"}
    assert results["math"].metric_type == "accuracy"
    assert results["eq"].metric_type == "score"
    for result in results.values():
        assert 0 <= result.metric_value <= 1
        assert result.task_type == "text-generation"
        assert result.dataset_revision == "heldout-1"
        assert result.metric_args["n"] > 0
    assert front_matter(str(card)) == plain


def test_without_the_hub_library_the_card_names_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message can be pasted."""
    variant = make(source)
    monkeypatch.setattr("rys_gguf.extras.find_spec", lambda name: name != "huggingface_hub" or None)
    with pytest.raises(
        RysError, match=r"the card needs huggingface_hub: pip install huggingface_hub$"
    ):
        text_of(variant, source)


def test_the_path_is_drawn(source: Path) -> None:
    """One line per pass, at the place of its layers, in the order they run."""
    text = text_of(make(source), source)
    drawn = text.split("```text\n")[1].split("```")[0].splitlines()
    assert [(line.split()[-3], line.split()[-1]) for line in drawn] == [
        ("0", "23"), ("0", "13"), ("10", "23")
    ]  # fmt: skip
    assert drawn[2].index("10") > drawn[1].index("0")
    assert len(drawn[0]) == len(drawn[2])
    assert "24 layers became 28" in text
    assert "layers 10 to 13 run twice" in text
    several = text_of(make_several(source), source, spec="blocks:2,4;10,12")
    assert "layers 2 to 3 and layers 10 to 11 run twice" in several


def test_a_damped_copy_is_said_to_be_one(source: Path) -> None:
    """In the sentence, and in the map."""
    variant = make(source, "10,14@0.5")
    text = text_of(variant, source, spec="blocks:10,14@0.5")
    assert "layers 10 to 13 run twice, the second time damped by 0.5" in text
    assert "`blocks:10,14@0.5`" in text
    variant.unlink()
    by_layer = "blocks:8,9@0.5;8,9@0.5;9,10@0.5;9,10@0.5;12,14@0.5"
    parts = by_layer.removeprefix("blocks:").split(";")
    assert (
        "layers 8 to 9 run 3 times, layer by layer and layers 12 to 13 run twice, every later time "
        "damped by 0.5"
    ) in text_of(make(source, *parts), source, spec=by_layer)


def test_what_runs_more_than_twice_or_not_at_all_is_not_said_to_run_twice(source: Path) -> None:
    """The form is said, or the map says it all; without the source what the file itself tells."""
    thrice = make(source, "8,12", "8,12")
    text = text_of(thrice, source, spec="blocks:8,12;8,12")
    assert "run twice" not in text
    assert "layers 8 to 11 run 3 times." in text
    thrice.unlink()
    done("apply", source, "--layers", "0..20", "-o", thrice)
    assert "with another path through its layers" in text_of(thrice, source, spec="layers:0..20")
    alone = done("card", thrice).stdout
    assert "Its 21 layers come from 21 layers of the source." in alone


def test_files_that_are_no_validation_and_no_map_are_one_message(
    source: Path, tmp_path: Path
) -> None:
    """Any other JSON or array gives one message."""
    variant = make(source)
    for bad in ("[1]", '{"rungs": 5}', '{"rungs": ["a"]}', "{"):
        (tmp_path / "v.json").write_text(bad)
        said = refused("card", variant, "--validation", tmp_path / "v.json")
        assert f"{tmp_path / 'v.json'}: not a validation report" in said
    texts = tiny.write(tmp_path / "t.gguf", "llama", 4, extra={"rys.layer_map": ["a", "b"]})
    assert "t.gguf: rys.layer_map: is ARRAY[STRING, 2], expected ARRAY[INT32]" in refused(
        "card", texts
    )


def make_several(source: Path) -> Path:
    """A variant of two windows."""
    source.with_name("m-rys.gguf").unlink(missing_ok=True)
    return make(source, "2,4", "10,12")


def test_files_rule_and_usage(source: Path) -> None:
    """Size to the byte, the architecture's rule, a command that runs."""
    variant = make(source)
    text = text_of(variant, source)
    assert f"| m-rys.gguf | {text_size(variant)} | {variant.stat().st_size} |" in text
    assert "every layer alike" in text
    assert "The map respects this rule" in text
    assert "llama-server -m m-rys.gguf" in text


def text_size(path: Path) -> str:
    """As the card writes it."""
    return f"{path.stat().st_size / 2**20:.1f} MiB"


def test_an_explicit_schedule_is_spelled_out(tmp_path: Path) -> None:
    """Where the file says what the place of a layer no longer does, so does the card."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    out = tmp_path / "out.gguf"
    done("apply", source, "--blocks", "5,8", "--schedule", "explicit", "-o", out)
    text = text_of(out, source, spec="blocks:5,8")
    assert "sliding\\_window\\_pattern lists each layer's kind" in text
    assert "The map respects this rule" not in text


def test_a_schedule_that_is_missing_is_said(tmp_path: Path) -> None:
    """A file made by renaming tensors alone has no such keys, and the card does not invent them."""
    source = tiny.write(tmp_path / "m.gguf", "gemma3", 12)
    layers = [*range(8), *range(5, 12)]
    renamed = tiny.write(tmp_path / "renamed.gguf", "gemma3", 12, sources=layers)
    text = text_of(renamed, source, spec="blocks:5,8")
    assert "spells out what" not in text
    assert "some layers run as another kind than their source" in text


def test_scores_of_another_model_are_said_to_be(source: Path) -> None:
    """Such as those of the unquantised one; the run's own model needs no such word."""
    variant, run = make(source), make_run(0)
    said = "The run measured tiny.gguf, which is not the file that this variant was made from"
    assert said in text_of(variant, source, run=run)
    assert said in text_of(variant, None, run=run), "the variant records its source"
    with Model(source) as s:
        run.raw["identity"]["model"]["sha256"] = s.header_digest()
    assert said not in text_of(variant, source, run=run)
    assert said not in text_of(variant, None, run=run)


def test_scores_come_with_interval_suite_and_run(source: Path) -> None:
    """The verdict in words, n, intervals, and which suite it was."""
    text = text_of(make(source), source, run=make_run(0))
    assert "**better** than the base" in text
    assert "suite `heldout-1`" in text
    assert "run `0123456789abcdef`" in text
    row = next(line for line in text.splitlines() if line.startswith("| **overall** |"))
    assert [part.strip() for part in row.split("|")][2] == "340"
    assert " to +" in row


def test_a_window_that_was_no_finalist_has_no_scores(source: Path) -> None:
    """The search's numbers do not appear on a card."""
    run = make_run(0, finalists=((9, 13),))
    text = text_of(make(source), source, run=run)
    assert "no finalist of the run" in text
    assert "credit" not in text


def test_run_and_validation_must_be_of_this_variant(source: Path) -> None:
    """Another model's run, another map's validation: refused."""
    variant = make(source)
    other = make_run(0, final=False, n=30)
    with pytest.raises(RysError, match="30 layers, the map of one with 24"):
        text_of(variant, source, run=other)
    with pytest.raises(RysError, match="validation is of blocks:1,2"):
        text_of(variant, source, validation={"spec": "blocks:1,2", "rungs": []})


def test_what_was_checked_is_listed(source: Path) -> None:
    """Each rung of the ladder with its outcome, and the engine's build."""
    validation = {
        "spec": SPEC,
        "rungs": [
            {"name": "verify", "outcome": "passed", "shows": "a | b", "details": []},
            {"name": "load", "outcome": "passed", "shows": "loads", "details": {"build": "b7"}},
            {"name": "prove", "outcome": "open", "shows": "cannot tell", "details": None},
        ],
    }
    text = text_of(make(source), source, validation=validation)
    assert "| verify | passed | a \\| b |" in text
    assert "| prove | open | cannot tell |" in text
    assert "build `b7`" in text
