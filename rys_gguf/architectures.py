"""What llama.cpp makes of a layer's position, one row per architecture.

Read from llama.cpp's source at b11434; each row names the file. To add an architecture, add a row
and a model of it to the tests.
"""

from __future__ import annotations

from rys_gguf.rules import Architecture, CountSwitch, Metadata, Periodic

CHECKED_AGAINST = "b11434"

FULL, LINEAR, SLIDING = "full attention", "linear attention", "sliding-window attention"

# Arrays of one value per block under any architecture's prefix (llama-model.cpp, load_hparams:
# get_key_or_arr, which demands exactly block_count entries). Element 0 also sizes the whole model.
PER_LAYER = (
    "attention.head_count",
    "attention.head_count_kv",
    "feed_forward_length",
    "expert_used_count",
    "expert_feed_forward_length",
)
# Arrays that are not per layer even where a small model makes their length equal block_count.
NOT_PER_LAYER = frozenset({
    "rope.dimension_sections",
    "classifier.output_labels",
    "target_layers",
    "ple.layers",
})  # fmt: skip

_INTERVAL = Periodic(
    special=FULL,
    regular=LINEAR,
    default=4,
    period_key="full_attention_interval",
    array="attention.recurrent_layers",
    array_read_by="read by llama.cpp from mid-2026 on; engines that know only "
    "full_attention_interval (older llama.cpp, ik_llama.cpp) refuse the file",
    whole=True,
)


def _sliding(default: int, *, at: int = -1) -> Periodic:
    return Periodic(
        special=FULL,
        regular=SLIDING,
        default=default,
        period_key="attention.sliding_window_pattern",
        at=at,
        when="attention.sliding_window",
        array="attention.sliding_window_pattern",
        array_read_by="read by current llama.cpp; older engines may ignore it without a word and "
        "run the layers by position",
    )


def _gemma3_scales_differ(meta: Metadata) -> bool:
    n_head = (meta.array("attention.head_count") or [meta.scalar("attention.head_count", 0)])[0]
    n_embd = meta.scalar("embedding_length", 0)
    return bool(n_head) and n_embd // n_head != meta.scalar("attention.key_length")


def _has_tekken_without_template(meta: Metadata) -> bool:
    pre = meta.kvs.get("tokenizer.ggml.pre")
    return pre is not None and pre.value == "tekken" and "tokenizer.chat_template" not in meta.kvs


# Every architecture: llama-model.cpp, llama_model_chat_template.
ALWAYS = (
    CountSwitch(
        frozenset({40}),
        "the default chat template (mistral-v7-tekken with exactly 40 layers); "
        "add a tokenizer.chat_template to the source to settle it",
        _has_tekken_without_template,
    ),
)

_ROWS = (
    Architecture("llama", (), "src/models/llama.cpp"),
    Architecture("qwen2", (), "src/models/qwen2.cpp"),
    Architecture("qwen3", (), "src/models/qwen3.cpp"),
    Architecture(
        "gemma3",
        (
            _sliding(6),
            CountSwitch(
                frozenset({62}),
                "the attention scale (1/sqrt(embedding_length/head_count) with exactly 62 layers, "
                "1/sqrt(key_length) otherwise)",
                _gemma3_scales_differ,
            ),
        ),
        "src/models/gemma3.cpp:4-31",
    ),
    Architecture("qwen35", (_INTERVAL,), "src/models/qwen35.cpp:4-39"),
    Architecture("qwen35moe", (_INTERVAL,), "src/models/qwen35moe.cpp:4-43"),
    Architecture("qwen3next", (_INTERVAL,), "src/models/qwen3next.cpp:4-41"),
)

ARCHITECTURES = {row.name: row for row in _ROWS}
