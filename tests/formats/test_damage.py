"""The reader against any bytes: generated files, damaged ones, and each kind of damage by name."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from gguf.constants import GGMLQuantizationType, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rys_gguf.errors import InvalidGGUF
from rys_gguf.formats.reader import HeaderReader
from tests.headers import encoded, opened
from tests.strategies import (
    U32,
    U64,
    UNKNOWN_TYPE,
    Made,
    architecture,
    damaged,
    files,
    raw_array,
    raw_file,
    raw_kv,
    raw_string,
    raw_tensor,
)

T = GGUFValueType
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


# -- any bytes ----------------------------------------------------------------------------------


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@FUZZ
@given(made=files())
def test_any_well_formed_file_is_read_as_it_was_made(scratch: Path, made: Made) -> None:
    """Everything in a header is found, and encodes to the same bytes."""
    with opened(scratch, made.content) as reader:
        header = reader.header
        assert (header.byteorder, header.version, header.alignment) == (
            made.byteorder,
            made.version,
            made.alignment,
        )
        assert [
            (kv.key.encode("utf-8", "surrogateescape"), kv.type, kv.raw) for kv in header.kvs
        ] == made.kvs
        for kv in header.kvs:
            if kv.item_type is not None:
                assert raw_array(kv.item_type, kv.items, made.byteorder) == kv.raw
            assert repr(reader.fields[kv.key].contents()) == repr(kv.value)  # NaN is not NaN
        assert [
            (t.name.encode("utf-8", "surrogateescape"), t.ne, t.type) for t in header.tensors
        ] == [tensor[:3] for tensor in made.tensors]
        assert [t.data.tobytes() for t in reader.tensors] == [t[3] for t in made.tensors]
        assert header.offset_issues() == []
        assert encoded(reader) == made.content[: reader.data_offset]


def refusal(path: Path, content: bytes) -> str | None:
    """Parse and look at everything; the message if the file is not a GGUF.

    What is taken has to encode to the file's own bytes.
    """
    try:
        reader = opened(path, content)
    except InvalidGGUF as e:
        return str(e)
    with reader:
        for field in reader.fields.values():
            field.contents()
        for tensor in reader.tensors:
            assert tensor.data.nbytes == tensor.n_bytes
        reader.header.offset_issues()
        n = reader.header.n_bytes
        assert encoded(reader)[:n] == content[:n]
    return None


@FUZZ
@given(
    content=st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda b: b"GGUF\3\0\0\0" + b)
    | st.tuples(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=300)).map(
        lambda t: b"GGUF" + struct.pack("<IQQ", 3, t[0], t[1]) + t[2]
    )
)
def test_any_bytes_parse_or_are_invalid(scratch: Path, content: bytes) -> None:
    """Whatever a file holds, the reader takes it or raises InvalidGGUF, and nothing else."""
    message = refusal(scratch, content) or "m.gguf: a GGUF"
    assert message.startswith("m.gguf: ")
    assert message.isprintable()


@pytest.mark.no_cover  # many times the same lines, which would take three times as long
@FUZZ
@given(data=st.data())
def test_damaged_files_parse_or_are_invalid(scratch: Path, data: st.DataObject) -> None:
    """The same holds for damaged files."""
    message = refusal(scratch, data.draw(damaged(data.draw(files()).content)))
    assert message is None or message.isprintable()


# -- known damage -------------------------------------------------------------------------------


def small() -> bytes:
    """A good file with values and tensors of several kinds."""
    return raw_file(
        [
            architecture(),
            raw_kv(b"llama.block_count", T.UINT32, struct.pack("<I", 1)),
            raw_kv(b"nested", T.ARRAY, raw_array(T.ARRAY, [raw_array(T.INT16, [b"ab"])])),
            raw_kv(b"tokens", T.ARRAY, raw_array(T.STRING, [raw_string(b"a"), raw_string(b"b")])),
            raw_kv(b"flag", T.BOOL, b"\1"),
        ],
        [
            raw_tensor(b"token_embd.weight", [4, 2]),
            raw_tensor(b"blk.0.ffn_up.weight", [3], offset=32),
        ],
        bytes(64),
    )


def test_a_file_cut_anywhere_is_invalid(scratch: Path) -> None:
    """A good file that is cut off at any byte is refused."""
    content = small()
    n_needed = len(content) - 32 + 12  # the last tensor is 12 bytes; its padding may be missing
    for n in range(n_needed):
        with pytest.raises(InvalidGGUF, match=r"m\.gguf: "):
            opened(scratch, content[:n])
    for n in range(n_needed, len(content) + 1):
        opened(scratch, content[:n]).file.close()


def counts(n_tensors: int, n_kvs: int) -> bytes:
    """A file that claims so many tensors and keys, and holds none."""
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_kvs) + bytes(64)


def kv(type_: int, value: bytes, key: bytes = b"some.key") -> bytes:
    """A file of one key."""
    return raw_file([raw_kv(key, type_, value)], data=bytes(64))


def table(*rows: bytes) -> bytes:
    """A file of these tensors, with 64 bytes of data."""
    return raw_file([], rows, bytes(64))


def aligned(type_: int, value: bytes) -> bytes:
    """A file with that alignment."""
    return raw_file(
        [raw_kv(b"general.alignment", type_, value)], [raw_tensor(b"a", [1])], bytes(64)
    )


def nested(depth: int) -> bytes:
    """An array in an array in an array."""
    value = raw_array(T.UINT8, [b"\1"])
    for _ in range(depth - 1):
        value = raw_array(T.ARRAY, [value])
    return value


HUGE = (1 << 64) - 1
F32, Q4_0 = int(GGMLQuantizationType.F32), int(GGMLQuantizationType.Q4_0)

DAMAGE = {
    "nothing": (b"", "is empty"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    "HTML": (b"\n<!doctype html><html>", "is a web page"),
    "safetensors": (U64(2) + b'{"a":{}}' + bytes(20), "is a safetensors file"),
    "a zip": (b"PK\3\4" + bytes(30), "is a PyTorch checkpoint or another archive"),
    "a pickle": (b"\x80\x02\x8a\n" + bytes(30), "is a PyTorch checkpoint or another archive"),
    "ggml": (b"tjgg" + bytes(30), "is a ggml file from before GGUF"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(30), "is compressed; unpack it first"),
    "zeros": (bytes(30), "starts with zeros; the download is incomplete"),
    "an error": (b'{"error":"Invalid username or password."}', 'is text, not a model ({"error":'),
    "binary magic": (b"\x81\x02\n\\" + bytes(9), r"starts with '\x81\x02\n\' instead of 'GGUF'"),
    "other magic": (b"GGML" + bytes(30), "starts with 'GGML' instead of 'GGUF'"),
    "magic backwards": (b"FUGG" + bytes(30), "is not a GGUF file"),
    "magic only": (b"GGUF", "is shorter than a GGUF header"),
    "version 0": (raw_file(version=0), "is GGUF version 0; versions 2 and 3 are read"),
    "version 1": (raw_file(version=1), "is GGUF version 1;"),
    "version 4": (raw_file(version=4), "is GGUF version 4;"),
    "version 4, big endian": (raw_file(version=4, byteorder=">"), "is GGUF version 4;"),
    "many tensors": (counts(HUGE, 0), f"claims {HUGE} tensors"),
    "many keys": (counts(0, HUGE), f"claims {HUGE} keys"),
    "more keys than there are": (counts(0, 5)[:24], "inside its header"),
    "more tensors than there are": (counts(5, 0)[:24], "inside its header"),
    "an empty key": (kv(T.UINT8, b"\1", b""), "a key at byte 24 is 0 bytes long"),
    "a huge key": (counts(0, 1)[:24] + U64(HUGE), f"a key at byte 24 is {HUGE} bytes long"),
    "a key of 64 KiB": (kv(T.UINT8, b"\1", b"k" * 65536), "is 65536 bytes long"),
    "the same key twice": (
        raw_file([raw_kv(b"k", T.UINT8, b"\1"), raw_kv(b"k", T.INT8, b"\1")]),
        "key 'k' appears twice",
    ),
    "an unknown value type": (kv(13, b"\1"), "key 'some.key' has a value of unknown type 13"),
    "an unknown item type": (kv(T.ARRAY, raw_array(99, [])), "unknown type 99"),
    "a huge string": (kv(T.STRING, U64(HUGE)), f"claims a string of {HUGE} bytes"),
    "a string just too long": (kv(T.STRING, U64(1 << 20)), "claims a string of 1048576 bytes"),
    "a huge array": (kv(T.ARRAY, U32(T.UINT8) + U64(HUGE)), f"claims {HUGE} items"),
    "an array just too long": (kv(T.ARRAY, U32(T.UINT64) + U64(1000)), "claims 1000 items"),
    "many strings": (kv(T.ARRAY, U32(T.STRING) + U64(1 << 40)), f"claims {1 << 40} items"),
    "a huge string in an array": (
        kv(T.ARRAY, raw_array(T.STRING, [U64(HUGE)])),
        "a string runs past the end of the file",
    ),
    "many nested arrays": (kv(T.ARRAY, U32(T.ARRAY) + U64(1 << 40)), f"claims {1 << 40} items"),
    "deep arrays": (kv(T.ARRAY, nested(9)), "nests arrays deeper than 8"),
    "alignment 0": (aligned(T.UINT32, U32(0)), "general.alignment is 0, must be a power of two"),
    "alignment 3": (aligned(T.UINT32, U32(3)), "general.alignment is 3, must be a power of two"),
    "alignment 48": (aligned(T.UINT32, U32(48)), "general.alignment is 48"),
    "alignment 2 GiB": (aligned(T.UINT32, U32(1 << 31)), "ends before its tensor data starts"),
    "alignment as UINT64": (aligned(T.UINT64, U64(32)), "is UINT64, must be UINT32"),
    "alignment as an array": (
        aligned(T.ARRAY, raw_array(T.UINT32, [U32(32)])),
        "is ARRAY[UINT32, 1], must be UINT32",
    ),
    "a name of 64 bytes": (
        table(raw_tensor(b"n" * 64, [1])),
        "a tensor name at byte 24 is 64 bytes long, at most 63 fit",
    ),
    "5 dimensions": (
        table(raw_tensor(b"a", [1] * 5)),
        "tensor 'a' has 5 dimensions, at most 4 fit",
    ),
    "2^32 - 1 dimensions": (
        counts(1, 0)[:24] + raw_string(b"a") + U32((1 << 32) - 1),
        "has 4294967295 dimensions",
    ),
    "a dimension of -1": (table(raw_tensor(b"a", [HUGE])), "more weights than can be counted"),
    "a negative dimension times 0": (
        table(raw_tensor(b"a", [HUGE, 0])),
        "more weights than can be counted",
    ),
    "dimensions that wrap to 0": (
        table(raw_tensor(b"a", [1 << 32, 1 << 32])),
        "tensor 'a' claims more weights than can be counted",
    ),
    "bytes that wrap": (table(raw_tensor(b"a", [1 << 62])), "more weights than can be counted"),
    "an exabyte": (table(raw_tensor(b"a", [1 << 58])), "it is incomplete"),
    "a row of half a block": (
        table(raw_tensor(b"a", [48, 2], Q4_0)),
        "tensor 'a' has rows of 48 weights, Q4_0 needs multiples of 32",
    ),
    "no dimensions, in blocks": (table(raw_tensor(b"a", [], Q4_0)), "has rows of 1 weights"),
    "an unaligned offset": (
        table(raw_tensor(b"a", [1], offset=4)),
        "tensor 'a' has offset 4, not a multiple of 32",
    ),
    "an offset past the end": (table(raw_tensor(b"a", [1], offset=96)), "it is incomplete"),
    "an offset that wraps": (
        table(raw_tensor(b"a", [1], offset=(1 << 64) - 32)),
        "it is incomplete",
    ),
    "an unknown type past the end": (
        table(raw_tensor(b"a", [1], UNKNOWN_TYPE, 96)),
        "it is incomplete",
    ),
    "data one byte short": (table(raw_tensor(b"a", [16]))[:-1], "it is incomplete"),
    "the same name up to a NUL": (
        table(raw_tensor(b"a\0b", [1]), raw_tensor(b"a\0c", [1], offset=32)),
        "appears twice in the table",
    ),
    "the same name twice": (
        table(raw_tensor(b"a", [1]), raw_tensor(b"a", [1], offset=32)),
        "tensor 'a' appears twice in the table",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(scratch: Path, damage: str) -> None:
    """Each kind of damage has its own message, with the file's name, and costs no memory."""
    content, message = DAMAGE[damage]
    scratch.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidGGUF) as e:
            HeaderReader(scratch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(e.value).startswith("m.gguf: ")
    assert message in str(e.value)
    assert peak < 4 << 20


ESCAPE = b"\x1b[2J\x07\xc2\x9b\xe2\x80\xae\xff\n"


@pytest.mark.parametrize(
    "content",
    [
        raw_file([raw_kv(ESCAPE, T.UINT8, b"\1")] * 2),
        kv(13, b"", ESCAPE),
        kv(T.STRING, U64(HUGE), ESCAPE),
        kv(T.ARRAY, U32(T.UINT8) + U64(HUGE), ESCAPE),
        kv(T.ARRAY, raw_array(T.STRING, [U64(HUGE)]), ESCAPE),
        kv(T.ARRAY, nested(9), ESCAPE),
        table(raw_tensor(ESCAPE, [1] * 5)),
        table(raw_tensor(ESCAPE, [1]), raw_tensor(ESCAPE, [1], offset=32)),
        table(raw_tensor(ESCAPE, [HUGE])),
        table(raw_tensor(ESCAPE, [48], Q4_0)),
        table(raw_tensor(ESCAPE, [1], offset=4)),
        table(raw_tensor(ESCAPE, [99])),
        ESCAPE + bytes(30),
    ],
)
def test_messages_have_no_control_characters(tmp_path: Path, content: bytes) -> None:
    """No control character of a key, a tensor or the file's name gets into a message."""
    path = tmp_path / "a\x1b[31mb.gguf"
    with pytest.raises(InvalidGGUF) as e:
        opened(path, content)
    assert str(e.value).isprintable()
    assert "\\x1b[" in str(e.value)


def test_messages_are_short(scratch: Path) -> None:
    """A name of 60 KB is cut where it is shown."""
    with pytest.raises(InvalidGGUF) as e:
        opened(scratch, raw_file([raw_kv(b"k" * 60_000, T.UINT8, b"\1")] * 2))
    assert len(str(e.value)) < 400


def test_what_is_not_a_regular_file_is_invalid(tmp_path: Path) -> None:
    """A folder, a missing file and a pipe are refused, without waiting for a writer."""
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("", "not a regular file"),
        ("none", "No such file"),
        ("pipe", "regular"),
    ):
        with pytest.raises(InvalidGGUF, match=message):
            HeaderReader(tmp_path / name)


