"""How layer kinds reach the engine."""

from __future__ import annotations

from enum import Enum


class Schedule(str, Enum):
    """How layer kinds reach the engine: by position, as every engine reads them, or spelled out."""

    PORTABLE = "portable"
    EXPLICIT = "explicit"
