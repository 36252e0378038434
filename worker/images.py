"""Images that are copied to `images/` in the output bucket: those of bundles, and with IMAGES=copy all of them.

The server copies; no bytes come here.  A reading makes the copy before it hands in what it has read.  So a copy may be
younger than the published row, and, as readings may overtake each other, for a moment older: a reading that has copied
and is refused has its user read again (see STAGE).  The publisher deletes copies that no row names any more.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shared.keys import IMAGE_EXTENSIONS
from shared.object_store import ObjectInfo, ObjectNotFound, ObjectStore, ObjectUnreadable, StoreUnavailable
from shared.published import IMAGES
from worker.bundles import FoundImage

MOST_BETWEEN = 5
"""So many copies for each user that is asked for make a LIST more expensive than asking for each."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The image that counts: `image` and `image_source` as in `Outcome`.

    If there is a source, the image is a copy of `key` in `bucket`, which has this ETag (empty: not known); `bundle` is
    the bundle that it was unpacked from, if it was.
    """

    image: str
    image_source: str = ""
    bucket: str = ""
    key: str = ""
    etag: str = ""
    bundle: str = ""


def copy_key(user_id: str, extension: str) -> str:
    """Where the copy of a user's image with this extension is."""
    return f"{IMAGES}/{user_id}.{extension}"


def is_copy(copy: ObjectInfo, etag: str, since: int) -> bool:
    """Whether it is a copy of the object with this ETag and LastModified (whole seconds).  Pure.

    The ETag of what was uploaded in parts ("-" in it) is no MD5, and a copy has another one: then its age must tell.
    """
    return copy.etag == etag or ("-" in etag and copy.last_modified >= since)


class Copies:
    """Makes copies in `output`; with `all_images` of those in `source`, too."""

    def __init__(self, source: ObjectStore, output: ObjectStore, *, all_images: bool) -> None:
        self._source, self._output, self._all = source, output, all_images

    def own(self, key: str, etag: str = "") -> Picture:
        """A user's own image, under this key of the source bucket."""
        if not self._all:
            return Picture(key)
        return Picture(f"{IMAGES}/{key}", key, self._source.bucket, key, "" if "-" in etag else etag)

    def of_bundle(self, user_id: str, found: FoundImage) -> Picture:
        """A user's image in a bundle."""
        image = copy_key(user_id, found.extension)
        return Picture(image, found.source, self._output.bucket, found.key, found.etag, found.bundle)

    def there(self, user_ids: Collection[str]) -> dict[str, ObjectInfo] | None:
        """The copies of these users, and of those between them, by one LIST; None if there are many between them."""
        first, last = f"{IMAGES}/{min(user_ids)}", copy_key(max(user_ids), max(IMAGE_EXTENSIONS)).encode()
        found: dict[str, ObjectInfo] = {}
        for page in self._output.objects(first, IMAGES):
            found.update((info.key, info) for info in page)
            if page[-1].key.encode() >= last:
                break
            if len(found) > MOST_BETWEEN * len(user_ids):
                return None
        return found

    def lying_there(self, user_id: str) -> tuple[str, ...]:
        """The copies that there are of this user's images.  Raises `StoreUnavailable`."""
        return tuple(key for key in (copy_key(user_id, ext) for ext in IMAGE_EXTENSIONS) if self._output.exists(key))

    def make(self, picture: Picture, there: ObjectInfo | None) -> bool:
        """Have the copy there, where `there` is now; False if it was right already.

        Raises `ObjectNotFound` when the image is gone, `ObjectUnreadable` when it cannot be read, `StoreUnavailable`.
        """
        if there and self._is_right(picture, there):
            return False
        try:
            self._output.copy_from(picture.bucket, picture.key, picture.image)
        except ObjectUnreadable as error:
            store = self._source if picture.bucket == self._source.bucket else self._output
            store.check_readable(picture.key)
            # The image can be read, so the copy was refused for another reason, such as a quota.
            raise StoreUnavailable(str(error)) from error
        return True

    def look(self, picture: Picture) -> ObjectInfo | None:
        """What is there now in the place of the copy; None, too, for what cannot be read, and is to be replaced."""
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
