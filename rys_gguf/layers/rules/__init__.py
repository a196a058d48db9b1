"""The rules, by what a layer's computation depends on."""

from rys_gguf.layers.rules.counted import CountSwitch, Looped, Pin
from rys_gguf.layers.rules.ends import Anchored, Leading, SharedTail, TiedTail
from rys_gguf.layers.rules.listed import BoundToPreceding, Injection, Listed, Needed
from rys_gguf.layers.rules.named import LayerIndex, TensorNames
from rys_gguf.layers.rules.periodic import Periodic, Phase
from rys_gguf.layers.rules.unsupported import Unsupported

__all__ = [
    "Anchored",
    "BoundToPreceding",
    "CountSwitch",
    "Injection",
    "LayerIndex",
    "Leading",
    "Listed",
    "Looped",
    "Needed",
    "Periodic",
    "Phase",
    "Pin",
    "SharedTail",
    "TensorNames",
    "TiedTail",
    "Unsupported",
]