def sparse(path: Path, n_bytes: int, parts: dict[int, bytes]) -> Path:
    """A file of zeros with something at these places; it takes next to no room."""
    with path.open("wb") as file:
        for at, content in parts.items():
            file.seek(at)
            file.write(content)
        file.truncate(n_bytes)
    return path


def test_a_million_nested_arrays_are_refused(tmp_path: Path) -> None:
    """Zeros are empty arrays of bytes; walking millions of them would take minutes."""
    head = counts(0, 1)[:24] + raw_string(b"k") + U32(T.ARRAY) + U32(T.ARRAY) + U64(1 << 21)
    path = sparse(tmp_path / "m.gguf", len(head) + 12 * (1 << 21), {0: head})
    with pytest.raises(InvalidGGUF, match="key 'k'"):
        HeaderReader(path)


def test_metadata_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    """Four thousand values of 64 KB each would fit in memory one by one, not together."""
    step, n = 1 << 16, 4_000
    heads = [raw_string(b"%d" % k) + U32(T.STRING) for k in range(n)]
    kvs = {24 + k * step: head + U64(step - len(head) - 8) for k, head in enumerate(heads)}
    path = sparse(tmp_path / "m.gguf", 24 + n * step, {0: counts(0, n)[:24]} | kvs)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidGGUF, match="metadata"):
            HeaderReader(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20


def test_a_string_longer_than_llama_cpp_takes_is_invalid(tmp_path: Path) -> None:
    """The same holds inside an array, if the file is large enough."""
    path = tmp_path / "m.gguf"
    array = U32(T.STRING) + U64(2) + U64(3) + b"abc" + U64((1 << 30) + 1)
    path.write_bytes(kv(T.ARRAY, array))
    os.truncate(path, 2 << 30)
    with pytest.raises(InvalidGGUF, match=f"claims a string of {(1 << 30) + 1} bytes"):
        HeaderReader(path)


def test_nameless_tensors_in_a_hole_are_refused_in_good_time(tmp_path: Path) -> None:
    """Zeros parse as tensors, as many as the header claims; found by fuzzing."""
    path = tmp_path / "m.gguf"
    path.write_bytes(counts(16_384, 0)[:24])
    os.truncate(path, 1 << 24)
    began = time.process_time()
    with pytest.raises(InvalidGGUF, match="tensor '' appears twice in the table"):
        HeaderReader(path)
    assert time.process_time() - began < 60
