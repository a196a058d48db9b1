"""Names: what they mean, and what is none."""

from __future__ import annotations

import os
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rys_gguf.errors import ModelUnavailable
from rys_gguf.hub.names import HubName, is_name, is_safe, shards_of
from rys_gguf.text import printable

FILES = [
    "README.md", "mmproj-Q4_K_M.gguf", "a.imatrix.gguf", "m-BF16-00001-of-00002.gguf",
    "m-BF16-00002-of-00002.gguf", "m-IQ4_XS.gguf", "m-Q4_K_M.gguf", "m-q8_0.gguf",
    "UD/m-UD-Q4_K_XL.gguf",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hf:o/r", "m-Q4_K_M.gguf"),
        ("hf:o/r:q4_k_m", "m-Q4_K_M.gguf"),
        ("hf:o/r:Q8_0", "m-q8_0.gguf"),
        ("hf:o/r:BF16", "m-BF16-00001-of-00002.gguf"),
        ("hf:o/r:UD-Q4_K_XL", "UD/m-UD-Q4_K_XL.gguf"),
        ("hf:o/r:Q4_K", None),
        ("hf:o/r:Q4.K_M", None),
        ("hf:o/r/UD/m-UD-Q4_K_XL.gguf", "UD/m-UD-Q4_K_XL.gguf"),
        ("hf:o/r/mmproj-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf"),
        ("hf:o/r/none.gguf", None),
    ],
)
def test_a_name_means_the_file_that_llama_cpp_takes(name: str, path: str | None) -> None:
    """A quantisation in any case; no projector, no matrix; of shards the first."""
    assert HubName.parse(name).choose(FILES) == path


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (["b-F16.gguf", "a-Q8_0.gguf"], "a-Q8_0.gguf"),
        (["b-F16.gguf", "a-F32.gguf"], "a-F32.gguf"),
        (["mmproj-F16.gguf"], None),
        ([], None),
    ],
)
def test_without_a_quantisation_there_is_a_default(files: list[str], path: str | None) -> None:
    """Q4_K_M, else Q8_0, else the first model."""
    assert HubName.parse("hf:o/r").choose(files) == path


@pytest.mark.parametrize(
    "text",
    [
        "hf:", "hf:r", "hf:o/", "hf:/r", "hf:o/r:", "hf:o/r:../x", "hf:o/../r.gguf", "hf:../r",
        "hf:o/r/", "hf:o/r/../../x.gguf", "hf:o/r//x.gguf", "hf:o/r/x.bin", "hf:o/r/a\\x.gguf",
        "hf:o--p/r", "hf:-o/r", "hf:o/r.", "hf:o/r\n", "hf:o/r:Q4\x1b[2J", "hf:ö/r",
        f"hf:o/{'r' * 300}", "hf:o/r:Q4/x.gguf", "hf:o/r?x=1", "hf:o/r#x", "hf:o@evil/r",
    ],
)  # fmt: skip
def test_what_is_no_name_is_said(text: str) -> None:
    """Nothing that leaves the folder or the address it is put into is a name."""
    with pytest.raises(
        ModelUnavailable, match="is not the name of a model; write hf:OWNER/REPO"
    ) as e:
        HubName.parse(text)
    assert str(e.value).isprintable()


@given(st.text("./\\a\0\n\ud800é "))
def test_a_safe_path_stays_below_its_folder(path: str) -> None:
    """Whatever a repository lists, what is safe leads nowhere else, and has an address."""
    if is_safe(path):
        assert os.path.normpath(os.path.join("/folder", path)) == f"/folder/{path}"
        assert quote(path)
        assert printable(path, len(path)) == path


def test_shards_belong_together() -> None:
    """The path of any shard gives all of them."""
    both = ["d/m-00001-of-00002.gguf", "d/m-00002-of-00002.gguf"]
    assert shards_of(both[0]) == shards_of(both[1]) == both
    assert shards_of("m.gguf") == ["m.gguf"]


def test_a_path_is_no_name() -> None:
    """Only the two words before a colon are names."""
    assert [is_name(t) for t in ("hf:o/r", "ollama:m", "o/r:Q4", "./hf:o/r", "C:/m")] == [
        True, True, False, False, False,
    ]  # fmt: skip
