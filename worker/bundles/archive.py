"""Open an archive of any supported type."""

from collections.abc import Iterator
from typing import Protocol

from worker.bundles.members import InvalidArchive, Member
from worker.bundles.tar_archive import TarArchive
from worker.bundles.zip_archive import ZipArchive
from worker.source.ranged_file import RangedFile


class Archive(Protocol):
    """An archive that can be iterated once."""

    member_count: int | None
    """Number of members; None if it is unknown before the end of the archive."""

    def members(self) -> Iterator[Member | None]:
        """Yield the files, without folders.

        None is a step without a file, so that a caller can limit the time of each step. Raises
        `InvalidArchive` at any member.
        """


def open_archive(key: str, file: RangedFile, zip_names: str = "") -> Archive:
    """Open the archive that has this key; the extension selects the format.

    `zip_names` is the codec of names that are not UTF-8; empty for no codec. Raises
    `InvalidArchive`, and what reading the file raises.
    """
    if file.size == 0:
        raise InvalidArchive(
            "it is empty: it has 0 bytes and no users; its upload may have failed, so repeat it"
        )
    if key.endswith(".zip"):
        return ZipArchive(file, zip_names=zip_names)
    return TarArchive(file, zip_names=zip_names)
