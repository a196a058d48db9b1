"""Check that an sdist holds every file of the project, and a wheel every file of the package.

usage: python scripts/check_dist.py FOLDER     (with one .tar.gz and one .whl)

What counts as a file of the project is what git tracks in this checkout.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
# Of use in a checkout only.
LEFT_OUT = {".gitignore"}


def tracked() -> set[str]:
    """The files of the project, as paths from its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()} - LEFT_OUT


def missing(folder: Path) -> list[str]:
    """What the two archives in `folder` lack."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = [PurePosixPath(name) for name in archive.getnames()]
    in_sdist = {str(PurePosixPath(*name.parts[1:])) for name in names}
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    wanted = tracked()
    package = {name for name in wanted if name.startswith("rys_gguf/")}
    faults = [f"{sdist.name} lacks {name}" for name in sorted(wanted - in_sdist)]
    faults += [f"{wheel.name} lacks {name}" for name in sorted(package - in_wheel)]
    foreign = {name.split("/")[0] for name in in_wheel} - {"rys_gguf"}
    faults += [
        f"{wheel.name} holds {name}" for name in sorted(foreign) if not name.endswith(".dist-info")
    ]
    return faults


def main() -> None:
    """Print what is missing; exit code 1 if anything is."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - one argument
        sys.exit(__doc__)
    if faults := missing(Path(sys.argv[1])):
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
