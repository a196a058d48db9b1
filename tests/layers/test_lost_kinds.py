"""Maps that leave out every layer of a kind that llama.cpp's memory cannot do without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rys_gguf import LayerMap, Model, Refused, Schedule, make_plan, write_plan
from rys_gguf.errors import EngineFailed
from tests import tiny
from tests.engine import logprobs

# Models in the engine: their lines are reached by quicker tests, and tracing doubles the time.
pytestmark = pytest.mark.no_cover

N = 12
PROMPTS = [[1, *range(40, 60)]]
FOURS = ("0,1,2,4,5,6", "3,7,11")  # all layers but every fourth, and these alone
LOST: list[tuple[str, dict[str, Any], str, str]] = [
    *(
        (arch, options, layers, kind)
        for arch, options, other in (
            ("qwen35", {"recurrent_layers": True}, "linear attention"),
            ("qwen3next", {"recurrent_layers": True}, "linear attention"),
            ("jamba", {}, "recurrent"),
            ("granitehybrid", {}, "recurrent"),
            ("lfm2", {}, "short convolution"),
            ("bailingmoe3", {"leading_dense": 0}, "linear attention"),
            ("glm5-next", {"leading_dense": 0}, "linear attention"),
        )
        for layers, kind in zip(FOURS, ("full attention", other), strict=True)
    ),
    ("nemotron_h", {}, "0,2,3,5", "full attention"),
    ("nemotron_h", {}, "1,2,4,5", "recurrent"),
    ("deepseek4", {}, "0,2,3,5", "compressed attention with an indexer"),
    ("gemma3", {"pattern": True}, "5,11", "sliding-window attention"),
    ("gpt-oss", {"pattern": True}, "1,3", "sliding-window attention"),
    ("llama4", {"pattern": True}, FOURS[1], "sliding-window attention"),
    ("llama4", {}, "0,1,2", "no RoPE"),
    ("gemma4", {}, FOURS[0], "full attention"),
    ("gemma4", {}, FOURS[1], "sliding-window attention"),
]


@pytest.mark.parametrize(("arch", "options", "layers", "kind"), LOST)
def test_what_llama_cpp_cannot_load_is_refused(
    tmp_path: Path, arch: str, options: dict[str, Any], layers: str, kind: str
) -> None:
    """The plain rewrite does not even load, and the message names the kind."""
    layer_map = LayerMap.parse(f"layers:{layers}", N)
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    with Model(source) as model, pytest.raises(Refused) as caught:
        make_plan(model, layer_map, schedule=Schedule.EXPLICIT)
    assert f"no layer would run as {kind} any more" in str(caught.value)
    plain = tiny.write(tmp_path / "plain.gguf", arch, N, sources=layer_map.sources, **options)
    with pytest.raises(EngineFailed):
        logprobs(plain, PROMPTS)


@pytest.mark.parametrize(
    ("arch", "options", "layers"),
    [
        ("nemotron_h", {}, "0,1,3,4"),
        ("deepseek4", {}, "0,1,3,4"),
        ("gemma3", {"pattern": True}, "0,1,2"),
        ("gpt-oss", {"pattern": True}, "0,2"),
        ("jamba", {}, "2,3"),
        ("qwen35", {"recurrent_layers": True}, "2,3"),
    ],
)
def test_what_llama_cpp_can_do_without_may_go(
    tmp_path: Path, arch: str, options: dict[str, Any], layers: str
) -> None:
    """FFN layers, one kind of compressed attention, or full attention among sliding windows."""
    source = tiny.write(tmp_path / "m.gguf", arch, N, **options)
    with Model(source) as model:
        layer_map = LayerMap.parse(f"layers:{layers}", N)
        write_plan(make_plan(model, layer_map, schedule=Schedule.EXPLICIT), tmp_path / "out.gguf")
    logprobs(tmp_path / "out.gguf", PROMPTS)
