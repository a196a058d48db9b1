"""A broken SmolLM2 is told from a sound one, alone and beside its source."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rys_gguf import LayerMap, Model, make_plan, write_plan
from rys_gguf.checks.loops import Kind
from rys_gguf.checks.smoke import PROMPTS, Prompt, Reply, compare, run_smoke
from rys_gguf.checks.smoke_report import as_json, smoke_lines
from rys_gguf.engines.base import LIVE, EngineOptions, Generation
from rys_gguf.engines.find import open_engine
from rys_gguf.engines.server import ServerEngine
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.checks.texts import GOOD_START, LOOPS, NUMBERED
from tests.cli.calls import ONE_THREAD, call, done

OPTIONS = EngineOptions(n_ctx=1024, n_threads=1, load_seconds=120, answer_seconds=120)
# Enough for loops: a token of SmolLM2 takes 20 ms.
N_TOKENS = 48
ASKED = PROMPTS[:4]


def replies(*texts: str) -> tuple[Reply, ...]:
    """Replies to as many prompts as there are texts."""
    return tuple(Reply(p.name, t, True, 64) for p, t in zip(PROMPTS, texts, strict=False))


def mixed(n_loops: int, n_garbage: int = 0) -> tuple[Reply, ...]:
    """Eight replies, of which that many loop and that many are empty."""
    loops, empty = [LOOPS["sentence"]] * n_loops, [""] * n_garbage
    return replies(*loops, *empty, *[NUMBERED] * (8 - n_loops - n_garbage))


@pytest.mark.parametrize(
    ("variant", "base", "passes"),
    [
        (mixed(0), None, True),
        (mixed(4), None, True),
        (mixed(5), None, False),
        (mixed(0, 1), None, True),
        (mixed(0, 2), None, False),
        (mixed(5), mixed(5), True),
        (mixed(6), mixed(5), True),
        (mixed(2), mixed(0), True),
        (mixed(3), mixed(0), False),
        (mixed(4, 2), mixed(6), False),
        (mixed(0), mixed(5), True),
    ],
)
def test_the_verdict_is_relative_to_the_base(
    variant: Sequence[Reply], base: Sequence[Reply] | None, passes: bool
) -> None:
    """A variant may loop about as much as its base; without a base, half of it may loop."""
    verdict = compare(variant, base)
    assert verdict.passed is passes
    assert bool(verdict.reasons) is not passes


def test_loops_that_begin_earlier_fail_where_the_count_cannot_rise() -> None:
    """Where every reply of the base loops, a larger repeated share still tells."""
    late, early = GOOD_START * 2 + "She saw the sea. " * 6, "She saw the sea. " * 20
    verdict = compare(replies(*[early] * 8), replies(*[late] * 8))
    assert not verdict.passed
    assert compare(replies(*[late] * 8), replies(*[early] * 8)).passed


@pytest.mark.parametrize("mean_nll", [1.4, math.inf])
def test_a_model_that_is_unsure_of_its_words_fails(mean_nll: float) -> None:
    """Text without a finding fails if its tokens were unlikely or the logits not numbers."""
    sure = [replace(a, mean_nll=0.6) for a in mixed(0)]
    unsure = [replace(a, mean_nll=mean_nll) for a in mixed(0)]
    assert compare(sure).passed
    assert not compare(unsure).passed
    assert not compare(unsure, sure).passed
    assert compare(unsure, unsure).passed
    assert json.dumps(as_json(compare(unsure)), allow_nan=False)


def test_only_replies_to_the_same_prompts_are_compared() -> None:
    """No replies, or replies to other prompts, are an error of the caller."""
    with pytest.raises(ValueError, match="no replies"):
        compare(())
    with pytest.raises(ValueError, match="different prompts"):
        compare(mixed(0), mixed(0)[1:])


def test_a_hostile_reply_is_printed_escaped() -> None:
    """The offending text is shown without its control characters."""
    lines = list(smoke_lines(compare(replies("\x1b[2J\x1b[1m boo " * 9))))
    assert any("boo" in line for line in lines)
    assert all(line.isprintable() for line in lines)


# -- in the engine -----------------------------------------------------------------------------


def written(source: Path, folder: Path, spec: str) -> Path:
    """The variant of a model that a spec describes."""
    out = folder / "variant.gguf"
    with Model(source) as model:
        write_plan(make_plan(model, LayerMap.parse(spec, model.n_trunk)), out)
    return out


@pytest.fixture(scope="module")
def base(smollm2: Path) -> tuple[Reply, ...]:
    """SmolLM2's own replies."""
    return run_smoke(smollm2, OPTIONS, n_tokens=N_TOKENS, prompts=ASKED)


def test_smollm2_itself_passes(base: tuple[Reply, ...]) -> None:
    """The unmodified model passes, with and without a comparison."""
    assert [a.prompt for a in base] == [p.name for p in ASKED]
    assert all(0 < a.n_tokens <= N_TOKENS for a in base)
    assert compare(base).passed
    assert compare(base, base).passed


