"""Tiny models with random weights, one per kind of architecture, that llama.cpp loads and runs.

    write(tmp_path / "m.gguf", "qwen35", 24, n_mtp=1, recurrent_layers=True)

The layouts are those of llama.cpp's loaders (src/models); widths are as small as they allow, so
that a file of 64 layers stays below 10 MB. Weights depend on the seed, the source layer and the
tensor's name only. So a model in which layers repeat can also be written directly, with
`sources=[0, 1, 2, 1, 2, 3]`: that file is what a patched one has to equal, bit for bit.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from tests.disk import finish

# Three special tokens and one per byte: any text has tokens.
N_VOCAB = 3 + 256
N_CTX = 256
# Windows of sliding attention are this short so that prompts of a few tokens go past them.
WINDOW = 8

N_EMBD = 32
_HEADS = 2
_KV_HEADS = 1
_HEAD = 16
_FF = 64
_EXPERTS = 3
_EXPERTS_USED = 2
_EXPERT_FF = 32

# Keys of a model that thinks if it is told to, with a template like Qwen3's: an empty thought where
# thinking is off, and the model's own marks where it is on.
THINKING: dict[str, Any] = {
    ".context_length": 2048,
    "tokenizer.chat_template": (
        "{% for m in messages %}U:{{ m['content'] }}\n{% endfor %}A:"
        "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}"
    ),
}

Tensors = dict[str, tuple[int, ...]]
"""Names (of a layer: without `blk.N.`) and shapes, the contiguous dimension first."""

Joined = dict[str, tuple[tuple[int, int], int]]
"""Tensors of the model with one part per layer: the part's shape, the dimension that grows."""


@dataclass
class Build:
    """The arguments of a call of `write`; layer i is made like layer `sources[i]` of `n_layers`."""

    n_layers: int
    sources: list[int]
    n_mtp: int
    options: dict[str, Any]
    taken: set[str] = field(default_factory=set)

    def option(self, name: str, default: Any) -> Any:
        """An option of the architecture; `write` refuses options that no architecture asked for."""
        self.taken.add(name)
        return self.options.get(name, default)

    def per_layer(self, of: Callable[[int], Any], mtp: Any = None) -> list[Any]:
        """An array with one entry per block: `of(source)` per layer, `mtp` for MTP blocks."""
        return [of(n) for n in self.sources] + [mtp] * self.n_mtp


@dataclass(frozen=True)
class Arch:
    """One architecture: keys (a leading dot stands for the architecture's name) and tensors."""

    keys: Callable[[Build], dict[str, Any]]
    layer: Callable[[Build, int], Tensors]
    globals: Callable[[Build], Tensors]
    mtp: Callable[[Build], Tensors] | None = None
    joined: Callable[[Build], Joined] = lambda _: {}


def write(
    path: Path,
    arch: str,
    n_layers: int,
    *,
    n_mtp: int = 0,
    mtp_is_absent: bool = False,
    sources: Sequence[int] | None = None,
    seed: int = 0,
    quantize: gguf.GGMLQuantizationType | None = None,
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a model of `n_layers` layers and `n_mtp` MTP blocks, and return its path.

    mtp_is_absent: count the MTP blocks and give them entries in arrays, but no tensors.
    sources: make layer i as layer sources[i] would be, weights, kind and array entries alike;
    as many layers as there are sources, `n_layers` is then the size of the model they are of.
    quantize: the type of weight matrices whose rows allow it, instead of F32.
    extra: keys to add or to replace (with None: to leave out); a leading dot as in `Arch`.
    options: see the architectures below; an unknown one is a TypeError.
    """
    rule = ARCHITECTURES[arch]
    build = Build(n_layers, list(range(n_layers) if sources is None else sources), n_mtp, options)
    keys: dict[str, Any] = {
        ".block_count": len(build.sources) + n_mtp,
        ".context_length": N_CTX,
        ".embedding_length": N_EMBD,
        ".feed_forward_length": _FF,
    }
    if n_mtp:
        keys[".nextn_predict_layers"] = n_mtp
    keys |= rule.keys(build) | tokenizer() | (extra or {})

    writer = gguf.GGUFWriter(str(path), arch)
    writer.data_alignment = keys.get("general.alignment") or writer.data_alignment
    for key, value in keys.items():
        if value is not None:
            _add(writer, arch + key if key.startswith(".") else key, value)

    def add(prefix: str, weights_of: str, tensors: Tensors) -> None:
        for name, ne in tensors.items():
            data = weights(f"{seed}/{weights_of}/{name}", name, ne)
            if quantize is not None and _is_matrix(name, ne):
                _add_quantized(writer, prefix + name, data, quantize)
            else:
                writer.add_tensor(prefix + name, data)

    add("", "global", rule.globals(build))
    for name, (ne, dim) in rule.joined(build).items():
        parts = [weights(f"{seed}/layer {s}/{name}", name, ne) for s in build.sources]
        writer.add_tensor(name, np.concatenate(parts, axis=1 - dim))
    for n, source in enumerate(build.sources):
        add(f"blk.{n}.", f"layer {source}", rule.layer(build, source))
    for n in range(0 if mtp_is_absent else n_mtp):
        assert rule.mtp, f"{arch} has no MTP block"
        add(f"blk.{len(build.sources) + n}.", f"mtp {n}", rule.mtp(build))
    if unknown := options.keys() - build.taken:
        raise TypeError(f"{arch} has no option {', '.join(sorted(unknown))}")
    finish(writer)
    return path


def break_numbers(path: Path) -> None:
    """Fill the final norm of a model with NaN, so that none of its logits is a number."""
    norm = next(t for t in gguf.GGUFReader(path).tensors if t.name == "output_norm.weight")
    with path.open("r+b") as file:
        file.seek(int(norm.data_offset))
        file.write(np.full(N_EMBD, np.nan, "<f4").tobytes())


@functools.lru_cache(4096)
def weights(seed: str, name: str, ne: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Random weights of a size at which activations neither vanish nor explode.

    They are kept, some 30 MB in all: most tests write the same layers as the test before.
    """
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    normal = rng.standard_normal(tuple(reversed(ne)), dtype=np.float32)
    tenth = normal / np.float32(10)
    result: npt.NDArray[np.float32]
    if name.endswith(".bias"):
        result = tenth
    elif "norm" in name or name in ("ssm_d", "rope_freqs.weight", "layer_output_scale.weight"):
        result = np.abs(np.float32(1) + tenth)
    elif name == "ssm_a":
        result = -np.abs(normal) - np.float32(0.1)  # the logarithm of a decay
    elif len(ne) == 1:
        result = tenth
    elif "embd" in name or "token_types" in name:
        result = normal / np.float32(2)
    else:
        result = normal / np.float32(np.sqrt(ne[0]))
    result.flags.writeable = False
    return result


def tokenizer() -> dict[str, Any]:
    """The keys of a tokenizer with a token per byte."""
    types = gguf.TokenType
    special = [types.UNKNOWN, types.CONTROL, types.CONTROL]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))],
        "tokenizer.ggml.scores": [0.0] * N_VOCAB,
        "tokenizer.ggml.token_type": [*map(int, special), *[int(types.BYTE)] * 256],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    types = gguf.GGUFValueType
    scalar = {bool: types.BOOL, int: types.UINT32, float: types.FLOAT32, str: types.STRING}
    if key == "general.alignment":
        writer.add_custom_alignment(value)
    elif isinstance(value, np.ndarray):
        writer.add_key_value(key, value.tolist(), types.ARRAY, types[value.dtype.name.upper()])
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_key_value(key, value, scalar[type(value)])


