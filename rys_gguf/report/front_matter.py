"""The YAML at the top of a model card, as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from gguf.constants import GGUFValueType

from rys_gguf.extras import load
from rys_gguf.formats.model import Model
from rys_gguf.report.origin import header_text, hub_repository
from rys_gguf.runs.records import RunInfo
from rys_gguf.stats.effects import Effect
from rys_gguf.stats.verdict import Verdict
from rys_gguf.text import printable

if TYPE_CHECKING:  # an optional package, which takes a second to import
    from huggingface_hub import ModelCardData

TAGS = ("gguf", "rys", "layer-duplication")
# How the Hub writes the licences it knows: apache-2.0, llama3.1, cc-by-nc-4.0.
_LICENCE = re.compile(r"[a-z][a-z0-9.+-]*", re.ASCII)
_NO_LICENCE_NAME = re.compile(r"[^a-z0-9.-]+")
# A page, or a file of the repository: a link must not run anything.
_LINK = re.compile(r"https?://[\w./~%?#=&+:@-]+|LICENSE(\.md|\.txt)?", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}", re.ASCII)


def front_matter(
    origin: Model, name: str, verdict: Verdict | None, info: RunInfo | None
) -> ModelCardData:
    """Base model, licence and languages as a header names them, and held-out scores if any.

    A card has one `base_model_relation`: adapter, merge, quantized or finetune
    (https://huggingface.co/docs/hub/model-cards, "Specifying a base model"). Layers of a checkpoint
    in another order, as mergekit's passthrough makes them, are a merge, also in a quantised file:
    `quantized` would say that the file computes what its base model does.

    A licence that the Hub does not know by its form is `other`, with a name in the Hub's form and
    a link if the header has one that is safe to follow.
    """
    hub = load("the card", "huggingface_hub")
    licence = header_text(origin, "general.license")
    is_known = bool(licence and _LICENCE.fullmatch(licence))
    link = header_text(origin, "general.license.link")
    licence_name = header_text(origin, "general.license.name") or licence or ""
    results = None
    if verdict is not None and info is not None:
        effects = (verdict.judgement.overall, *verdict.judgement.families)
        results = [hub.EvalResult(**_result(effect, verdict, info)) for effect in effects]
    card_data: ModelCardData = hub.ModelCardData(
        base_model=hub_repository(origin),
        base_model_relation="merge",
        license=licence if is_known else "other",
        license_name=None if is_known else _licence_id(licence_name) or None,
        license_link=link if link and _LINK.fullmatch(link) else None,
        library_name="gguf",
        language=_languages(origin) or None,
        tags=list(TAGS),
        eval_results=results,
        model_name=printable(name) if results else None,
    )
    return card_data


def _result(effect: Effect, verdict: Verdict, info: RunInfo) -> dict[str, Any]:
    """The variant's score in one family; n and the base's score go with it."""
    family = printable(effect.name)
    return {
        "task_type": "text-generation",
        "dataset_type": "rys-gguf",
        "dataset_name": f"rys-gguf held-out items ({family})",
        "dataset_config": family,
        "dataset_split": str(verdict.stage),
        "dataset_revision": printable(str(info.identity.get("heldout"))),
        "metric_type": "accuracy" if effect.mcnemar else "score",
        "metric_value": round(effect.window, 4),
        "metric_args": {"n": effect.n, "base": round(effect.base, 4)},
    }


def _licence_id(name: str) -> str:
    """A licence's name as the Hub wants it: my-licence-1.0."""
    return _NO_LICENCE_NAME.sub("-", name[:100].lower()).strip("-.")


def _languages(origin: Model) -> list[str]:
    kv = origin.header.get("general.languages")
    if kv is None or kv.item_type != GGUFValueType.STRING or not isinstance(kv.raw, bytes):
        return []
    return [value for value in kv.value if _LANGUAGE.fullmatch(value)]
