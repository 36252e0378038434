"""The content of the source bucket, as one LIST returned it, grouped by user and bundle. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.formats.source_keys import (
    IMAGE_EXTENSIONS,
    Bundle,
    IgnoredFile,
    classify_key,
    select_newest_image,
)
from shared.object_store import ObjectInfo

_LAST_EXTENSION = max(IMAGE_EXTENSIONS)


class ListedImage(NamedTuple):
    """A listed image; fields as in `ObjectInfo`."""

    key: str
    last_modified: int
    etag: str


class ListedFiles(NamedTuple):
    """The files of one user: whether it has a CSV, and its current image."""

    has_csv: bool
    image: ListedImage | None


@dataclass(slots=True)
class Listing:
    """Listed objects, grouped by kind.

    `csv_etags`: user ID to ETag. `images`: user ID to all its images. `bundles`: key to object.
    `ignored`: key to reason and LastModified of the first `max_ignored` keys that are neither a
      user file nor a bundle; `ignored_count` counts all of them. `objects` counts all listed
      objects.
    """

    max_ignored: int = 0
    csv_etags: dict[str, str] = field(init=False, default_factory=dict)
    images: dict[str, list[ListedImage]] = field(init=False, default_factory=dict)
    bundles: dict[str, ObjectInfo] = field(init=False, default_factory=dict)
    ignored: dict[str, tuple[str, int]] = field(init=False, default_factory=dict)
    ignored_count: int = field(init=False, default=0)
    object_count: int = field(init=False, default=0)

    def add_objects(self, objects: Iterable[ObjectInfo]) -> None:
        """Add a batch of listed objects."""
        for info in objects:
            self.object_count += 1
            file = classify_key(info.key)
            if isinstance(file, IgnoredFile):
                self._add_ignored(info, file.reason)
            elif isinstance(file, Bundle):
                self.bundles[info.key] = info
            elif file.is_csv:
                self.csv_etags[file.user_id] = info.etag
            else:
                image = ListedImage(info.key, info.last_modified, info.etag)
                self.images.setdefault(file.user_id, []).append(image)

    def _add_ignored(self, info: ObjectInfo, reason: str) -> None:
        self.ignored_count += 1
        if len(self.ignored) < self.max_ignored:
            self.ignored[info.key] = (reason, info.last_modified)

    def current_image(self, user_id: str) -> ListedImage | None:
        """Return the user's current image; None without any."""
        images = self.images.get(user_id, ())
        newest_key = select_newest_image((image.key, image.last_modified) for image in images)
        return next((image for image in images if image.key == newest_key), None)

    def pop_complete_users(self, last_key: str) -> Mapping[str, ListedFiles]:
        """Remove and return the users for which a LIST that has reached `last_key` is complete.

        LIST returns keys in ascending order. So all files of a user are listed once `last_key` is
        not less than the user's greatest possible key.
        """
        users = [
            user
            for user in self.csv_etags.keys() | self.images.keys()
            if f"{user}.{_LAST_EXTENSION}" <= last_key
        ]
        complete = {
            user: ListedFiles(user in self.csv_etags, self.current_image(user)) for user in users
        }
        for user in users:
            self.csv_etags.pop(user, None)
            self.images.pop(user, None)
        return complete