def _is_matrix(name: str, ne: tuple[int, ...]) -> bool:
    """Whether the weights are multiplied with, so that llama.cpp takes them quantized."""
    others = (
        *("position_embd.", "token_types.", "ssm_conv1d", "shortconv.conv.", "hc_"),
        *("ple_norm_", "ple_conv1d."),
    )
    ends = ("_norm.weight", "_ape.weight")
    return (
        len(ne) > 1
        and name.endswith(".weight")
        and not name.endswith(ends)
        and not name.startswith(others)
    )


def _add_quantized(
    writer: gguf.GGUFWriter, name: str, data: npt.NDArray[np.float32], type_: Any
) -> None:
    block, _ = gguf.GGML_QUANT_SIZES[type_]
    if data.shape[-1] % block:
        writer.add_tensor(name, data)
    else:
        writer.add_tensor(name, gguf.quants.quantize(data, type_), raw_dtype=type_)


# -- parts that architectures share -------------------------------------------------------------


def _heads(head: int = _HEAD) -> dict[str, Any]:
    return {
        ".attention.head_count": _HEADS,
        ".attention.head_count_kv": _KV_HEADS,
        ".attention.key_length": head,
        ".attention.value_length": head,
        ".attention.layer_norm_rms_epsilon": 1e-6,
        ".rope.dimension_count": head,
        ".rope.freq_base": 10000.0,
    }


def _moe_keys(shared: int = 0) -> dict[str, Any]:
    keys = {
        ".expert_count": _EXPERTS,
        ".expert_used_count": _EXPERTS_USED,
        ".expert_feed_forward_length": _EXPERT_FF,
    }
    return keys | ({".expert_shared_feed_forward_length": shared} if shared else {})


def _norms(*names: str, width: int = N_EMBD) -> Tensors:
    return {f"{name}.weight": (width,) for name in names}


def _qkv(head: int = _HEAD, *, gated: bool = False, bias: bool = False) -> Tensors:
    wide = {"attn_q": (1 + gated) * _HEADS * head, "attn_k": _KV_HEADS * head}
    wide["attn_v"] = wide["attn_k"]
    tensors: Tensors = {f"{name}.weight": (N_EMBD, n) for name, n in wide.items()}
    tensors["attn_output.weight"] = (_HEADS * head, N_EMBD)
    if bias:
        tensors |= {f"{name}.bias": (n,) for name, n in wide.items()}
    return tensors


def _ffn(suffix: str = "", width: int = _FF, *, gate: bool = True) -> Tensors:
    tensors: Tensors = {
        f"ffn_up{suffix}.weight": (N_EMBD, width),
        f"ffn_down{suffix}.weight": (width, N_EMBD),
    }
    return ({f"ffn_gate{suffix}.weight": (N_EMBD, width)} if gate else {}) | tensors


def _moe(width: int = _EXPERT_FF) -> Tensors:
    experts = {f"{name[:-7]}.weight": (*ne, _EXPERTS) for name, ne in _ffn("_exps", width).items()}
    return {"ffn_gate_inp.weight": (N_EMBD, _EXPERTS), **experts}


def _ends(*more: str, output: bool = True) -> Callable[[Build], Tensors]:
    tensors: Tensors = {"token_embd.weight": (N_EMBD, N_VOCAB), **_norms("output_norm", *more)}
    if output:
        tensors["output.weight"] = (N_EMBD, N_VOCAB)
    return lambda _: tensors


def _window(
    build: Build, full: Callable[[int], bool], key: str = ".attention.sliding_window_pattern"
) -> dict[str, Any]:
    """Keys of sliding attention; option pattern=True writes which layers slide, as an array.

    With a list as the pattern its flags are those of the source's layers. Option period writes a
    period other than the architecture's; with a pattern as well, the array that says the same.
    """
    keys: dict[str, Any] = {".attention.sliding_window": build.option("window", WINDOW)}
    pattern, period = build.option("pattern", False), build.option("period", None)
    if isinstance(pattern, list):
        keys[key] = build.per_layer(lambda n: pattern[n], mtp=False)
    elif pattern and period is not None:
        place = 0 if full(0) else period - 1
        keys[key] = build.per_layer(lambda n: not period or n % period != place, mtp=False)
    elif pattern:
        keys[key] = build.per_layer(lambda n: not full(n), mtp=False)
    elif period is not None:
        keys[key] = period
    return keys


# -- every layer alike --------------------------------------------------------------------------

_QK_NORMS = _norms("attn_q_norm", "attn_k_norm", width=_HEAD)
_PRE_NORMS = _norms("attn_norm", "ffn_norm")
_POST_NORMS = _norms("post_attention_norm", "post_ffw_norm")


def _plain(layer: Tensors, keys: dict[str, Any] | None = None, *, output: bool = True) -> Arch:
    """Option arrays=True: heads and widths as arrays with an entry for each layer."""

    def all_keys(build: Build) -> dict[str, Any]:
        arrays = {
            ".attention.head_count": build.per_layer(lambda _: _HEADS),
            ".attention.head_count_kv": build.per_layer(lambda _: _KV_HEADS),
            ".feed_forward_length": build.per_layer(lambda _: _FF),
        }
        return _heads() | (keys or {}) | (arrays if build.option("arrays", False) else {})

    return Arch(all_keys, lambda _b, _n: layer, _ends(output=output))


_SUB_NORMS = _norms("attn_sub_norm") | _norms("ffn_sub_norm", width=_FF)
_BITNET = _PRE_NORMS | _SUB_NORMS | _qkv() | _ffn()
# Gate and up are one tensor.
_GLM4 = _PRE_NORMS | _POST_NORMS | _qkv() | _ffn(gate=False) | {"ffn_up.weight": (N_EMBD, 2 * _FF)}


def _minicpm_keys(build: Build) -> dict[str, Any]:
    """Option residual_scale=None: the key is absent, and the layer count decides."""
    scale = build.option("residual_scale", 0.5)
    return _heads() | {".embedding_scale": 1.5, ".residual_scale": scale, ".logit_scale": 0.8}


def _apertus_keys(build: Build) -> dict[str, Any]:
    """Keys without a prefix hold the shape of each layer's activation."""
    first = {"alpha_n": 0.3, "alpha_p": 0.4, "beta": 0.5, "eps": -1e-6}

    def grown(value: float) -> Callable[[int], float]:
        return lambda n: value * (1 + n)

    return _heads() | {f"xielu.{k}": build.per_layer(grown(v)) for k, v in first.items()}


def _bert() -> Arch:
    def both(*names: str, width: int = N_EMBD) -> Tensors:
        return {f"{name}.{part}": (width,) for name in names for part in ("weight", "bias")}

    heads = {"attn_q": (N_EMBD, N_EMBD), "attn_k": (N_EMBD, N_EMBD), "attn_v": (N_EMBD, N_EMBD)}
    linear = heads | {"attn_output": (N_EMBD, N_EMBD), "ffn_up": (N_EMBD, _FF)}
    linear["ffn_down"] = (_FF, N_EMBD)
    layer: Tensors = {f"{name}.weight": ne for name, ne in linear.items()}
    layer |= {f"{name}.bias": ne[1:] for name, ne in linear.items()}
    layer |= both("attn_output_norm", "layer_output_norm")
    embeddings: Tensors = {
        "token_embd.weight": (N_EMBD, N_VOCAB),
        "token_types.weight": (N_EMBD, 2),
        "position_embd.weight": (N_EMBD, N_CTX),
        **both("token_embd_norm"),
    }
    keys = {
        ".attention.head_count": _HEADS,
        ".attention.layer_norm_epsilon": 1e-6,
        ".attention.causal": False,
        ".pooling_type": int(gguf.PoolingType.MEAN),
        "tokenizer.ggml.token_type_count": 2,
    }
    return Arch(lambda _: keys, lambda _b, _n: layer, lambda _: embeddings)


