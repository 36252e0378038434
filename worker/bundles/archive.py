"""Open an archive of any supported type."""

from collections.abc import Iterator
from typing import Protocol

from worker.bundles.members import Member
from worker.bundles.tar_archive import TarArchive
from worker.bundles.zip_archive import ZipArchive
from worker.source.ranged_file import RangedFile


class Archive(Protocol):
    """An archive that can be iterated once."""

    member_count: int | None
    """Number of members; None if it is unknown before the end of the archive."""

    def members(self) -> Iterator[Member]:
        """Yield the files, without folders and without metadata files of file managers.

        Raises `InvalidArchive` at any member.
        """


def open_archive(key: str, file: RangedFile) -> Archive:
    """Open the archive that has this key; the extension selects the format.

    Raises `InvalidArchive`, and what reading the file raises.
    """
    return ZipArchive(file) if key.endswith(".zip") else TarArchive(file)