def test_repeating_its_last_layers_makes_smollm2_loop(
    base: tuple[Reply, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:28,30 fails alone and beside the base, and the looping text is printed."""
    seen: list[Reply] = []
    path = written(smollm2, tmp_path, "blocks:28,30")
    variant = run_smoke(path, OPTIONS, n_tokens=N_TOKENS, prompts=ASKED, progress=seen.append)
    assert tuple(seen) == variant
    assert not compare(variant).passed
    verdict = compare(variant, base)
    assert not verdict.passed
    loops = [f for a in variant for f in a.findings if f.kind is Kind.LOOP]
    assert len(loops) >= 3
    printed = "\n".join(smoke_lines(verdict))
    assert all(f.excerpt.split()[0] in printed for f in loops)
    assert "failed: " in printed


def test_repeating_its_first_layers_makes_smollm2_write_no_text(
    base: tuple[Reply, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:1,3 writes nothing, and an empty reply is not taken for one without loops."""
    path = written(smollm2, tmp_path, "blocks:1,3")
    variant = run_smoke(path, OPTIONS, n_tokens=N_TOKENS, prompts=ASKED)
    assert not compare(variant).passed
    assert not compare(variant, base).passed


def test_dropping_middle_layers_makes_smollm2_unsure(
    base: tuple[Reply, ...], smollm2: Path, tmp_path: Path
) -> None:
    """layers:0..9,20..29 writes nonsense that does not repeat; only the likelihood shows it."""
    path = written(smollm2, tmp_path, "layers:0..9,20..29")
    variant = run_smoke(path, OPTIONS, n_tokens=24, prompts=ASKED[:3])
    verdict = compare(variant, base[:3])
    assert any("nats per token" in reason for reason in verdict.reasons)


def test_repeating_middle_layers_leaves_smollm2_sound(
    base: tuple[Reply, ...], smollm2: Path, tmp_path: Path
) -> None:
    """blocks:10,14 passes beside the base."""
    path = written(smollm2, tmp_path, "blocks:10,14")
    variant = run_smoke(path, OPTIONS, n_tokens=N_TOKENS, prompts=ASKED)
    assert compare(variant, base).passed


def test_a_live_engine_writes_what_a_server_writes(base: tuple[Reply, ...], smollm2: Path) -> None:
    """The first prompt has a near tie, which the company of other prompts turns."""
    seen: list[Reply] = []
    options = replace(OPTIONS, kind=LIVE)
    found = run_smoke(smollm2, options, n_tokens=N_TOKENS, prompts=ASKED[:2], progress=seen.append)
    assert tuple(seen) == found
    assert [reply.text for reply in found] == [reply.text for reply in base[:2]]


def test_a_model_without_a_template_continues_text(
    gemma3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 3 270M has no template; the one llama.cpp substitutes is not used."""

    def chat(*_args: object, **_options: object) -> Generation:
        raise AssertionError("asked to chat")

    monkeypatch.setattr(ServerEngine, "chat", chat)
    prompt = Prompt("capital", "Capitals of Europe, by country.", "The capital of France is")
    (answer,) = run_smoke(gemma3, OPTIONS, n_tokens=6, prompts=[prompt])
    assert "Paris" in answer.text
    assert answer.truncated
    assert answer.n_tokens == 6


def test_a_request_that_fails_is_an_error(smollm2: Path) -> None:
    """A prompt that does not fit into the context raises; there is no reply to judge."""
    options = EngineOptions(n_ctx=256, n_threads=1)
    with pytest.raises(EngineFailed, match="status 400"):
        run_smoke(smollm2, options, prompts=[Prompt("long", "again " * 2000, "")])


# As Gemma 4's: a thinking channel in front of the answer, empty where thinking is off.
THINKING_TEMPLATE = (
    "{% for message in messages %}<|turn>{{ message['role'] }}\n{{ message['content'] }}<turn|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|turn>model\n"
    "{% if not enable_thinking | default(false) %}<|channel>thought\n<channel|>{% endif %}"
    "{% endif %}"
)


def test_gemma_4_answers_without_thinking(tmp_path: Path) -> None:
    """Its template closes the thinking channel, and random weights get a verdict, not an error."""
    keys = {"tokenizer.chat_template": THINKING_TEMPLATE, ".context_length": 2048}
    path = tiny.write(tmp_path / "m.gguf", "gemma4", 8, shared_kv_layers=4, extra=keys)
    with open_engine(path, OPTIONS) as engine:
        prompt = engine.templated("How are you?")
    assert prompt.endswith("How are you?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")
    out = tmp_path / "out.gguf"
    done("apply", path, "--blocks", "1,3", "-o", out)
    smoked = call("smoke", out, "--source", path, *ONE_THREAD)
    assert smoked.exception is None or isinstance(smoked.exception, SystemExit)
    verdicts = [line.split(":")[0] for line in smoked.stdout.splitlines()]
    assert ("failed" in verdicts, smoked.exit_code) in ((True, 1), (False, 0))