# -- models whose last layers are a head that scores answers: option decision, the number of them --


def _with_biases(tensors: Tensors) -> Tensors:
    biases = {f"{name.removesuffix('.weight')}.bias": ne[-1:] for name, ne in tensors.items()}
    return tensors | biases


_DECISION_LAYER = _with_biases(
    {
        **_norms("attn_norm", "ffn_norm"),
        "attn_qkv.weight": (N_EMBD, 3 * N_EMBD),
        "attn_output.weight": (N_EMBD, N_EMBD),
        "ffn_up.weight": (N_EMBD, _FF),
        "ffn_down.weight": (_FF, N_EMBD),
    }
)


def _in_head(build: Build, n: int) -> bool:
    return n >= build.n_layers - int(build.option("decision", 0))


def _decision_keys(build: Build) -> dict[str, Any]:
    n_head = sum(_in_head(build, n) for n in build.sources)
    keys = {
        ".attention.causal": False,
        ".attention.layer_norm_epsilon": 1e-5,
        ".decision.block_count": n_head,
        ".pooling_type": int(gguf.PoolingType.MEAN),
        "tokenizer.ggml.token_type_count": 3,
    }
    return keys if n_head else {}


def _decision_ends(build: Build) -> Tensors:
    cls = {"cls.weight": (N_EMBD, N_EMBD), "cls.output.weight": (N_EMBD, 1)}
    tensors = {"token_types.weight": (N_EMBD, 3), **_with_biases(_norms("cls.norm") | cls)}
    return tensors if build.option("decision", 0) else {}


def _modern_bert() -> Arch:
    """The first layer has no norm before its attention."""
    plain: Tensors = {
        "attn_qkv.weight": (N_EMBD, 3 * N_EMBD),
        "attn_output.weight": (N_EMBD, N_EMBD),
        "ffn_up.weight": (N_EMBD, 2 * _FF),
        "ffn_down.weight": (_FF, N_EMBD),
        **_norms("ffn_norm"),
    }

    def keys(build: Build) -> dict[str, Any]:
        keys = {
            ".attention.head_count": _HEADS,
            ".attention.layer_norm_epsilon": 1e-5,
            ".attention.causal": False,
            ".pooling_type": int(gguf.PoolingType.MEAN),
            ".rope.freq_base_swa": 1000.0,
        }
        return keys | _window(build, lambda n: n % 3 == 0) | _decision_keys(build)

    def layer(build: Build, n: int) -> Tensors:
        if _in_head(build, n):
            return _DECISION_LAYER
        return plain | (_norms("attn_norm") if n else {})

    def ends(build: Build) -> Tensors:
        tensors: Tensors = {"token_embd.weight": (N_EMBD, N_VOCAB)}
        return tensors | _norms("token_embd_norm", "output_norm") | _decision_ends(build)

    return Arch(keys, layer, ends)


# -- sliding and full attention, or attention with and without positions, by position ------------

# Wider than embedding_length / head_count: the two attention scales of the 27B sizes differ.
_GEMMA_HEAD = 24
_SANDWICH = _PRE_NORMS | _POST_NORMS
_GEMMA_LAYER = _SANDWICH | _qkv(_GEMMA_HEAD) | _ffn()
_GEMMA_QK_NORMS = _norms("attn_q_norm", "attn_k_norm", width=_GEMMA_HEAD)


def _sliding(
    period: int,
    layer: Tensors,
    keys: dict[str, Any],
    *,
    at: int = -1,
    output: bool = True,
) -> Arch:
    def full(n: int) -> bool:
        return n % period == at % period

    return Arch(lambda b: keys | _window(b, full), lambda _b, _n: layer, _ends(output=output))


def _gpt_oss() -> Arch:
    biases = {
        "attn_output.bias": (N_EMBD,),
        "ffn_gate_inp.bias": (_EXPERTS,),
        "ffn_gate_exps.bias": (_EXPERT_FF, _EXPERTS),
        "ffn_up_exps.bias": (_EXPERT_FF, _EXPERTS),
        "ffn_down_exps.bias": (N_EMBD, _EXPERTS),
        "attn_sinks.weight": (_HEADS,),
    }
    norms = _norms("attn_norm", "post_attention_norm")
    return _sliding(2, norms | _qkv(bias=True) | _moe() | biases, _heads() | _moe_keys())


def _olmo2() -> Arch:
    norms = _norms("attn_q_norm", width=_HEADS * _HEAD) | _norms("attn_k_norm", width=_HEAD)
    return _sliding(4, norms | _POST_NORMS | _qkv() | _ffn(), _heads())


def _plamo3() -> Arch:
    layer = {
        **_PRE_NORMS,
        **_QK_NORMS,
        "post_attention_norm": (N_EMBD,),
        "post_ffw_norm": (N_EMBD,),
        "attn_qkv.weight": (N_EMBD, (_HEADS + 2 * _KV_HEADS) * _HEAD),
        "attn_output.weight": (_HEADS * _HEAD, N_EMBD),
        "ffn_up.weight": (N_EMBD, 2 * _FF),
        "ffn_down.weight": (_FF, N_EMBD),
    }
    return _sliding(8, layer, _heads())


def _cohere2() -> Arch:
    keys = _heads() | {".attention.layer_norm_epsilon": 1e-5, ".logit_scale": 0.25}
    return _sliding(4, _norms("attn_norm") | _qkv() | _ffn(), keys, output=False)


def _llama4() -> Arch:
    """Option moe_step: every so many layers have experts."""

    def keys(build: Build) -> dict[str, Any]:
        step = {".interleave_moe_layer_step": build.option("moe_step", 1)}
        return _heads() | _moe_keys() | step | _window(build, lambda n: n % 4 == 3)

    def layer(build: Build, n: int) -> Tensors:
        moe = (n + 1) % build.option("moe_step", 1) == 0
        return _PRE_NORMS | _qkv() | (_moe() | _ffn("_shexp", _EXPERT_FF) if moe else _ffn())

    return Arch(keys, layer, _ends())


def _smallthinker() -> Arch:
    keys = _heads() | _moe_keys() | {".expert_gating_func": 2}
    return _sliding(4, _PRE_NORMS | _qkv() | _moe(), keys, at=0)


def _exaone4() -> Arch:
    # A window only if there are exactly 64 layers.
    return _sliding(4, _QK_NORMS | _POST_NORMS | _qkv() | _ffn(), _heads())


# -- the first layers dense, the others with experts ---------------------------------------------


def _dense_lead(build: Build) -> dict[str, Any]:
    """Option leading_dense: how many of the source's layers have no experts."""
    lead = build.option("leading_dense", 2)
    return {".leading_dense_block_count": sum(n < lead for n in build.sources)}


def _lead_ffn(build: Build, n: int) -> Tensors:
    if n < build.option("leading_dense", 2):
        return _ffn()
    return _experts()


def _experts() -> Tensors:
    return _moe() | _ffn("_shexp", _EXPERT_FF) | {"exp_probs_b.bias": (_EXPERTS,)}


