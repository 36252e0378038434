"""Copies images to `images/` in the output bucket: those of bundles, and with IMAGES=copy all.

The server copies; no bytes pass through this process. A read makes the copy before it submits its
result, so a copy may be newer than the published row. As reads race, it may also be older for a
moment: if the result of a read that copied is refused, STAGE marks the user to be read again. The
publisher deletes copies that no row names any more.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shared.keys import IMAGE_EXTENSIONS
from shared.object_store import ObjectInfo, ObjectNotFound, ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.published import IMAGES
from worker.bundles import FoundImage

MOST_BETWEEN = 5
"""Listed copies per requested user above which a request per copy is cheaper than the LIST."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The image that counts for a user: `image` and `image_source` as in `Outcome`.

    With an `image_source`, `image` is a copy of the object `key` in `bucket`. `etag` is the ETag of
    that object, empty if it is not known. `bundle` is the key of the bundle from which the object
    was unpacked, empty for an own image.
    """

    image: str
    image_source: str = ""
    bucket: str = ""
    key: str = ""
    etag: str = ""
    bundle: str = ""


def copy_key(user_id: str, extension: str) -> str:
    """Return the key of the copy of a user's image with this extension."""
    return f"{IMAGES}/{user_id}.{extension}"


def is_copy(copy: ObjectInfo, etag: str, since: int) -> bool:
    """Return whether `copy` is a copy of the object with this ETag and LastModified.

    Pure. `since`: LastModified in whole seconds. The ETag of a multipart upload ("-" in it) is not
    an MD5, and its copy has another one: then a copy that is not older than the object counts.
    """
    return copy.etag == etag or ("-" in etag and copy.last_modified >= since)


class Copies:
    """Makes copies in `output`: of images in bundles; with `all_images`, of those in `source` too."""

    def __init__(self, source: ObjectStore, output: ObjectStore, *, all_images: bool) -> None:
        self._source, self._output, self._all = source, output, all_images

    def own(self, key: str, etag: str = "") -> Picture:
        """Return the reference to a user's own image, under this key of the source bucket."""
        if not self._all:
            return Picture(key)
        # The copy of a multipart upload ("-") has another ETag, so the ETag is treated as unknown.
        return Picture(f"{IMAGES}/{key}", key, self._source.bucket, key, "" if "-" in etag else etag)

    def of_bundle(self, user_id: str, found: FoundImage) -> Picture:
        """Return the reference to a user's image in a bundle."""
        image = copy_key(user_id, found.extension)
        return Picture(image, found.source, self._output.bucket, found.key, found.etag, found.bundle)

    def there(self, user_ids: Collection[str]) -> dict[str, ObjectInfo] | None:
        """LIST the copies of these users and of all users between them in key order.

        Returns None if there are too many between them (`MOST_BETWEEN`).
        """
        first, last = f"{IMAGES}/{min(user_ids)}", copy_key(max(user_ids), max(IMAGE_EXTENSIONS)).encode()
        found: dict[str, ObjectInfo] = {}
        for page in self._output.objects(first, IMAGES):
            found.update((info.key, info) for info in page)
            # Keys are listed in order, so all requested copies have been listed.
            if page[-1].key.encode() >= last:
                break
            if len(found) > MOST_BETWEEN * len(user_ids):
                return None
        return found

    def lying_there(self, user_id: str) -> tuple[str, ...]:
        """Return the keys of the existing copies of a user's images.

        Raises `StoreUnavailable`.
        """
        return tuple(key for key in (copy_key(user_id, ext) for ext in IMAGE_EXTENSIONS) if self._output.exists(key))

    def make(self, picture: Picture, there: ObjectInfo | None) -> bool:
        """Make the copy unless `there`, the object under its key now, is up to date.

        Returns whether a copy was made. Raises `ObjectNotFound` if the image does not exist any
        more, `ObjectUnreadable` if it cannot be read, or `StoreUnavailable`.
        """
        if there and self._is_right(picture, there):
            return False
        try:
            self._output.copy_from(picture.bucket, picture.key, picture.image)
        except ObjectUnreadable as error:
            store = self._source if picture.bucket == self._source.bucket else self._output
            store.check_readable(picture.key)
            # The image is readable, so the copy failed for another reason, such as a quota: retry.
            raise StoreUnavailable(str(error)) from error
        return True

    def look(self, picture: Picture) -> ObjectInfo | None:
        """Return the object under the key of the copy now, or None.

        None also stands for an object that cannot be read: it is to be replaced.
        """
        try:
            return self._output.info(picture.image)
        except ObjectUnreadable:
            return None

    def _is_right(self, picture: Picture, there: ObjectInfo) -> bool:
        if picture.etag:
            return there.etag == picture.etag
        info = self._source.info(picture.key)
        if info is None:
            raise ObjectNotFound(picture.key)
        return is_copy(there, info.etag, info.last_modified)
