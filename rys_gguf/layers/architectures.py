"""The table: what llama.cpp makes of a layer's position, one entry per architecture.

The entries were read from llama.cpp's source, of the build `CHECKED_AGAINST`; each names the file
and its lines. To add an architecture, add an entry, and a model of it to the tests.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from gguf.constants import GGUFValueType

from rys_gguf.formats.limits import MAX_LAYERS
from rys_gguf.layers.rule import Architecture, Damper, Fill, Metadata, Rescale
from rys_gguf.layers.rules import (
    Anchored,
    BoundToPreceding,
    CountSwitch,
    Injection,
    LayerIndex,
    Leading,
    Listed,
    Looped,
    Needed,
    Periodic,
    Pin,
    SharedTail,
    TensorNames,
    TiedTail,
    Unsupported,
)

CHECKED_AGAINST = "b11549"

FULL, LINEAR, SLIDING = "full attention", "linear attention", "sliding-window attention"
RECURRENT, CONVOLUTION = "recurrent", "short convolution"
DENSE, EXPERTS = "dense", "MoE"
ROPE, NO_ROPE = "RoPE", "no RoPE"

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
    "ple.layer_multipliers",
    "ple.head_offsets",
    "ple.head_vocab_sizes",
    "adapters.token_ids_activate",
    "adapters.token_ids_substitute",
})  # fmt: skip

# What some of them read layer by layer everywhere (Architecture.by_layer).
_HEADS, _KV_HEADS, _FFN = PER_LAYER[:1], PER_LAYER[1:2], PER_LAYER[2:3]
_EXPERT_FFN = PER_LAYER[4:]
# Sizes of layers with sliding windows; most loaders and graphs take those of layer 0 for all.
_SWA_ROPE = ("rope.dimension_count_swa",)
SWA_SIZES = ("attention.key_length_swa", "attention.value_length_swa", *_SWA_ROPE)

# llama.cpp reads these into 512 slots without checking their length (llama-model-loader.cpp,
# get_arr), and its own saver writes 512 entries.
_SWA_ARRAY = ("attention.sliding_window_pattern",)
_DEEPSTACK_ARRAY = ("deepstack_mapping",)
# llama.cpp checks the length of these, and applies them layer by layer.
_CLAMP_ARRAYS = ("swiglu_clamp_exp", "swiglu_clamp_shexp")

# Which llama.cpp loads a file that lacks the MTP blocks it counts (nextn_flags, llama-model.cpp).
_MTP_OPTIONAL_SINCE = "llama.cpp b11549 loads such a file, b11434 did not"

# Why a layer that writes zeros does more than none, or the model gives no probabilities
# (Architecture.unprovable).
_MIXED_STREAMS = "AltUp scales and mixes the residual's streams in every layer"
_NO_TOKENS = "it gives embeddings or scores, and no probabilities of a next token to compare"
_NORMED_RESIDUAL = "every layer norms the sum of its input and its output"


def _ones(n: int) -> list[float]:
    return [1.0] * n


def _zeros(n: int) -> list[float]:
    return [0.0] * n


def _no_mixing(n: int) -> list[float]:
    """hc_*_base of a layer that keeps its k streams apart.

    Weights of the input, weights of the output, and logits whose softmax is the identity.
    """
    k = int((n + 1) ** 0.5) - 1
    return [0.0] * (2 * k) + [0.0 if i == j else -1e4 for i in range(k) for j in range(k)]


# The streams stay apart where nothing but hc_*_base sets their mixing. The epsilon that Sinkhorn's
# normalisation adds (deepseek4.cpp, build_hc_sinkhorn) would still mix a millionth of each.
_STREAMS_APART = tuple(
    Fill(f"hc_{half}_{part}.weight", values)
    for half in ("attn", "ffn")
    for part, values in (("scale", _zeros), ("base", _no_mixing))
)
_STREAM_EPSILON = ("hyper_connection.epsilon",)


_INTERVAL = Periodic(
    special=FULL,
    regular=LINEAR,
    default=4,
    period_key="full_attention_interval",
    divides=True,
    array="attention.recurrent_layers",
    array_read_by="read by llama.cpp from mid-2026 on; engines that know only "
    "full_attention_interval (older llama.cpp, ik_llama.cpp) refuse the file",
    whole=True,
    kept=(FULL, LINEAR),
)


def _sliding(default: int, *, at: int = -1, always: bool = False, cached: bool = True) -> Periodic:
    """Full attention once in `default` layers; with `always` even without a sliding_window.

    Models with a KV cache need a layer with a sliding window. Encoders are not `cached`, and need
    a layer of either kind: llama.cpp aborts on a mask that no layer reads (llama-graph.cpp,
    llm_graph_input_attn_no_cache).
    """
    return Periodic(
        special=FULL,
        regular=SLIDING,
        default=default,
        period_key="attention.sliding_window_pattern",
        at=at,
        when=None if always else "attention.sliding_window",
        array="attention.sliding_window_pattern",
        array_read_by="read by current llama.cpp; older engines may ignore it without a word and "
        "run the layers by position",
        kept=(SLIDING,) if cached else (FULL, SLIDING),
    )


def _hybrid(other: str) -> Listed:
    """Layers without K/V heads run as `other`."""
    return Listed("attention.head_count_kv", nonzero=FULL, zero=other, kept=(FULL, other))


# These loaders read the array only; they have no default and no period.
_SWA_LISTED = Listed(
    "attention.sliding_window_pattern", nonzero=SLIDING, zero=FULL, kept=(SLIDING,)
)
_FFN_LISTED = Listed("feed_forward_length", nonzero="FFN", zero="no FFN")
# A layer without attention and without FFN is recurrent.
_NEMOTRON_PARTS = (
    replace(_hybrid("no attention"), kept=(FULL,)),
    _FFN_LISTED,
    Needed(RECURRENT, (("attention.head_count_kv", 0), ("feed_forward_length", 0))),
)
_DENSE_FIRST = Leading("leading_dense_block_count", inside=DENSE, outside=EXPERTS)
_EVERY_MOE_STEP = Periodic(
    special=EXPERTS, regular=DENSE, default=1, period_key="interleave_moe_layer_step"
)
_DECISION_HEAD = TiedTail("decision.block_count", "they are the decision head")
# n_no_rope_layer_step is a constant that no key sets: the array moves the sliding windows only.
_NO_ROPE_LAST = Periodic(special=NO_ROPE, regular=ROPE, default=4)
_DEEPSTACK = Anchored(
    "n_deepstack_layers", "each adds its own slice of the image embedding, whose number is fixed"
)
_VALUE_RESIDUAL = Anchored(
    1, "its values are mixed into every later layer, and its own mixing weights are dummies"
)


def _head_widths(meta: Metadata) -> tuple[int, int]:
    """The widths behind the attention scale of gemma2 and gemma3: at one layer count, and else."""
    n_head = (meta.array("attention.head_count") or [meta.scalar("attention.head_count", 0)])[0]
    width = meta.scalar("embedding_length", 0) // (n_head or 1)
    return width, meta.scalar("attention.key_length", width)


def _query_scale_switch(count: int, tensor: str, *, new: bool = False) -> CountSwitch:
    def factor(source: Metadata, target: Metadata) -> float:
        """The source's scale divided by the target's; each is 1/sqrt(width)."""
        before, after = (_head_widths(meta)[meta.n_trunk != count] for meta in (source, target))
        if not before or not after:
            raise source.refuse(
                f"{source.architecture}: the attention scale cannot be worked out without "
                f"embedding_length, attention.head_count and a key_length above 0"
            )
        return float((after / before) ** 0.5)

    return CountSwitch(
        frozenset({count}),
        f"the attention scale (1/sqrt(embedding_length/head_count) with exactly {count} layers, "
        "1/sqrt(key_length) otherwise)",
        lambda meta: len(set(_head_widths(meta))) > 1,
        Rescale(tensor, factor, new=new),
    )


# deepseek2.cpp, which mistral4 shares: counts that stand for the lite models and GLM-4.7-Flash.
_LITE_COUNTS, _LITE_COUNT_128K, _VOCAB_128K = frozenset({26, 27}), 48, 128256
_GLM_FLASH_COUNTS, _GLM_FLASH_VOCAB = (47, 48), 154880
_SOFTMAX, _SIGMOID = 1, 2  # llama_expert_gating_func_type


def _is_lite(meta: Metadata) -> bool:
    return meta.n_trunk in _LITE_COUNTS or (
        meta.n_trunk == _LITE_COUNT_128K and meta.n_vocab == _VOCAB_128K
    )


def _q_is_low_rank(meta: Metadata) -> bool:
    return meta.positive("attention.q_lora_rank")


def _default_gating(meta: Metadata) -> int | None:
    """The router llama.cpp takes where the file names none, if the count has a say in it."""
    if meta.n_vocab != _GLM_FLASH_VOCAB:
        return None
    return _SIGMOID if meta.n_trunk in _GLM_FLASH_COUNTS else _SOFTMAX


_LITE_Q = "how Q is loaded (in one piece with as many layers as a lite model, by q_lora_rank else)"
_DEEPSEEK2_COUNTS = (
    # A lite model has no rank. With any other count llama.cpp asks for it; 0 means Q in one piece.
    Pin("attention.q_lora_rank", GGUFValueType.UINT32, lambda meta: 0 if _is_lite(meta) else None),
    CountSwitch(_LITE_COUNTS, _LITE_Q, _q_is_low_rank),
    CountSwitch(
        frozenset({_LITE_COUNT_128K}),
        _LITE_Q,
        lambda meta: _q_is_low_rank(meta) and meta.n_vocab == _VOCAB_128K,
    ),
    Pin("expert_gating_func", GGUFValueType.UINT32, _default_gating),
)


# exaone4.cpp: the one layer count with sliding windows.
_EXAONE4_HYBRID = 64


def _minicpm_residual_scale(meta: Metadata) -> float:
    """1.4f / sqrtf(n_layer), in single precision like the engine."""
    return float(np.float32(1.4) / np.sqrt(np.float32(meta.n_trunk)))


# glm-dsa.cpp: files without indexer types and with a context of 1M follow a table of 78 entries.
_LONG_CONTEXT, _INDEXER_TABLE = 1 << 20, 78


def _glm_dsa_indexers(meta: Metadata) -> list[int] | None:
    if meta.scalar("context_length", 0) < _LONG_CONTEXT:
        return None  # every layer chooses for itself
    own = (il < 2 or il % 4 == 2 for il in range(min(meta.n_trunk, _INDEXER_TABLE)))  # noqa: PLR2004
    return [int(flag) for flag in own] + [0] * (meta.n_trunk - _INDEXER_TABLE)


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
    # Tensors whose activations stay precise, by name (llama-model.cpp, llama_prec_policy::load).
    TensorNames("general.tensor_extra.name", ("general.tensor_extra.prec_a4",)),
)

# Layers that depend neither on their position nor on their number: all run alike, or as their own
# tensors and entries in per-layer arrays say.
_UNIFORM = {
    "arcee": "src/models/arcee.cpp:7-10,27,68",
    "arctic": "src/models/arctic.cpp:6-10,30,74",
    "bailingmoe": "src/models/bailingmoe.cpp:11-15,30,75",
    "bitnet": "src/models/bitnet.cpp:6-9,20,68",
    "bloom": "src/models/bloom.cpp:6-14,38,85",
    "chameleon": "src/models/chameleon.cpp:9-13,29,71",
    "chatglm": "src/models/chatglm.cpp:6-23,38,75",
    "codeshell": "src/models/codeshell.cpp:6-9,27,71",
    "cogvlm": "src/models/cogvlm.cpp:6-9,26,80",
    "dbrx": "src/models/dbrx.cpp:7-10,26,65",
    "dream": "src/models/dream.cpp:7-13,32,72",
    "ernie4_5": "src/models/ernie4-5.cpp:15-20,36,95",
    "exaone": "src/models/exaone.cpp:6-9,26,65",
    "falcon-h1": "src/models/falcon-h1.cpp:14-30,54-60,68-104,132",
    "falcon": "src/models/falcon.cpp:6-10,29,68",
    "gemma": "src/models/gemma.cpp:6-10,22-33,59-122",
    "glm4": "src/models/glm4.cpp:3-13,28-61,94-172",
    "gpt2": "src/models/gpt2.cpp:6-12,31-51,82-132",
    "gptneox": "src/models/gptneox.cpp:7-48,60-80,104-203",
    "granitemoe": "src/models/granite-moe.cpp:10-19,35-79",
    "grok": "src/models/grok.cpp:15,29-32,53-79,104-198",
    "grovemoe": "src/models/grovemoe.cpp:4-13,33-60,87-177",
    "hunyuan-dense": "src/models/hunyuan-vl.cpp:3-21,36-53,85-176",
    "hunyuan-moe": "src/models/hunyuan-moe.cpp:3-12,27-49,76-171",
    "hunyuan_vl": "src/models/hunyuan-vl.cpp:3-21,36-53,85-176",
    "internlm2": "src/models/internlm2.cpp:6-10,22-34,59-122",
    "jais": "src/models/jais.cpp:4-13,25-48,69-117",
    "jais2": "src/models/jais2.cpp:6-10,26-45,73-137",
    "llada": "src/models/llada.cpp:4-18,34-59,86-138",
    "llada-moe": "src/models/llada-moe.cpp:4-13,28-47,72-146",
    "llama": "src/models/llama.cpp:9-31,48-91,126-228",
    "maincoder": "src/models/maincoder.cpp:6-9,25-40,65-134",
    "mamba": "src/models/mamba.cpp:3-31,58-80,98-122",
    "mamba2": "src/models/mamba2.cpp:3-33,61-83",
    "minimax-m2": "src/models/minimax-m2.cpp:3-11,23-40,62-150",
    "mistral3": "src/models/mistral3.cpp:3-27,43-86,119-218",
    "mpt": "src/models/mpt.cpp:3-13,30-60,92-155",
    "nemotron": "src/models/nemotron.cpp:3-10,22-43,68-122",
    "olmo": "src/models/olmo.cpp:3-13,27-37,61-119",
    "olmoe": "src/models/olmoe.cpp:3-10,21-46,71-151",
    "orion": "src/models/orion.cpp:3-10,21-36,61-116",
    "paddleocr": "src/models/models.h:2013-2022",
    "pangu-embedded": "src/models/pangu-embed.cpp:3-11,27-52,76-138",
    "phi2": "src/models/phi2.cpp:3-11,24-41,66-126",
    "phi3": "src/models/phi3.cpp:3-25,41-57,91-166",
    "phimoe": "src/models/phimoe.cpp:3-10,25-46",
    "plamo": "src/models/plamo.cpp:3-10,21-33,57-112",
    "plm": "src/models/plm.cpp:3-11,27-41,69-190",
    "pockettts": "src/models/pockettts.cpp:6-14,26-42,65-128",
    "qwen": "src/models/qwen.cpp:3-11,22-37,60-117",
    "qwen2": "src/models/qwen2.cpp:3-17,33-47,71-128",
    "qwen2moe": "src/models/qwen2moe.cpp:3-14,25-58,83-172",
    "qwen2vl": "src/models/qwen2vl.cpp:3-6,22-36,63-122",
    "qwen3": "src/models/qwen3.cpp:3-13,31-47,71-134",
    "qwen3moe": "src/models/qwen3moe.cpp:3-12,27-56,80-157",
    "refact": "src/models/refact.cpp:3-13,29-72,93-150",
    "rnd1": "src/models/rnd1.cpp:3-14,29-58,84-157",
    "rwkv6qwen2": "src/models/rwkv6qwen2.cpp:3-24,46-78,100-150",
    "seed_oss": "src/models/seed-oss.cpp:3-10,29-43,69-126",
    "stablelm": "src/models/stablelm.cpp:3-12,24-45,68-150",
    "starcoder": "src/models/starcoder.cpp:3-13,33-54,83-129",
    "starcoder2": "src/models/starcoder2.cpp:3-14,31-53,77-142",
    "xverse": "src/models/xverse.cpp:3-12,22-35,59-115",
}

_ROWS = (
    *(Architecture(name, (), source) for name, source in _UNIFORM.items()),
    Architecture(
        "openelm",
        (),
        "src/models/openelm.cpp:25-43,66-95",
        by_layer=(*_HEADS, *_KV_HEADS, *_FFN),
    ),
    Architecture("bert", (), "src/models/bert.cpp:6-20,43,102", unprovable=_NORMED_RESIDUAL),
    Architecture(
        "jina-bert-v2", (), "src/models/jina-bert-v2.cpp:3-12,25-60", unprovable=_NORMED_RESIDUAL
    ),
    Architecture(
        "jina-bert-v3", (), "src/models/jina-bert-v3.cpp:3-11,25-43", unprovable=_NORMED_RESIDUAL
    ),
    Architecture(
        "nomic-bert", (), "src/models/nomic-bert.cpp:3-11,25-46", unprovable=_NORMED_RESIDUAL
    ),
    Architecture("eurobert", (), "src/models/eurobert.cpp:6-8,18,54", unprovable=_NO_TOKENS),
    Architecture("neo-bert", (), "src/models/neo-bert.cpp:3-9,24-37,60-123", unprovable=_NO_TOKENS),
    Architecture("llama-embed", (), "src/models/models.h:175-183", unprovable=_NO_TOKENS),
    Architecture(
        "talkie",
        (),
        "src/models/talkie.cpp:3-11,19-34,51,64-123",
        silenced=(Fill("layer_output_scale.weight", _zeros),),
    ),
    # One kind of layer, but something else depends on the position or the number of layers.
    Architecture(
        "apertus",
        (),
        "src/models/apertus.cpp:6-9,132-138",
        # The activation of each layer has its parameters in the metadata, not in tensors.
        bare_arrays=("xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps"),
    ),
    Architecture("arwkv7", (_VALUE_RESIDUAL,), "src/models/arwkv7.cpp:74-83,125,153"),
    Architecture("rwkv7", (_VALUE_RESIDUAL,), "src/models/rwkv7.cpp:67-117,143"),
    Architecture(
        "baichuan",
        (
            CountSwitch(frozenset({32}), "RoPE, which is there with exactly 32 layers only"),
            CountSwitch(frozenset({40}), "ALiBi, which is there with exactly 40 layers only"),
        ),
        "src/models/baichuan.cpp:5-14,58,77-95",
    ),
    Architecture(
        "command-r",
        (
            CountSwitch(
                range(64, MAX_LAYERS + 1),
                "whether Q and K are normed: from 64 layers on llama.cpp demands the norms, below "
                "it knows none",
            ),
        ),
        "src/models/command-r.cpp:23,28-31,66,78-88",
    ),
    Architecture(
        "granite",
        (Injection("deepstack_mapping"),),
        "src/models/granite.cpp:12-37,147-160",
        longer_arrays=_DEEPSTACK_ARRAY,
    ),
    Architecture(
        "graniteswitch",
        (
            CountSwitch(
                frozenset({MAX_LAYERS}),
                f"whether the router fits, which llama.cpp adds as one layer more of {MAX_LAYERS}",
            ),
        ),
        "src/models/granite-switch.cpp:12-21,56-71",
    ),
    Architecture(
        "hy_v3", (), "src/models/hy-v3.cpp:16-19,37-87,153-193", absent_mtp=True
    ),  # dense or MoE as the tensors say
    Architecture(
        "minicpm",
        (Pin("residual_scale", GGUFValueType.FLOAT32, _minicpm_residual_scale),),
        "src/models/minicpm.cpp:3-24",
    ),
    Architecture(
        "minicpm3",
        (
            CountSwitch(
                None, "the scale of each residual branch, 1.4/sqrt(layers), which no key holds"
            ),
        ),
        "src/models/minicpm3.cpp:91,196-199,219-220",
    ),
    Architecture(
        "nanbeige",
        (Looped("num_loops"),),
        "src/models/nanbeige.cpp:6-34,105-168",
    ),
    Architecture("qwen3vl", (_DEEPSTACK,), "src/models/qwen3vl.cpp:3-14,153-157"),
    Architecture("qwen3vlmoe", (_DEEPSTACK,), "src/models/qwen3vlmoe.cpp:3-14,164-168"),
    Architecture("qwen3tts", (_DEEPSTACK,), "src/models/qwen3tts.cpp:3"),
    # The first K layers are of another kind.
    Architecture("bailingmoe2", (_DENSE_FIRST,), "src/models/bailingmoe2.cpp:5-6,54-83,117,153"),
    Architecture("deepseek", (_DENSE_FIRST,), "src/models/deepseek.cpp:5-6,35-67,136"),
    Architecture(
        "deepseek2",
        (_DENSE_FIRST, *_DEEPSEEK2_COUNTS),
        "src/models/deepseek2.cpp:4-16,21-32,88-154",
        absent_mtp=True,
    ),
    Architecture("deepseek2-ocr", (_DENSE_FIRST,), "src/models/deepseek2ocr.cpp:4-20,40-72"),
    Architecture(
        "deepseek32",
        (_DENSE_FIRST,),
        "src/models/deepseek32.cpp:7-40,81-145,204-324",
        absent_mtp=True,
    ),
    Architecture(
        "deepseek4",
        (
            Listed(
                "attention.compress_ratios", nonzero="compressed attention", zero="sliding window"
            ),
            Leading("hash_layer_count", inside="routed by token", outside="routed by score"),
            Needed("compressed attention with an indexer", (("attention.compress_ratios", 4),)),
        ),
        "src/models/deepseek4.cpp:20-39,51-61,96-183",
        # The converter writes the model's list as it is, MTP entries past block_count included.
        # llama.cpp wants at least one entry per block.
        arrays=(*_CLAMP_ARRAYS, "attention.compress_ratios"),
        longer_arrays=("attention.compress_ratios",),
        silenced=_STREAMS_APART,
        zeroed=_STREAM_EPSILON,
    ),
    Architecture("dots1", (_DENSE_FIRST,), "src/models/dots1.cpp:5-6,29-66,137"),
    Architecture(
        "ernie4_5-moe",
        # The loader reads experts from layer K on; the graph runs them only once in every step.
        (_DENSE_FIRST, replace(_EVERY_MOE_STEP, divides=True, after=_DENSE_FIRST.key)),
        "src/models/ernie4-5-moe.cpp:26-27,63-76",
    ),
    Architecture(
        "glm4moe", (_DENSE_FIRST,), "src/models/glm4-moe.cpp:3-26,49-116", absent_mtp=True
    ),
    Architecture(
        "k2-horizon",
        (_DENSE_FIRST,),
        "src/models/k2-horizon.cpp:12-25,64-118,231-343",
        by_layer=_EXPERT_FFN,
    ),
    Architecture("minimax-m3", (_DENSE_FIRST,), "src/models/minimax-m3.cpp:13-38,52-89,303,334"),
    Architecture(
        "mistral4",
        (_DENSE_FIRST, *_DEEPSEEK2_COUNTS),
        "src/models/deepseek2.cpp:7-32,88-154",
        absent_mtp=True,
    ),
    # Full attention once in a period.
    Architecture(
        "clef",
        (_INTERVAL,),
        "src/models/clef.cpp:8-22,58-80",
        absent_mtp=_MTP_OPTIONAL_SINCE,
        unprovable=_NO_TOKENS,
    ),
    Architecture(
        "qwen35", (_INTERVAL,), "src/models/qwen35.cpp:4-39", absent_mtp=_MTP_OPTIONAL_SINCE
    ),
    Architecture(
        "qwen35moe", (_INTERVAL,), "src/models/qwen35moe.cpp:4-43", absent_mtp=_MTP_OPTIONAL_SINCE
    ),
    Architecture(
        "qwen3next", (_INTERVAL,), "src/models/qwen3next.cpp:4-41", absent_mtp=_MTP_OPTIONAL_SINCE
    ),
    Architecture(
        "qwen4exp",
        (_INTERVAL, LayerIndex("ple.layers", "the layer with n-gram embeddings")),
        "src/models/qwen4exp.cpp:26-169,171-302,449-496",
        arrays=("attention.compress_ratios",),
        absent_mtp=_MTP_OPTIONAL_SINCE,
    ),
    Architecture(
        "afmoe",
        (_sliding(4), _NO_ROPE_LAST, _DENSE_FIRST),
        "src/models/afmoe.cpp:5,17,77,135-136,212",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "cohere2",
        (_sliding(4, always=True),),
        "src/models/cohere2.cpp:4-5,70,89-101",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "cohere2moe",
        # RoPE runs on sliding and on dense layers, so these two rules keep it in place as well.
        (_sliding(4, at=0, always=True), _DENSE_FIRST),
        "src/models/cohere2moe.cpp:15-16,28,128-133,160-175",
        longer_arrays=_SWA_ARRAY,
        absent_mtp=True,
    ),
    Architecture(
        "exaone-moe",
        (_sliding(4, always=True), _DENSE_FIRST),
        "src/models/exaone-moe.cpp:4-6,14,47-100,131,150",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "exaone4",
        (
            replace(_sliding(4), when=lambda meta: meta.n_trunk == _EXAONE4_HYBRID),
            CountSwitch(
                frozenset({_EXAONE4_HYBRID}),
                "every layer: sliding windows and layers without RoPE are there with exactly 64 "
                "layers only, whatever the file lists",
            ),
        ),
        "src/models/exaone4.cpp:4-13,111",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "gemma-embedding",
        (_sliding(6, always=True, cached=False),),
        "src/models/gemma-embedding.cpp:4-5,91-93",
        longer_arrays=_SWA_ARRAY,
        unprovable=_NO_TOKENS,
    ),
    Architecture(
        "gemma-embedding2",
        (_sliding(6, always=True, cached=False),),
        "src/models/gemma-embedding2.cpp:4-5,36-73,97-205,221-233",
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS, *SWA_SIZES),
        gathered=(("per_layer_model_proj.weight", 1),),
        unprovable=_NO_TOKENS,
    ),
    Architecture(
        "gemma2",
        (_sliding(2, always=True), _query_scale_switch(46, "attn_q.scale", new=True)),
        "src/models/gemma2.cpp:4-7,17-27,108",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "gemma3",
        (_sliding(6), _query_scale_switch(62, "attn_q_norm.weight")),
        "src/models/gemma3.cpp:4-31",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "gemma3n",
        (
            _sliding(5, always=True),
            Anchored(
                20,
                "llama.cpp has sparse gates in layers 0-9 and lets layers from 20 on read the K/V "
                "of 18 and 19, by number",
            ),
        ),
        "src/models/gemma3n.cpp:4-8,129-196,215-218,331-363",
        arrays=("activation_sparsity_scale",),
        longer_arrays=_SWA_ARRAY,
        gathered=(("per_layer_token_embd.weight", 0), ("per_layer_model_proj.weight", 1)),
        unprovable=_MIXED_STREAMS,
    ),
    Architecture(
        "gpt-oss",
        (_sliding(2, always=True),),
        "src/models/openai-moe.cpp:3-20",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "laguna",
        (_sliding(4, at=0), _DENSE_FIRST),
        "src/models/laguna.cpp:10-63,80-145,172-191",
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS),
    ),
    Architecture(
        "llama4",
        (
            _sliding(4, always=True),
            # Only these layers use the scale of attention by position, and one has to.
            replace(_NO_ROPE_LAST, kept=(NO_ROPE,)),
            _EVERY_MOE_STEP,
            Unsupported(
                "with a sliding_window of 0 only the last layer lacks RoPE, wherever that is",
                when=lambda meta: meta.scalar("attention.sliding_window") == 0,
            ),
        ),
        "src/models/llama4.cpp:6-24,61-93,136-186",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "mellum", (_sliding(4),), "src/models/mellum.cpp:3-25,99-152", longer_arrays=_SWA_ARRAY
    ),
    Architecture(
        "modern-bert",
        (
            replace(_sliding(3, at=0, cached=False), but_last=_DECISION_HEAD.key),
            Anchored(1, "it has no norm before its attention, and only layer 0 may lack one"),
            _DECISION_HEAD,
        ),
        "src/models/modern-bert.cpp:6-14,37-48,69-118,159-174",
        longer_arrays=_SWA_ARRAY,
        unprovable=_NO_TOKENS,
    ),
    Architecture(
        "muse-glimmer",
        (_sliding(4, always=True),),
        "src/models/muse-glimmer.cpp:3-19,78-124",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture(
        "nomic-bert-moe",
        (
            Periodic(
                special=EXPERTS, regular=DENSE, default=0, period_key="moe_every_n_layers", at=1
            ),
        ),
        "src/models/nomic-bert-moe.cpp:3-12,37-46",
        unprovable=_NORMED_RESIDUAL,
    ),
    Architecture(
        "olmo2", (_sliding(4),), "src/models/olmo2.cpp:3-25,115-149", longer_arrays=_SWA_ARRAY
    ),
    Architecture(
        "plamo3", (_sliding(8),), "src/models/plamo3.cpp:3-18,89-103", longer_arrays=_SWA_ARRAY
    ),
    Architecture(
        "smallthinker",
        (
            _sliding(4, at=0),
            Periodic(
                special=NO_ROPE,
                regular=ROPE,
                default=4,
                at=0,
                when="attention.sliding_window",
                otherwise=ROPE,
            ),
            CountSwitch(
                frozenset({4}),
                "RoPE, which every layer has with exactly 4 layers",
                lambda meta: meta.positive("attention.sliding_window"),
            ),
        ),
        "src/models/smallthinker.cpp:3-21,106-107",
        longer_arrays=_SWA_ARRAY,
    ),
    Architecture("smollm3", (_NO_ROPE_LAST,), "src/models/smollm3.cpp:5,69"),
    # The file lists what each layer is.
    Architecture(
        "bailingmoe3",
        (_hybrid(LINEAR), _DENSE_FIRST),
        "src/models/bailingmoe3.cpp:18-27,67-69,76-153",
        arrays=_CLAMP_ARRAYS,
        by_layer=_KV_HEADS,
        absent_mtp=True,
    ),
    Architecture(
        "deci",
        (
            Listed("attention.head_count", nonzero="attention", zero="no attention"),
            Listed("attention.head_count_kv", nonzero="K/V heads", zero="no K/V heads"),
            replace(_FFN_LISTED, at_end=True),
        ),
        "src/models/deci.cpp:28-76,101-150",
        by_layer=(*_HEADS, *_KV_HEADS, *_FFN),
        empty_blocks=True,
    ),
    Architecture(
        "dots3note",
        (_SWA_LISTED, _DENSE_FIRST),
        "src/models/dots3note.cpp:14-15,32-40,70-146",
        longer_arrays=(*_SWA_ARRAY, "attention.indexer.types"),
        by_layer=(*_HEADS, *_KV_HEADS),
        absent_mtp=True,
    ),
    Architecture(
        "gemma4",
        (
            # Full attention alone uses rope_freqs.weight, and an unused tensor is an error.
            replace(_SWA_LISTED, kept=(FULL, SLIDING)),
            SharedTail("attention.shared_kv_layers"),
        ),
        "src/models/gemma4.cpp:6-11,66-112,136-140,192-282",
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS, *_FFN, *SWA_SIZES),
        gathered=(("per_layer_token_embd.weight", 0), ("per_layer_model_proj.weight", 1)),
        silenced=(Fill("layer_output_scale.weight", _ones),),
    ),
    Architecture(
        "granite_swa",
        (
            _SWA_LISTED,
            Listed("attention.rope_pattern", nonzero=ROPE, zero=NO_ROPE),
            Injection("deepstack_mapping"),
        ),
        "src/models/granite-swa.cpp:16-43,145-155,211-225",
        longer_arrays=(*_SWA_ARRAY, "attention.rope_pattern", *_DEEPSTACK_ARRAY),
    ),
    Architecture(
        "granitehybrid",
        (_hybrid(RECURRENT),),
        "src/models/granite-hybrid.cpp:22-127",
        by_layer=(*_HEADS, *_KV_HEADS),
    ),
    Architecture(
        "jamba", (_hybrid(RECURRENT),), "src/models/jamba.cpp:11-20,47-101", by_layer=_KV_HEADS
    ),
    Architecture(
        "kimi-linear",
        (_hybrid(LINEAR), _DENSE_FIRST),
        "src/models/kimi-linear.cpp:15-31,43-166",
        by_layer=_KV_HEADS,
    ),
    Architecture(
        "lfm2",
        (replace(_hybrid(CONVOLUTION), but_last=_DECISION_HEAD.key), _DECISION_HEAD),
        "src/models/lfm2.cpp:14-18,29-45,51-74,94-130,302-311,446-453,511-565",
        by_layer=_KV_HEADS,
    ),
    Architecture(
        "lfm2moe",
        (_hybrid(CONVOLUTION), _DENSE_FIRST),
        "src/models/lfm2moe.cpp:5-20,35-71",
        by_layer=_KV_HEADS,
    ),
    Architecture(
        "maple",
        (_SWA_LISTED,),
        "src/models/maple.cpp:4-22,76-108",
        arrays=("swiglu_clamp_exp",),
        longer_arrays=_SWA_ARRAY,
        by_layer=_SWA_ROPE,
    ),
    Architecture(
        "mimo2",
        (_SWA_LISTED,),
        "src/models/mimo2.cpp:3-23,38-77,167-179",
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS),
        absent_mtp=True,
    ),
    Architecture(
        "nemotron_h",
        _NEMOTRON_PARTS,
        "src/models/nemotron-h.cpp:5-46,79-139,204-220",
        by_layer=(*_HEADS, *_KV_HEADS, *_FFN, *_EXPERT_FFN),
    ),
    Architecture(
        "nemotron_h_moe",
        _NEMOTRON_PARTS,
        "src/models/nemotron-h.cpp:5-46,79-183,252-307",
        by_layer=(*_HEADS, *_KV_HEADS, *_FFN, *_EXPERT_FFN),
        # Only here: without experts llama.cpp cannot size an MTP block, absent or not.
        absent_mtp=_MTP_OPTIONAL_SINCE,
    ),
    # Without heads in layer 0 the whole model has no RoPE, so they do not come or go there.
    Architecture(
        "plamo2",
        (_hybrid(RECURRENT),),
        "src/models/plamo2.cpp:4-33,59-103",
        by_layer=(*_HEADS, *_KV_HEADS),
    ),
    Architecture(
        "spark2_5",
        (_SWA_LISTED,),
        "src/models/spark2-5.cpp:3-18,69-95",
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS, *_SWA_ROPE),
    ),
    Architecture(
        "step35",
        (_SWA_LISTED,),
        "src/models/step35.cpp:3-35,53-118,192-321",
        arrays=_CLAMP_ARRAYS,
        longer_arrays=_SWA_ARRAY,
        by_layer=(*_HEADS, *_KV_HEADS, *_SWA_ROPE),
        absent_mtp=True,
    ),
    # A layer uses the choice of an earlier one.
    Architecture(
        "glm-dsa",
        (
            BoundToPreceding("attention.indexer.types", "indexer", by_default=_glm_dsa_indexers),
            _DENSE_FIRST,
        ),
        "src/models/glm-dsa.cpp:5-71,109-175,233-357",
        absent_mtp=True,
    ),
    Architecture(
        "glm5-next",
        (
            _hybrid(LINEAR),
            # Linear layers neither choose nor use a choice.
            BoundToPreceding("attention.indexer.types", "indexer", users="attention.head_count_kv"),
            _DENSE_FIRST,
        ),
        "src/models/glm5-next.cpp:18-69,76-183,1061-1070",
        arrays=_CLAMP_ARRAYS,
        by_layer=(*_KV_HEADS, *_EXPERT_FFN),
        absent_mtp=_MTP_OPTIONAL_SINCE,
        silenced=_STREAMS_APART,
        zeroed=_STREAM_EPSILON,
    ),
    Architecture(
        "hy_v4",
        (
            BoundToPreceding("attention.indexer.types", "indexer", when="attention.indexer.top_k"),
            _DENSE_FIRST,
        ),
        "src/models/hy-v4.cpp:24-68,94-154,430-443",
        arrays=("swiglu_clamp_exp",),
    ),
    # Properties that no map can keep, and models that are no stack of layers.
    Architecture(
        "kimi-k3",
        (
            _hybrid(LINEAR),
            _DENSE_FIRST,
            Unsupported(
                "every attn_res.block_size layers the residual is banked and starts anew, and all "
                "later layers mix over the banks, of which more layers make more",
                when="attn_res.block_size",
            ),
        ),
        "src/models/kimi-k3.cpp:28-50,82-165,273-329",
        by_layer=_KV_HEADS,
    ),
    Architecture(
        "minimax-01",
        (
            Unsupported(
                "the decay of each linear layer is scaled by its place in the stack, "
                "1 - layer/(layers - 1), and no key holds it"
            ),
        ),
        "src/models/minimax-01.cpp:288-289,326-330,365",
    ),
    Architecture(
        "rwkv6",
        (
            Unsupported(
                "two weights of each layer were divided by 2^(layer // rescale_every_n_layers) "
                "when the file was made, so they fit their own place only",
                when="rescale_every_n_layers",
            ),
        ),
        "src/models/rwkv6.cpp:3-24,164-166",
    ),
    Architecture(
        "hrm_text",
        (
            Unsupported(
                "its two stacks run in loops, and block_count counts the runs, not the blocks"
            ),
        ),
        "src/models/hrm-text.cpp:10-23,48-84,91-167",
    ),
    Architecture(
        "t5",
        (
            Unsupported(
                "it is an encoder and a decoder with a count each, and its layers are named "
                "enc.blk and dec.blk"
            ),
        ),
        "src/models/t5.cpp:3-36,56-105",
    ),
    Architecture(
        "t5encoder",
        (Unsupported("its layers are named enc.blk, and the first one lends all its biases"),),
        "src/models/t5encoder.cpp:3-38",
    ),
    Architecture(
        "clip",
        (Unsupported("it is a projector for images or sound, not a language model"),),
        "src/models/clip.cpp:5-17",
    ),
    Architecture(
        "wavtokenizer-dec",
        (Unsupported("it decodes audio, and each of its layers has its own fixed part in that"),),
        "src/models/wavtokenizer-dec.cpp:17-108",
    ),
    Architecture(
        "dflash",
        (Unsupported("it drafts for another model, whose layers it reads by number"),),
        "src/models/dflash.cpp:37-103,622-672",
    ),
    Architecture(
        "eagle3",
        (Unsupported("it drafts for another model and has exactly one layer"),),
        "src/models/eagle3.cpp:6-22,156",
    ),
    Architecture(
        "gemma4-assistant",
        (Unsupported("it drafts for another model, whose K/V it reads"),),
        "src/models/gemma4-assistant.cpp:3-19,114-190",
    ),
)

# Architecture.tails: where a graph says what its layers get (t_layer_inp), from the embeddings on,
# which are the same whether they come from tokens or are given. Graphs that do more than that are
# left out: deepseek4 routes by tokens and gives a mean of its streams, gemma4 has per-layer
# embeddings and shared K/V, qwen4exp several streams, muse-glimmer a norm of the embeddings,
# nanbeige loops, and minimax-01 a decay by position.
_TAILS = {
    "bailingmoe3": "src/models/bailingmoe3.cpp:215-247",
    "gpt-oss": "src/models/openai-moe.cpp:66-76",
    "k2-horizon": "src/models/k2-horizon.cpp:220-234",
    "lfm2": "src/models/lfm2.cpp:287-303",
    "llama": "src/models/llama.cpp:108-127",
    "nemotron_h": "src/models/nemotron-h.cpp:196-205",
    "qwen3": "src/models/qwen3.cpp:62-72",
    "qwen35": "src/models/qwen35.cpp:149-160",
    "qwen35moe": "src/models/qwen35moe.cpp:168-179",
    "qwen3moe": "src/models/qwen3moe.cpp:71-81",
    "qwen3next": "src/models/qwen3next.cpp:143-153",
}


def _scaled(*writers: str) -> tuple[Damper, ...]:
    """Linear layers whose products llama.cpp multiplies by `blk.N.{writer}.scale`.

    llama-model.cpp:1662-1736 loads these tensors for every architecture, but each graph decides
    which of them it hands to build_attn, build_ffn and build_moe_ffn: a scale that a graph does not
    read is loaded, and does nothing.
    """
    return tuple(Damper(f"{writer}.scale", (writer,)) for writer in writers)


_ANY_FFN = ("ffn_down", "ffn_down_exps", "ffn_down_shexp")


def _normed(
    *, ffn: tuple[str, ...] = ("ffn_down",), recurrent: bool = False, kind: str = ".weight"
) -> tuple[Damper, ...]:
    """Norms behind both halves of a layer: they undo a scale in front, and their weights damp."""
    mixers = ("attn_output", "ssm_out") if recurrent else ("attn_output",)
    return Damper(f"post_attention_norm{kind}", mixers), Damper(f"post_ffw_norm{kind}", ffn)


_GEMMA4_DAMPERS = (
    *_normed(ffn=_ANY_FFN),
    Damper("post_norm.weight", ("proj",)),
    Damper("layer_output_scale.weight", ("layer_output_scale",), of_all=True),
)

# Architecture.dampers, and where a graph reads them. Left out are graphs that read no scale of
# their feed-forward networks (most), and:
# - nanbeige: the passes behind the first share the layers as they were before scales were loaded;
# - deepseek4, glm5-next, qwen4exp and gemma3n: their layers also mix several streams.
# mamba-base.cpp:144,299 scales what the mixers of mamba, mamba2 and nemotron_h give.
_DAMPED = {
    "afmoe": (_normed(ffn=_ANY_FFN), "src/models/afmoe.cpp:187-260"),
    "bitnet": (_scaled("attn_output", "ffn_down"), "src/models/bitnet.cpp:27-43,106-143"),
    "cohere2": (_scaled("attn_output", "ffn_down"), "src/models/cohere2.cpp:106-133"),
    "exaone4": (_normed(), "src/models/exaone4.cpp:147-164"),
    "gemma-embedding": (_normed(), "src/models/gemma-embedding.cpp:135-157"),
    "gemma-embedding2": (_GEMMA4_DAMPERS, "src/models/gemma-embedding2.cpp:149-197"),
    "gemma2": (_normed(), "src/models/gemma2.cpp:118-147"),
    "gemma3": (_normed(), "src/models/gemma3.cpp:160-189"),
    "gemma4": (_GEMMA4_DAMPERS, "src/models/gemma4.cpp:290-404"),
    "glm4": (_normed(), "src/models/glm4.cpp:140-165"),
    "grok": (
        (
            Damper("attn_output_norm.weight", ("attn_output",)),
            Damper("layer_output_norm.weight", _ANY_FFN),
            Damper("post_ffw_norm.weight", _ANY_FFN),
        ),
        "src/models/grok.cpp:70-79,143-191",
    ),
    "llama": (
        _scaled("attn_output", "ffn_down", "ffn_down_exps"),
        "src/models/llama.cpp:168-223",
    ),
    "mamba": (_scaled("ssm_out"), "src/models/mamba.cpp:98-118"),
    "mamba2": (_scaled("ssm_out"), "src/models/mamba.cpp:98-118"),
    "mellum": (_scaled("attn_output", "ffn_down_exps"), "src/models/mellum.cpp:155-193"),
    "mistral3": (
        _scaled("attn_output", "ffn_down", "ffn_down_exps"),
        "src/models/mistral3.cpp:158-213",
    ),
    "nemotron_h": (
        _scaled("attn_output", "ssm_out", *_ANY_FFN),
        "src/models/nemotron-h.cpp:208-223,275-336",
    ),
    "nemotron_h_moe": (
        _scaled("attn_output", "ssm_out", *_ANY_FFN),
        "src/models/nemotron-h.cpp:208-223,275-336",
    ),
    "olmo2": (_normed(), "src/models/olmo2.cpp:157-180"),
    "plamo2": (_normed(recurrent=True, kind=""), "src/models/plamo2.cpp:151-177"),
    "plamo3": (_normed(kind=""), "src/models/plamo3.cpp:150-173"),
    "qwen3": (_scaled("attn_output", "ffn_down"), "src/models/qwen3.cpp:110-136"),
    "qwen35": (
        _scaled("attn_output", "ssm_out", "ffn_down"),
        "src/models/qwen35.cpp:181-199,343,475,488-493",
    ),
    "qwen35moe": (
        _scaled("attn_output", "ssm_out", "ffn_down_exps", "ffn_down_shexp"),
        "src/models/qwen35moe.cpp:200-218,353,485,498-545",
    ),
    "qwen3moe": (_scaled("attn_output", "ffn_down_exps"), "src/models/qwen3moe.cpp:119-155"),
    # No scale of ssm_out is read, but nothing else stands behind its norm.
    "qwen3next": (
        (
            *_scaled("attn_output", "ffn_down_exps", "ffn_down_shexp"),
            Damper("ssm_norm.weight", ("ssm_out",)),
        ),
        "src/models/qwen3next.cpp:174-192,308,549-556,569-612",
    ),
    # What a layer adds of the embeddings counts as well.
    "talkie": (
        (
            *_scaled("attn_output", "ffn_down"),
            Damper("layer_output_scale.weight", ("layer_output_scale",)),
        ),
        "src/models/talkie.cpp:94-127",
    ),
}


def _with_tables(arch: Architecture) -> Architecture:
    dampers, damping = _DAMPED.get(arch.name, ((), ""))
    return replace(arch, tails=_TAILS.get(arch.name, ""), dampers=dampers, damping=damping)


ARCHITECTURES = {arch.name: _with_tables(arch) for arch in _ROWS}