def _deepseek2() -> Arch:
    rank, rope, nope = 16, 8, 8

    def keys(build: Build) -> dict[str, Any]:
        """Options: expert_gating_func (None: no such key), q_lora_rank.

        Without a rank (0, or None for no such key) Q is loaded in one piece.
        """
        return {
            **_heads(),
            **_moe_keys(),
            **_dense_lead(build),
            ".attention.key_length": rank + rope,
            ".attention.value_length": rank,
            ".attention.key_length_mla": nope + rope,
            ".attention.value_length_mla": _HEAD,
            ".attention.q_lora_rank": build.option("q_lora_rank", rank),
            ".attention.kv_lora_rank": rank,
            ".rope.dimension_count": rope,
            ".expert_shared_count": 1,
            ".expert_weights_scale": 1.0,
            ".expert_gating_func": build.option("expert_gating_func", 2),
        }

    def layer(build: Build, n: int) -> Tensors:
        q: Tensors = {"attn_q.weight": (N_EMBD, _HEADS * (nope + rope))}
        if build.option("q_lora_rank", rank):
            q = _norms("attn_q_a_norm", width=rank) | {
                "attn_q_a.weight": (N_EMBD, rank),
                "attn_q_b.weight": (rank, _HEADS * (nope + rope)),
            }
        return {
            **_PRE_NORMS,
            **q,
            **_norms("attn_kv_a_norm", width=rank),
            "attn_kv_a_mqa.weight": (N_EMBD, rank + rope),
            "attn_k_b.weight": (nope, rank, _HEADS),
            "attn_v_b.weight": (rank, _HEAD, _HEADS),
            "attn_output.weight": (_HEADS * _HEAD, N_EMBD),
            **_lead_ffn(build, n),
        }

    return Arch(keys, layer, _ends())


def _hy_v4() -> Arch:
    """Compressed attention with a gate and sinks, over streams that add up without being mixed."""
    rank, rope, nope = 16, 8, 8

    def keys(build: Build) -> dict[str, Any]:
        return {
            **_heads(),
            **_moe_keys(),
            **_dense_lead(build),
            ".attention.head_count_kv": 1,
            ".attention.key_length": rank + rope,
            ".attention.value_length": rank,
            ".attention.key_length_mla": nope + rope,
            ".attention.value_length_mla": _HEAD,
            ".attention.q_lora_rank": rank,
            ".attention.kv_lora_rank": rank,
            ".rope.dimension_count": rope,
            ".expert_shared_count": 1,
            ".expert_weights_scale": 1.0,
            ".expert_gating_func": 2,
            ".hyper_connection.count": _STREAMS,
            ".hyper_connection.epsilon": 1e-6,
            ".hyper_connection.magnitude": 2.0,
        }

    def layer(build: Build, n: int) -> Tensors:
        streams: Tensors = {}
        for part in ("attn", "ffn"):
            streams |= {
                f"hc_{part}_fn.weight": (_STREAMS * N_EMBD, 2 * _STREAMS),
                f"hc_{part}_base.weight": (2 * _STREAMS,),
                f"hc_{part}_scale.weight": (2,),
            }
        return {
            **_PRE_NORMS,
            **streams,
            **_norms("attn_q_a_norm", "attn_kv_a_norm", width=rank),
            "attn_sinks.weight": (_HEADS,),
            "attn_q_a.weight": (N_EMBD, rank),
            "attn_q_b.weight": (rank, _HEADS * (nope + rope)),
            "attn_kv_a_mqa.weight": (N_EMBD, rank + rope),
            "attn_k_b.weight": (nope, rank, _HEADS),
            "attn_v_b.weight": (rank, _HEAD, _HEADS),
            "attn_output.weight": (_HEADS * _HEAD, N_EMBD),
            "attn_gate.weight": (N_EMBD, _HEADS * _HEAD),
            **_lead_ffn(build, n),
        }

    head: Tensors = {
        "output_hc_fn.weight": (_STREAMS * N_EMBD, _STREAMS),
        "output_hc_base.weight": (_STREAMS,),
        "output_hc_scale.weight": (1,),
    }
    return Arch(keys, layer, lambda b: _ends()(b) | head)


def _ernie4_5_moe() -> Arch:
    """Option moe_step: experts run once in so many layers; the others have experts all the same."""

    def keys(build: Build) -> dict[str, Any]:
        step = {".interleave_moe_layer_step": build.option("moe_step", 1)}
        shared = {".expert_shared_feed_forward_length": _EXPERT_FF}
        return _heads() | _moe_keys() | _dense_lead(build) | step | shared

    def layer(build: Build, n: int) -> Tensors:
        return _PRE_NORMS | _qkv() | _lead_ffn(build, n)

    return Arch(keys, layer, _ends())


def _refact() -> Arch:
    """Option experts: each layer has experts, which the graph does not run."""

    def keys(build: Build) -> dict[str, Any]:
        return _heads() | (_moe_keys() if build.option("experts", False) else {})

    def layer(build: Build, _: int) -> Tensors:
        ffn = _moe(_FF) if build.option("experts", False) else _ffn()
        return _PRE_NORMS | _qkv() | ffn

    return Arch(keys, layer, _ends())


def _talkie() -> Arch:
    """Each layer adds the input embedding, scaled by a weight of its own."""
    layer: Tensors = {
        **_qkv(),
        **_ffn(),
        "attn_q_norm.weight": (1, _HEADS),
        "layer_output_scale.weight": (1,),
    }
    ends: Tensors = {"token_embd.weight": (N_EMBD, N_VOCAB), "output.weight": (N_EMBD, N_VOCAB)}
    keys = _heads() | {".logit_scale": 0.5}
    return Arch(lambda _: keys, lambda _b, _n: layer, lambda _: ends)


def _afmoe() -> Arch:
    def keys(build: Build) -> dict[str, Any]:
        more = {".expert_shared_count": 1, ".expert_gating_func": 2, ".expert_weights_scale": 1.0}
        sliding = _window(build, lambda n: n % 4 == 3)
        return _heads() | _moe_keys() | _dense_lead(build) | more | sliding

    def layer(build: Build, n: int) -> Tensors:
        gate = {"attn_gate.weight": (N_EMBD, _HEADS * _HEAD)}
        return _SANDWICH | _QK_NORMS | _qkv() | gate | _lead_ffn(build, n)

    return Arch(keys, layer, _ends())


def _k2_horizon() -> Arch:
    """Layers with experts choose among value matrices as well."""
    values = 3

    def keys(build: Build) -> dict[str, Any]:
        return {
            **_heads(),
            **_moe_keys(_EXPERT_FF),
            **_dense_lead(build),
            ".attention.group_norm_groups": 2,
            ".attention.value_expert_count": values,
            ".attention.value_expert_used_count": 2,
            ".expert_shared_count": 1,
            ".expert_weights_norm": True,
            ".moe_every_n_layers": 1,
        }

    def layer(build: Build, n: int) -> Tensors:
        attention = _qkv() | {"attn_gate.weight": (N_EMBD, _HEADS * _HEAD)}
        attention |= _norms("attn_q_norm", width=_HEADS * _HEAD)
        attention |= _norms("attn_k_norm", width=_KV_HEADS * _HEAD)
        if n >= build.option("leading_dense", 2):
            del attention["attn_v.weight"]
            attention |= {
                "attn_v_gate.weight": (N_EMBD, values),
                "attn_v_gate.bias": (values,),
                "attn_v_exps.weight": (N_EMBD, _KV_HEADS * _HEAD, values),
            }
        return _PRE_NORMS | attention | _lead_ffn(build, n)

    return Arch(keys, layer, _ends())


# -- hybrids that say in an array which layers have attention ------------------------------------

_INNER = 64
_SSM_STATE = 16


