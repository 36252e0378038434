"""The source bucket as one LIST saw it, sorted to its users.  Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shared.keys import IMAGE_EXTENSIONS, Ignored, classify, newest_image
from shared.object_store import ObjectInfo

_LAST_EXTENSION = max(IMAGE_EXTENSIONS)


@dataclass(slots=True)
class Listing:
    """Which users have a CSV (with its ETag), their images as (key, LastModified in s), and what is nobody's file.

    `ignored` has the reason and LastModified of the first `shown` such keys; all are counted in `ignored_total`.
    """

    shown: int = 0
    csvs: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    ignored: dict[str, tuple[str, int]] = field(default_factory=dict)
    ignored_total: int = 0
    objects: int = 0

    def add(self, objects: Iterable[ObjectInfo]) -> None:
        """Sort listed objects to their users."""
        for found in objects:
            self.objects += 1
            file = classify(found.key)
            if isinstance(file, Ignored):
                self._ignore(found, file.reason)
            elif file.is_csv:
                self.csvs[file.user_id] = found.etag
            else:
                self.images.setdefault(file.user_id, []).append((found.key, found.last_modified))

    def _ignore(self, found: ObjectInfo, reason: str) -> None:
        self.ignored_total += 1
        if len(self.ignored) < self.shown:
            self.ignored[found.key] = (reason, found.last_modified)

    def image(self, user_id: str) -> str | None:
        """The key of the user's image that counts."""
        return newest_image(self.images.get(user_id, ()))

    def take_complete(self, last_key: str) -> Mapping[str, tuple[bool, str | None]]:
        """Take out the users of whom a LIST that has come to `last_key` tells nothing more: has a CSV?, image."""
        users = [user for user in self.csvs.keys() | self.images.keys() if f"{user}.{_LAST_EXTENSION}" <= last_key]
        complete = {user: (user in self.csvs, self.image(user)) for user in users}
        for user in users:
            self.csvs.pop(user, None)
            self.images.pop(user, None)
        return complete
