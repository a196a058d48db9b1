"""The two ways in which layer kinds can reach the engine."""

from __future__ import annotations

from enum import Enum


class Schedule(str, Enum):
    """PORTABLE: by position, as every engine reads them. EXPLICIT: listed in the file."""

    PORTABLE = "portable"
    EXPLICIT = "explicit"