def _hybrid(
    other: Tensors, keys: dict[str, Any], attention: Tensors, common: Tensors, *ends: str
) -> Arch:
    """Attention on the last of every four layers (option period), `other` on the rest."""

    def has_attention(build: Build, n: int) -> bool:
        period = build.option("period", 4)
        return bool(n % period == period - 1)

    def layer(build: Build, n: int) -> Tensors:
        return common | (attention if has_attention(build, n) else other)

    def all_keys(build: Build) -> dict[str, Any]:
        kv_heads = build.per_layer(lambda n: _KV_HEADS if has_attention(build, n) else 0)
        return _heads() | keys | {".attention.head_count_kv": kv_heads}

    return Arch(all_keys, layer, _ends(*ends))


def _ssm_keys(rank: int) -> dict[str, Any]:
    return {
        ".ssm.conv_kernel": 4,
        ".ssm.inner_size": _INNER,
        ".ssm.state_size": _SSM_STATE,
        ".ssm.time_step_rank": rank,
        ".ssm.group_count": 1,
    }


_DT_RANK = 4
_MAMBA = {
    "ssm_in.weight": (N_EMBD, 2 * _INNER),
    "ssm_conv1d.weight": (4, _INNER),
    "ssm_conv1d.bias": (_INNER,),
    "ssm_x.weight": (_INNER, _DT_RANK + 2 * _SSM_STATE),
    "ssm_dt.weight": (_DT_RANK, _INNER),
    "ssm_dt.bias": (_INNER,),
    "ssm_a": (_SSM_STATE, _INNER),
    "ssm_d": (_INNER,),
    "ssm_out.weight": (_INNER, N_EMBD),
}


def _jamba() -> Arch:
    norms = {
        "ssm_dt_norm.weight": (_DT_RANK,),
        **_norms("ssm_b_norm", "ssm_c_norm", width=_SSM_STATE),
    }
    return _hybrid(_MAMBA | norms, _ssm_keys(_DT_RANK), _qkv(), _PRE_NORMS | _ffn())


def _recurrent(mixer: Tensors, keys: dict[str, Any]) -> Arch:
    """Layers of a mixer alone."""
    none = {".attention.layer_norm_rms_epsilon": 1e-5, ".attention.head_count": 0}
    return Arch(lambda _: none | keys, lambda _b, _n: _norms("attn_norm") | mixer, _ends())


def _mamba2(heads: int) -> Tensors:
    conv = _INNER + 2 * _SSM_STATE
    return {
        "ssm_in.weight": (N_EMBD, _INNER + conv + heads),
        "ssm_conv1d.weight": (4, conv),
        "ssm_conv1d.bias": (conv,),
        "ssm_dt.bias": (heads,),
        "ssm_a": (1, heads),
        "ssm_d": (1, heads),
        "ssm_norm.weight": (_INNER, 1),
        "ssm_out.weight": (_INNER, N_EMBD),
    }


def _granitehybrid() -> Arch:
    heads = 2
    scales = {".attention.scale": 0.25, ".embedding_scale": 1.5, ".residual_scale": 0.5}
    keys = _ssm_keys(heads) | scales | {".logit_scale": 1.0}
    return _hybrid(_mamba2(heads), keys, _qkv(), _PRE_NORMS | _ffn())


_LATENT = 16


def _latent_moe() -> Tensors:
    """Experts without gates on a narrower input, and a shared one on the whole."""
    return {
        "ffn_gate_inp.weight": (N_EMBD, _EXPERTS),
        "exp_probs_b.bias": (_EXPERTS,),
        "ffn_latent_down.weight": (N_EMBD, _LATENT),
        "ffn_latent_up.weight": (_LATENT, N_EMBD),
        "ffn_up_exps.weight": (_LATENT, _EXPERT_FF, _EXPERTS),
        "ffn_down_exps.weight": (_EXPERT_FF, _LATENT, _EXPERTS),
        **_ffn("_shexp", _EXPERT_FF, gate=False),
    }


def _nemotron_h(ffn: Tensors, more: dict[str, Any]) -> Arch:
    """Each layer is one part of a block: recurrent, attention or FFN, in turn."""
    heads = 2
    parts = (_mamba2(heads), _qkv(), ffn)

    def keys(build: Build) -> dict[str, Any]:
        part = {
            ".attention.head_count_kv": build.per_layer(lambda n: _KV_HEADS if n % 3 == 1 else 0),
            ".feed_forward_length": build.per_layer(lambda n: _FF if n % 3 == 2 else 0),
        }
        return _heads() | _ssm_keys(heads) | part | {".attention.layer_norm_epsilon": 1e-5} | more

    return Arch(keys, lambda _, n: _norms("attn_norm") | parts[n % 3], _ends())


def _lfm2() -> Arch:
    conv: Tensors = {
        "shortconv.in_proj.weight": (N_EMBD, 3 * N_EMBD),
        "shortconv.conv.weight": (3, N_EMBD),
        "shortconv.out_proj.weight": (N_EMBD, N_EMBD),
    }
    keys = {".shortconv.l_cache": 3}
    arch = _hybrid(conv, keys, _QK_NORMS | _qkv(), _PRE_NORMS | _ffn())

    def all_keys(build: Build) -> dict[str, Any]:
        keys = arch.keys(build)
        decision = _decision_keys(build)
        if not decision:
            return keys
        kv_heads = zip(build.sources, keys[".attention.head_count_kv"], strict=True)
        listed = [_HEADS if _in_head(build, n) else kv for n, kv in kv_heads]
        return keys | decision | {".attention.head_count_kv": listed}

    def ends(build: Build) -> Tensors:
        tensors: Tensors = {"token_embd.weight": (N_EMBD, N_VOCAB), **_norms("token_embd_norm")}
        return tensors | _decision_ends(build)

    def layer(build: Build, n: int) -> Tensors:
        return _DECISION_LAYER if _in_head(build, n) else arch.layer(build, n)

    return Arch(all_keys, layer, ends)


# -- hybrids of KDA and MLA, with an MTP block -----------------------------------------------------

_RANK = 16
_MLA_HEAD = 16


def _kda_keys(build: Build, rope: int) -> dict[str, Any]:
    """MLA on the last of every four layers; MTP blocks have it as well."""
    return {
        **_heads(),
        **_moe_keys(),
        **_dense_lead(build),
        ".attention.head_count_kv": build.per_layer(lambda n: int(n % 4 == 3), mtp=1),
        ".attention.key_length": _RANK + rope,
        ".attention.value_length": _RANK,
        ".attention.key_length_mla": _MLA_HEAD + rope,
        ".attention.value_length_mla": _MLA_HEAD,
        ".attention.kv_lora_rank": _RANK,
        ".rope.dimension_count": rope,
        ".ssm.conv_kernel": 4,
        ".kda.head_dim": _HEAD,
        ".kda.gate_lower_bound": -5.0,
        ".expert_shared_count": 1,
        ".expert_gating_func": 2,
    }


def _kda(a: tuple[int, ...]) -> Tensors:
    inner = _HEADS * _HEAD
    return {
        **{f"ssm_conv1d_{part}.weight": (4, 1, inner) for part in "qkv"},
        **{f"attn_{part}.weight": (N_EMBD, inner) for part in "qkv"},
        "ssm_beta.weight": (N_EMBD, _HEADS),
        "ssm_a": a,
        "ssm_dt.bias": (inner,),
        "ssm_norm.weight": (_HEAD,),
        "attn_output.weight": (inner, N_EMBD),
    }


def _mla(rope: int) -> Tensors:
    return {
        **_norms("attn_kv_a_norm", width=_RANK),
        "attn_kv_a_mqa.weight": (N_EMBD, _RANK + rope),
        "attn_k_b.weight": (_MLA_HEAD, _RANK, _HEADS),
        "attn_v_b.weight": (_RANK, _MLA_HEAD, _HEADS),
        "attn_output.weight": (_HEADS * _MLA_HEAD, N_EMBD),
    }


