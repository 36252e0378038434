"""The content of the source bucket, as one LIST returned it, grouped by user and bundle. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.keys import IMAGE_EXTENSIONS, Bundle, Ignored, classify, newest_image
from shared.object_store import ObjectInfo

_LAST_EXTENSION = max(IMAGE_EXTENSIONS)


class ListedImage(NamedTuple):
    """A listed image; fields as in `ObjectInfo`."""

    key: str
    last_modified: int
    etag: str


class UserFiles(NamedTuple):
    """The files of one user: whether it has a CSV, and its current image."""

    has_csv: bool
    image: ListedImage | None


@dataclass(slots=True)
class Listing:
    """Listed objects, grouped by kind.

    `csvs`: user ID to ETag. `images`: user ID to all its images. `bundles`: key to object.
    `ignored`: key to reason and LastModified of the first `shown` keys that are neither a user file
      nor a bundle; `ignored_total` counts all of them. `objects` counts all listed objects.
    """

    shown: int = 0
    csvs: dict[str, str] = field(default_factory=dict)
    images: dict[str, list[ListedImage]] = field(default_factory=dict)
    bundles: dict[str, ObjectInfo] = field(default_factory=dict)
    ignored: dict[str, tuple[str, int]] = field(default_factory=dict)
    ignored_total: int = 0
    objects: int = 0

    def add(self, objects: Iterable[ObjectInfo]) -> None:
        """Add a batch of listed objects."""
        for found in objects:
            self.objects += 1
            file = classify(found.key)
            if isinstance(file, Ignored):
                self._ignore(found, file.reason)
            elif isinstance(file, Bundle):
                self.bundles[found.key] = found
            elif file.is_csv:
                self.csvs[file.user_id] = found.etag
            else:
                image = ListedImage(found.key, found.last_modified, found.etag)
                self.images.setdefault(file.user_id, []).append(image)

    def _ignore(self, found: ObjectInfo, reason: str) -> None:
        self.ignored_total += 1
        if len(self.ignored) < self.shown:
            self.ignored[found.key] = (reason, found.last_modified)

    def image(self, user_id: str) -> ListedImage | None:
        """Return the user's current image; None without any."""
        images = self.images.get(user_id, ())
        newest = newest_image((image.key, image.last_modified) for image in images)
        return next((image for image in images if image.key == newest), None)

    def take_complete(self, last_key: str) -> Mapping[str, UserFiles]:
        """Remove and return the users for which a LIST that has reached `last_key` is complete.

        LIST returns keys in ascending order. So all files of a user are listed once `last_key` is
        not less than the user's greatest possible key.
        """
        users = [user for user in self.csvs.keys() | self.images.keys() if f"{user}.{_LAST_EXTENSION}" <= last_key]
        complete = {user: UserFiles(user in self.csvs, self.image(user)) for user in users}
        for user in users:
            self.csvs.pop(user, None)
            self.images.pop(user, None)
        return complete
