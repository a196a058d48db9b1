"""The reader against gguf.cpp itself: what one opens the other opens."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.foreign import loading_notes
from rys_gguf.formats.reader import HeaderReader
from tests.engine_library import engine_library, opens
from tests.strategies import damaged, files


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    """The ggml that the engine was built with."""
    return engine_library()


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_files_open_where_gguf_cpp_opens_them(
    data: st.DataObject, ggml: ctypes.CDLL, scratch: Path
) -> None:
    """Whole and damaged files. gguf.cpp leaves it to the loader whether all data is there."""
    content = data.draw(files()).content
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    scratch.write_bytes(content)
    fault = ""
    try:
        with HeaderReader(scratch) as reader:
            faults = [*loading_notes(reader.header), *reader.header.offset_issues()]
            fault = "; ".join(faults)
    except InvalidGGUF as e:
        fault = str(e)
    if not fault.endswith("it is incomplete"):
        assert opens(ggml, scratch) == (not fault), fault