def _nextn() -> Tensors:
    joint = {"nextn.eh_proj.weight": (2 * N_EMBD, N_EMBD)}
    return joint | _norms("nextn.enorm", "nextn.hnorm")


def _bailingmoe3() -> Arch:
    rope = 8
    inner = _HEADS * _HEAD
    gates: Tensors = {f"ssm_{part}_a.weight": (N_EMBD, inner) for part in "fg"}
    kda = _kda((1, _HEADS)) | gates
    mla = _mla(rope) | {
        "attn_q.weight": (N_EMBD, _HEADS * (_MLA_HEAD + rope)),
        "attn_gate.weight": (N_EMBD, _HEADS),
    }

    def layer(build: Build, n: int) -> Tensors:
        return _PRE_NORMS | (mla if n % 4 == 3 else kda) | _lead_ffn(build, n)

    def mtp(_: Build) -> Tensors:
        return _PRE_NORMS | mla | _experts() | _nextn() | _norms("layer_output_norm")

    return Arch(lambda b: _kda_keys(b, rope), layer, _ends(), mtp)


_STREAMS = 4
_MIXES = (2 + _STREAMS) * _STREAMS


def _stream_keys() -> dict[str, Any]:
    return {
        ".hyper_connection.count": _STREAMS,
        ".hyper_connection.sinkhorn_iterations": 2,
        ".hyper_connection.epsilon": 1e-6,
    }


def _streams() -> Tensors:
    """What mixes the four streams of the residual before each half of a layer."""
    tensors: Tensors = {}
    for part in ("attn", "ffn"):
        tensors |= {
            f"hc_{part}_fn.weight": (_STREAMS * N_EMBD, _MIXES),
            f"hc_{part}_base.weight": (_MIXES,),
            f"hc_{part}_scale.weight": (3,),
        }
    return tensors


def _glm5_next() -> Arch:
    """Option indexer_types: which layers choose tokens for themselves; not written if None."""
    heads, width, pool = 2, 32, 2

    def keys(build: Build) -> dict[str, Any]:
        types = build.option("indexer_types", None)
        return {
            **_kda_keys(build, 0),
            **_stream_keys(),
            ".attention.q_lora_rank": _RANK,
            ".attention.indexer.head_count": heads,
            ".attention.indexer.key_length": width,
            ".attention.indexer.top_k": 4,
            ".attention.indexer.kpool": pool,
            ".attention.indexer.types": types and [types[n] for n in build.sources],
        }

    gates: Tensors = {}
    for part in "fg":
        gates[f"ssm_{part}_a.weight"] = (N_EMBD, _HEAD)
        gates[f"ssm_{part}_b.weight"] = (_HEAD, _HEADS * _HEAD)
    kda = _kda((_HEADS,)) | gates
    mla = {
        **_mla(0),
        **_norms("attn_q_a_norm", width=_RANK),
        "attn_q_a.weight": (N_EMBD, _RANK),
        "attn_q_b.weight": (_RANK, _HEADS * _MLA_HEAD),
        "indexer.k_norm.weight": (width,),
        "indexer.k_norm.bias": (width,),
        "indexer.proj.weight": (N_EMBD, heads),
        "indexer.attn_k.weight": (N_EMBD, width),
        "indexer.attn_q_b.weight": (_RANK, heads * width),
        "indexer_compressor_gate.weight": (N_EMBD, width),
        "indexer_compressor_ape.weight": (width, pool),
    }

    def layer(build: Build, n: int) -> Tensors:
        mixer = mla if n % 4 == 3 else kda
        return _PRE_NORMS | _streams() | mixer | _lead_ffn(build, n)

    def mtp(_: Build) -> Tensors:
        return _PRE_NORMS | mla | _experts() | _nextn()

    return Arch(keys, layer, _ends(), mtp)


