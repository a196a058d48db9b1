"""What belongs to a model, made to fit a variant of it: adapters, matrices, vectors, drafters.

Nothing of a file is computed again but what a damped layer makes smaller: values are copied under
the numbers that their layers have in the variant.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from gguf.constants import GGUFValueType

from rys_gguf.errors import Refused
from rys_gguf.files.output import OutputFile
from rys_gguf.files.source import Progress, SourceFile
from rys_gguf.formats.header import KV, Header, Span
from rys_gguf.formats.model import Model
from rys_gguf.formats.old_imatrix import Entry, OldImatrix
from rys_gguf.formats.other_files import Kind, kind_at_a_glance, kind_of
from rys_gguf.formats.shards import Shards
from rys_gguf.layers.layer_map import LABEL
from rys_gguf.patch.naming import companion_output
from rys_gguf.patch.plan import PlannedFile
from rys_gguf.patch.provenance import REMAPPED_KEY
from rys_gguf.patch.remap import Known, Variant, remap
from rys_gguf.patch.tensors import layout
from rys_gguf.patch.writer import write_files
from rys_gguf.text import printable, quoted

# What goes by no layer's number.
_FITS = {
    Kind.MMPROJ: "a multimodal projector knows no layer of the language model",
    Kind.VOCABULARY: "a vocabulary knows no layer",
}
# A folder with more is not looked through: a note is not worth the time.
_MOST_FILES = 500


class Companion:
    """A file that belongs to the source of a variant, and what it is for the variant.

    Use it as a context manager. `notes` are for the user. `fits` says why the file is right for the
    variant as it is; it is empty for one that has to be written.

    Raises InvalidGGUF for a file that cannot be read, Refused for one that is not of the source.
    """

    def __init__(self, path: str | os.PathLike[str], variant: Variant) -> None:
        self.path = Path(path)
        self._variant = variant
        self._file = _open(self.path)
        try:
            self._plan()
        except Refused as e:
            self.close()
            raise Refused(f"{self.name}: {e}") from e
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Companion:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def name(self) -> str:
        """The file's name, safe to print."""
        return printable(self.path.name)

    @property
    def default_output(self) -> Path:
        """A path beside the file, named as the variant is."""
        return companion_output(self.path, self._variant.layer_map)

    @property
    def n_bytes(self) -> int:
        """Size of the output."""
        if isinstance(self._planned, PlannedFile):
            return self._planned.n_bytes
        return sum(p.n_bytes if isinstance(p, Span) else len(p) for p in self._planned)

    def write(
        self,
        path: Path,
        *,
        force: bool = False,
        progress: Progress = lambda _: None,
        may_be_link: bool = True,
    ) -> None:
        """Write the companion of the variant, as safely as any output.

        Raises OutputFailed if it cannot be written; nothing is left behind then.
        """
        if isinstance(self._file, Shards):
            assert isinstance(self._planned, PlannedFile)
            write_files(
                self._file, [self._planned], [path], force=force, progress=progress,
                may_be_link=may_be_link,
            )  # fmt: skip
            return
        assert not isinstance(self._planned, PlannedFile)
        inputs = (self._file.file,)
        with OutputFile(path, inputs, self.n_bytes, force=force, may_be_link=may_be_link) as out:
            for piece in self._planned:
                if isinstance(piece, Span):
                    out.copy(self._file.file, piece.offset, piece.n_bytes, progress)
                else:
                    out.write(piece)
                    progress(len(piece))
            self._file.file.require_unchanged()
            out.commit()

    def _plan(self) -> None:
        self.fits = ""
        self._planned: PlannedFile | tuple[bytes | Span, ...] = ()
        if isinstance(self._file, OldImatrix):
            self.kind = Kind.IMATRIX
            self._planned, self.notes = _old_imatrix(self._file, self._variant)
            return
        header = self._file.header
        kind = kind_of(header)
        if kind is None:
            raise Refused(
                "is a model of its own and names no layer of another: it works with a variant as "
                "it does with its source"
            )
        self.kind = kind
        self.fits, self.notes = _FITS.get(kind, ""), ()
        if not self.fits:
            self._planned, self.notes = _planned(self._file, kind, self._variant)


def _open(path: Path) -> Shards | OldImatrix:
    with SourceFile(path) as file:
        is_gguf = file.n_bytes >= 4 and file.read(0, 4) == b"GGUF"  # noqa: PLR2004 - the magic
    return Shards(path) if is_gguf else OldImatrix(path)


def _planned(file: Shards, kind: Kind, variant: Variant) -> tuple[PlannedFile, tuple[str, ...]]:
    old = file.header
    if issues := old.offset_issues():
        raise Refused(issues[0])
    if done := old.get(REMAPPED_KEY):
        shown = quoted(str(done.value)) if done.type == GGUFValueType.STRING else "another map"
        raise Refused(f"was remapped before, by {shown}; give the file that belongs to the source")
    found = remap(kind, file, variant)
    spec = variant.layer_map.spec
    record = KV.of(REMAPPED_KEY, GGUFValueType.STRING, spec, byteorder=old.byteorder)
    tensors = layout(found.tensors, old.alignment)
    if not tensors:
        raise Refused(f"has nothing for the layers of {variant.model.name}")
    infos = tuple(t.target for t in tensors)
    header = Header(old.version, old.byteorder, (*found.kvs, record), infos)
    return PlannedFile(header, tensors), found.notes


def _old_imatrix(
    file: OldImatrix, variant: Variant
) -> tuple[tuple[bytes | Span, ...], tuple[str, ...]]:
    known = Known(variant)
    entries: list[tuple[str, Entry]] = []
    for entry in file.entries:
        entries += ((out, entry) for out in known.weights(entry.name, entry.n_values))
    if not entries:
        raise Refused(f"has nothing for the layers of {variant.model.name}")
    return tuple(file.encode(sorted(entries, key=lambda e: e[0]))), known.notes()


# -- beside a model ------------------------------------------------------------------------------


def companions_beside(model: Model) -> tuple[str, ...]:
    """Names of files beside a model that go by its layers and will not fit a variant.

    Only names and first bytes are looked at, so a file of another model may be named. Those that
    were made for a variant have its label in their names.
    """
    folder = model.files[0].path.parent
    own = {file.path.name for file in model.files}
    names = []
    try:
        with os.scandir(folder) as entries:
            for n, entry in enumerate(entries):
                if n >= _MOST_FILES:
                    return ()
                if entry.name not in own and LABEL not in entry.name and entry.is_file():
                    names.append(entry.name)
    except OSError:
        return ()
    return tuple(n for n in sorted(names) if _goes_by_layers(folder / n, model.architecture))


def _goes_by_layers(path: Path, architecture: str) -> bool:
    if path.suffix not in (".gguf", ".dat", ".imatrix"):
        return False
    kind, of = kind_at_a_glance(path)
    if kind == Kind.LORA:
        return of == architecture
    return kind in (Kind.IMATRIX, Kind.CONTROL_VECTOR, Kind.DRAFT)