def _deepseek4() -> Arch:
    """Sliding windows, and compressed attention of both kinds, in turn."""
    head, groups, rank = 32, 2, 16
    heads, width = 2, 64  # llama.cpp divides by zero where the indexer is as wide as a head
    ratios = (0, 4, 128)

    def keys(build: Build) -> dict[str, Any]:
        return {
            **_heads(head),
            **_moe_keys(),
            **_stream_keys(),
            ".rope.dimension_count": head // 2,
            ".attention.q_lora_rank": rank,
            ".attention.sliding_window": build.option("window", WINDOW),
            ".attention.indexer.head_count": heads,
            ".attention.indexer.key_length": width,
            ".attention.indexer.top_k": 4,
            ".attention.output_group_count": groups,
            ".attention.output_lora_rank": rank,
            ".attention.compress_ratios": build.per_layer(lambda n: ratios[n % 3], mtp=0),
            ".attention.compress_rope_freq_base": 160000.0,
            ".hash_layer_count": 0,
            ".swiglu_clamp_exp": 10.0,
            ".expert_shared_count": 1,
            ".expert_weights_scale": 1.0,
            ".expert_weights_norm": True,
            ".expert_gating_func": 4,
        }

    common: Tensors = {
        **_PRE_NORMS,
        **_streams(),
        **_experts(),
        **_norms("attn_q_a_norm", width=rank),
        **_norms("attn_kv_a_norm", width=head),
        "attn_sinks.weight": (_HEADS,),
        "attn_q_a.weight": (N_EMBD, rank),
        "attn_q_b.weight": (rank, _HEADS * head),
        "attn_kv.weight": (N_EMBD, head),
        "attn_output_a.weight": (_HEADS * head // groups, rank, groups),
        "attn_output_b.weight": (groups * rank, N_EMBD),
    }
    indexer = {
        "indexer.proj.weight": (N_EMBD, heads),
        "indexer.attn_q_b.weight": (rank, heads * width),
    }

    def compressor(name: str, n: int, out: int, ratio: int) -> Tensors:
        return {
            f"{name}_compressor_kv.weight": (N_EMBD, out),
            f"{name}_compressor_gate.weight": (N_EMBD, out),
            f"{name}_compressor_ape.weight": (out, ratio),
            f"{name}_compressor_norm.weight": (n,),
        }

    more: tuple[Tensors, ...] = (
        {},
        compressor("attn", head, 2 * head, 4)
        | compressor("indexer", width, 2 * width, 4)
        | indexer,
        compressor("attn", head, head, 128),
    )
    ends: Tensors = {
        "output_hc_fn.weight": (_STREAMS * N_EMBD, _STREAMS),
        "output_hc_base.weight": (_STREAMS,),
        "output_hc_scale.weight": (1,),
    }
    return Arch(
        keys,
        lambda _, n: common | more[n % 3],
        lambda b: _ends()(b) | ends,
        lambda _: common | _nextn(),
    )


# -- Gemma 4: the last layers read the keys and values of earlier ones ---------------------------

_GEMMA4_INPUT = 8


def _gemma4() -> Arch:
    """The sizes with embeddings per layer, and with other options the dense ones and the MoE.

    Options: shared_kv_layers, how many of the source's last layers have no keys and values;
    wide_tail=True makes the FFN of those twice as wide; per_layer_input=False leaves out what each
    layer adds of its own; experts=True adds experts to the FFN; keys_as_values=True leaves full
    layers without values, and gives the sliding ones more K/V heads; the last of every period
    layers has full attention.
    """

    def layer(build: Build, n: int) -> Tensors:
        return {
            **_SANDWICH,
            **_gemma4_attention(build, n),
            **_ffn(width=_gemma4_ff(build, n)),
            **(_gemma4_experts() if build.option("experts", False) else {}),
            **(_gemma4_own_input() if build.option("per_layer_input", True) else {}),
            "layer_output_scale.weight": (1,),
        }

    def ends(build: Build) -> Tensors:
        more: Tensors = {"rope_freqs.weight": (_GEMMA_HEAD // 2,)}
        if build.option("per_layer_input", True):
            more["per_layer_proj_norm.weight"] = (_GEMMA4_INPUT,)
        return _ends(output=False)(build) | more

    def joined(build: Build) -> Joined:
        if not build.option("per_layer_input", True):
            return {}
        return {
            "per_layer_token_embd.weight": ((_GEMMA4_INPUT, N_VOCAB), 0),
            "per_layer_model_proj.weight": ((N_EMBD, _GEMMA4_INPUT), 1),
        }

    return Arch(_gemma4_keys, layer, ends, joined=joined)


def _gemma4_keys(build: Build) -> dict[str, Any]:
    keys = {
        **_heads(_GEMMA_HEAD),
        ".attention.key_length_swa": _HEAD,
        ".attention.value_length_swa": _HEAD,
        ".rope.dimension_count_swa": _HEAD,
        ".attention.sliding_window": build.option("window", WINDOW),
        ".attention.sliding_window_pattern": build.per_layer(lambda n: not _gemma4_full(build, n)),
        ".attention.shared_kv_layers": sum(not _gemma4_has_kv(build, n) for n in build.sources),
        ".embedding_length_per_layer_input": 0,
        ".final_logit_softcapping": 30.0,
    }
    if build.option("per_layer_input", True):
        keys[".embedding_length_per_layer_input"] = _GEMMA4_INPUT
    if build.option("experts", False):
        keys |= _moe_keys()
    if build.option("wide_tail", False):
        keys[".feed_forward_length"] = build.per_layer(lambda n: _gemma4_ff(build, n))
    if build.option("keys_as_values", False):
        kv_heads = build.per_layer(lambda n: _KV_HEADS if _gemma4_full(build, n) else _HEADS)
        keys[".attention.head_count_kv"] = kv_heads
    return keys


def _gemma4_own_input() -> Tensors:
    return {
        **_norms("post_norm"),
        "inp_gate.weight": (N_EMBD, _GEMMA4_INPUT),
        "proj.weight": (_GEMMA4_INPUT, N_EMBD),
    }


def _gemma4_full(build: Build, n: int) -> bool:
    period = build.option("period", 4)
    return bool(n % period == period - 1)


def _gemma4_has_kv(build: Build, n: int) -> bool:
    return bool(n < build.n_layers - build.option("shared_kv_layers", 0))


def _gemma4_ff(build: Build, n: int) -> int:
    wide = build.option("wide_tail", False) and not _gemma4_has_kv(build, n)
    return 2 * _FF if wide else _FF


def _gemma4_attention(build: Build, n: int) -> Tensors:
    head = _GEMMA_HEAD if _gemma4_full(build, n) else _HEAD
    attention = _qkv(head) | _norms("attn_q_norm", "attn_k_norm", width=head)
    if build.option("keys_as_values", False):
        if _gemma4_full(build, n):
            del attention["attn_v.weight"]
        else:
            attention |= {f"attn_{x}.weight": (N_EMBD, _HEADS * head) for x in "kv"}
    if not _gemma4_has_kv(build, n):
        own = ("attn_k.weight", "attn_v.weight", "attn_k_norm.weight")
        attention = {name: ne for name, ne in attention.items() if name not in own}
    return attention


def _gemma4_experts() -> Tensors:
    return {
        **_norms("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2"),
        "ffn_gate_inp.weight": (N_EMBD, _EXPERTS),
        "ffn_gate_inp.scale": (N_EMBD,),
        "ffn_gate_up_exps.weight": (N_EMBD, 2 * _EXPERT_FF, _EXPERTS),
        "ffn_down_exps.weight": (_EXPERT_FF, N_EMBD, _EXPERTS),
        "ffn_down_exps.scale": (_EXPERTS,),
    }


# The width of the embedding that an embedding model gives.
_EMBD_OUT = 16


def _gemma_embedding2() -> Arch:
    """Each layer adds an embedding of its own; what comes out has another width."""

    def full(n: int) -> bool:
        return n % 6 == 5

    def keys(build: Build) -> dict[str, Any]:
        return {
            **_heads(_GEMMA_HEAD),
            **_window(build, full),
            ".attention.key_length_swa": _HEAD,
            ".attention.value_length_swa": _HEAD,
            ".rope.dimension_count_swa": _HEAD,
            ".attention.causal": False,
            ".embedding_length_out": _EMBD_OUT,
            ".embedding_length_per_layer_input": _GEMMA4_INPUT,
            ".pooling_type": int(gguf.PoolingType.MEAN),
        }

    def layer(_: Build, n: int) -> Tensors:
        head = _GEMMA_HEAD if full(n) else _HEAD
        return {
            **_SANDWICH,
            **_qkv(head),
            **_norms("attn_q_norm", "attn_k_norm", width=head),
            **_ffn(),
            **_gemma4_own_input(),
            "layer_output_scale.weight": (1,),
        }

    ends: Tensors = {
        "token_embd.weight": (N_EMBD, N_VOCAB),
        **_norms("output_norm"),
        **_norms("per_layer_proj_norm", width=_GEMMA4_INPUT),
        "output.weight": (N_EMBD, _EMBD_OUT),
    }
    joined: Joined = {"per_layer_model_proj.weight": ((N_EMBD, _GEMMA4_INPUT), 1)}
    return Arch(keys, layer, lambda _: ends, joined=lambda _: joined)


# -- the Qwen3.5 family: full attention every so many layers, gated delta nets between ------------

_STATE = 16
_V_HEADS = 2
_K_HEADS = 1


def _qwen35_keys(build: Build) -> dict[str, Any]:
    """Options: full_attention_interval (None: no such key), recurrent_layers (the array)."""
    interval = build.option("full_attention_interval", 4)
    keys = _heads() | {
        ".rope.dimension_count": 8,
        ".rope.dimension_sections": [2, 1, 1, 0],
        ".ssm.conv_kernel": 4,
        ".ssm.inner_size": _STATE * _V_HEADS,
        ".ssm.state_size": _STATE,
        ".ssm.time_step_rank": _V_HEADS,
        ".ssm.group_count": _K_HEADS,
        ".full_attention_interval": interval,
    }
    if build.option("recurrent_layers", False):
        keys[".attention.recurrent_layers"] = build.per_layer(
            lambda n: not _is_full(build, n), mtp=False
        )
    return keys


def _is_full(build: Build, layer: int) -> bool:
    interval = build.option("full_attention_interval", 4) or 4
    return bool((layer + 1) % interval == 0)


def _gated_attention() -> Tensors:
    return _norms("attn_norm", "post_attention_norm") | _QK_NORMS | _qkv(gated=True)


def _delta_net(*, fused_ba: bool) -> Tensors:
    conv = _STATE * (2 * _K_HEADS + _V_HEADS)
    names = ["ssm_ba"] if fused_ba else ["ssm_beta", "ssm_alpha"]
    return {
        **_norms("attn_norm", "post_attention_norm"),
        "attn_qkv.weight": (N_EMBD, conv),
        "attn_gate.weight": (N_EMBD, _STATE * _V_HEADS),
        "ssm_conv1d.weight": (4, conv),
        "ssm_dt.bias": (_V_HEADS,),
        "ssm_a": (_V_HEADS,),
        **{f"{name}.weight": (N_EMBD, 2 * _V_HEADS // len(names)) for name in names},
        "ssm_norm.weight": (_STATE,),
        "ssm_out.weight": (_STATE * _V_HEADS, N_EMBD),
    }


def _qwen35(ffn: Callable[[], Tensors], keys: dict[str, Any], *, fused_ba: bool = False) -> Arch:
    def layer(build: Build, n: int) -> Tensors:
        mixer = _gated_attention() if _is_full(build, n) else _delta_net(fused_ba=fused_ba)
        return mixer | ffn()

    def mtp(_: Build) -> Tensors:
        return _gated_attention() | ffn() | _nextn()

    return Arch(lambda b: _qwen35_keys(b) | keys, layer, _ends(), mtp)


def _qwen4exp() -> Arch:
    """Streams that add up without being mixed; source layer 1 also adds embeddings of n-grams."""
    rank = 8
    wide = _STREAMS * N_EMBD

    def keys(build: Build) -> dict[str, Any]:
        ngrams = [n for n, source in enumerate(build.sources) if source == 1]
        return {
            **_qwen35_keys(build),
            **_moe_keys(_EXPERT_FF),
            ".hyper_connection.count": _STREAMS,
            ".hyper_connection.low_rank": rank,
            ".attention.indexer.head_count": 1,
            ".attention.indexer.key_length": 8,
            ".attention.indexer.top_k": 4,
            ".ple.layers": np.array(ngrams, np.uint32) if ngrams else None,
            ".ple.ngram_size": 2,
            ".ple.heads_per_ngram": 1,
            ".ple.conv_kernel": 2,
            ".ple.eos_token_id": 2,
            ".ple.layer_multipliers": np.array([3, 5], np.uint64),
            ".ple.head_offsets": np.array([0], np.uint64),
            ".ple.head_vocab_sizes": np.array([_NGRAMS], np.uint64),
            ".embedding_length_per_layer_input": N_EMBD,
        }

    def layer(build: Build, n: int) -> Tensors:
        mixer = (
            _gated_attention() | _indexer() if _is_full(build, n) else _delta_net(fused_ba=False)
        )
        for name in ("attn_norm.weight", "post_attention_norm.weight"):
            del mixer[name]
        streams: Tensors = {}
        for part in ("attn", "ffn"):
            streams |= {
                f"hc_{part}_norm.weight": (N_EMBD, _STREAMS),
                f"hc_{part}_down.weight": (wide, rank),
                f"hc_{part}_up.weight": (rank, wide),
                f"hc_{part}_inject.weight": (wide, _STREAMS),
            }
        ngrams: Tensors = {
            **{f"ple_norm_{x}.weight": (N_EMBD, _STREAMS) for x in ("key", "query", "conv")},
            "ple_key.weight": (N_EMBD, wide),
            "ple_value.weight": (N_EMBD, N_EMBD),
            "ple_conv1d.weight": (2, wide),
        }
        return mixer | _shared_moe() | streams | (ngrams if n == 1 else {})

    ends: Tensors = {
        "token_embd.weight": (N_EMBD, N_VOCAB),
        "output.weight": (N_EMBD, N_VOCAB),
        "output_hc_norm.weight": (N_EMBD, _STREAMS),
        "output_hc_down.weight": (wide, rank),
        "output_hc_up.weight": (rank, wide),
        "per_layer_token_embd.weight": (N_EMBD, _NGRAMS),
    }
    return Arch(keys, layer, lambda _: ends)


_NGRAMS = 16


def _indexer() -> Tensors:
    return {
        "indexer.q_proj.weight": (N_EMBD, 8),
        "indexer.k_proj.weight": (N_EMBD, 8),
        **_norms("indexer.q_norm", "indexer.k_norm", width=8),
    }


def _shared_moe() -> Tensors:
    return _moe() | _ffn("_shexp", _EXPERT_FF) | {"ffn_gate_inp_shexp.weight": (N_EMBD,)}


ARCHITECTURES: dict[str, Arch] = {
    "llama": _plain(_PRE_NORMS | _qkv() | _ffn()),
    "qwen2": _plain(_PRE_NORMS | _qkv(bias=True) | _ffn()),
    "qwen3": _plain(_PRE_NORMS | _QK_NORMS | _qkv() | _ffn(), output=False),
    "qwen3moe": _plain(_PRE_NORMS | _QK_NORMS | _qkv() | _moe(), _heads() | _moe_keys()),
    "mistral3": _plain(_PRE_NORMS | _qkv() | _ffn()),
    "bitnet": _plain(_BITNET, output=False),
    "glm4": _plain(_GLM4, {".rope.dimension_count": _HEAD}),
    "minicpm": replace(_plain(_PRE_NORMS | _qkv() | _ffn()), keys=_minicpm_keys),
    "apertus": replace(
        _plain(_PRE_NORMS | _QK_NORMS | _qkv() | _ffn(gate=False)), keys=_apertus_keys
    ),
    "bert": _bert(),
    "modern-bert": _modern_bert(),
    "llada": _plain(_PRE_NORMS | _qkv() | _ffn()),
    "smollm3": _plain(_PRE_NORMS | _qkv() | _ffn()),
    "gemma2": _sliding(2, _GEMMA_LAYER, _heads(_GEMMA_HEAD), output=False),
    "gemma3": _sliding(6, _GEMMA_LAYER | _GEMMA_QK_NORMS, _heads(_GEMMA_HEAD), output=False),
    "gemma-embedding": _sliding(
        6,
        _GEMMA_LAYER | _GEMMA_QK_NORMS,
        _heads(_GEMMA_HEAD)
        | {".attention.causal": False, ".pooling_type": int(gguf.PoolingType.MEAN)},
        output=False,
    ),
    "gpt-oss": _gpt_oss(),
    "olmo2": _olmo2(),
    "plamo3": _plamo3(),
    "mellum": _sliding(4, _PRE_NORMS | _QK_NORMS | _qkv() | _moe(), _heads() | _moe_keys()),
    "cohere2": _cohere2(),
    "llama4": _llama4(),
    "smallthinker": _smallthinker(),
    "exaone4": _exaone4(),
    "deepseek2": _deepseek2(),
    "afmoe": _afmoe(),
    "k2-horizon": _k2_horizon(),
    "ernie4_5-moe": _ernie4_5_moe(),
    "refact": _refact(),
    "talkie": _talkie(),
    "hy_v4": _hy_v4(),
    "qwen4exp": _qwen4exp(),
    "jamba": _jamba(),
    "mamba": _recurrent(_MAMBA, _ssm_keys(_DT_RANK)),
    "mamba2": _recurrent(_mamba2(2), _ssm_keys(2)),
    "granitehybrid": _granitehybrid(),
    "lfm2": _lfm2(),
    "nemotron_h": _nemotron_h(_ffn(gate=False), {}),
    "nemotron_h_moe": _nemotron_h(
        _latent_moe(), _moe_keys(_EXPERT_FF) | {".moe_latent_size": _LATENT}
    ),
    "bailingmoe3": _bailingmoe3(),
    "glm5-next": _glm5_next(),
    "deepseek4": _deepseek4(),
    "gemma4": _gemma4(),
    "gemma-embedding2": _gemma_embedding2(),
    "qwen35": _qwen35(_ffn, {}),
    "qwen35moe": _qwen35(_shared_moe, _moe_keys(_EXPERT_FF)),
    "qwen3next": _qwen35(_shared_moe, _moe_keys(_EXPERT_FF), fused_ba=True),
}

# Embedding models and a diffusion model: llama-server completes no text with them.
WITHOUT_NEXT_TOKEN = frozenset({
    "bert", "gemma-embedding", "gemma-embedding2", "llada", "modern-bert"
})  # fmt: skip
# Their layers are made of the parts of others: tests that take time leave them out.
LIKE_OTHERS = frozenset({"bitnet", "glm4", "mamba", "mamba2", "mistral3", "nemotron_h_moe"})
