"""Copy images to `images/` in the output bucket: those of bundles, and with IMAGES=copy all.

The server copies; no bytes pass through this process. A read makes the copy before it submits its
result, so a copy may be newer than the published row. As reads race, it may also be older for a
moment: if the result of a read that copied is refused, SUBMIT RESULTS marks the user to be read
again. The publisher deletes copies that no row names any more.
"""

from collections.abc import Collection
from dataclasses import dataclass

from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.source_keys import IMAGE_EXTENSIONS
from shared.object_store import (
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    StoreUnavailable,
)
from worker.bundles.index import UnpackedImage

MAX_LISTED_PER_USER = 5
"""Listed copies per requested user above which a request per copy is cheaper than the LIST."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The image that counts for a user: `image` and `image_source` as in `ReadResult`.

    With an `image_source`, `image` is a copy of the object `original_key` in `original_bucket`.
    `original_etag` is the ETag of that object, empty if it is not known. `bundle_key` is the key of
    the bundle from which the object was unpacked, empty for an own image.
    """

    image: str
    image_source: str = ""
    original_bucket: str = ""
    original_key: str = ""
    original_etag: str = ""
    bundle_key: str = ""


def make_image_copy_key(user_id: str, extension: str) -> str:
    """Return the key of the copy of a user's image with this extension."""
    return f"{IMAGES_FOLDER}/{user_id}.{extension}"


def is_copy(copy: ObjectInfo, etag: str, last_modified: int) -> bool:
    """Return whether `copy` is a copy of the object with this ETag and LastModified.

    Pure. `last_modified`: LastModified in whole seconds. The ETag of a multipart upload ("-" in it)
    is not an MD5, and its copy has another one: then a copy that is not older than the object
    counts.
    """
    return copy.etag == etag or ("-" in etag and copy.last_modified >= last_modified)


class ImageCopies:
    """Makes copies of images in `output`.

    These are the images of bundles; with `all_images`, those in `source` too.
    """

    def __init__(self, source: ObjectStore, output: ObjectStore, *, all_images: bool) -> None:
        self._source = source
        self._output = output
        self._all_images = all_images

    def make_own_ref(self, key: str, etag: str = "") -> ImageRef:
        """Return the reference to a user's own image, under this key of the source bucket."""
        if not self._all_images:
            return ImageRef(key)
        # The copy of a multipart upload ("-") has another ETag, so the ETag is treated as unknown.
        return ImageRef(
            f"{IMAGES_FOLDER}/{key}", key, self._source.bucket, key, "" if "-" in etag else etag
        )

    def make_bundle_ref(self, user_id: str, unpacked: UnpackedImage) -> ImageRef:
        """Return the reference to a user's image in a bundle."""
        image = make_image_copy_key(user_id, unpacked.extension)
        return ImageRef(
            image,
            unpacked.source,
            self._output.bucket,
            unpacked.key,
            unpacked.etag,
            unpacked.bundle_key,
        )

    def list_copies(self, user_ids: Collection[str]) -> dict[str, ObjectInfo] | None:
        """LIST the copies of these users and of all users between them in key order.

        Returns None if there are too many between them (`MAX_LISTED_PER_USER`).
        """
        start_after = f"{IMAGES_FOLDER}/{min(user_ids)}"
        last_key = make_image_copy_key(max(user_ids), max(IMAGE_EXTENSIONS)).encode()
        copies: dict[str, ObjectInfo] = {}
        for page in self._output.list_objects(start_after, IMAGES_FOLDER):
            copies.update((info.key, info) for info in page)
            # Keys are listed in order, so all requested copies have been listed.
            if page[-1].key.encode() >= last_key:
                break
            if len(copies) > MAX_LISTED_PER_USER * len(user_ids):
                return None
        return copies

    def find_copies(self, user_id: str) -> tuple[str, ...]:
        """Return the keys of the existing copies of a user's images.

        Raises `StoreUnavailable`.
        """
        return tuple(
            key
            for key in (make_image_copy_key(user_id, extension) for extension in IMAGE_EXTENSIONS)
            if self._output.exists(key)
        )

    def make_copy(self, image: ImageRef, existing: ObjectInfo | None) -> bool:
        """Make the copy unless `existing`, the object under its key, is up to date.

        Returns whether a copy was made. Raises `ObjectNotFound` if the image does not exist any
        more, `ObjectUnreadable` if it cannot be read, or `StoreUnavailable`.
        """
        if existing and self._is_current(image, existing):
            return False
        try:
            self._output.copy_from(image.original_bucket, image.original_key, image.image)
        except ObjectUnreadable as error:
            store = self._source if image.original_bucket == self._source.bucket else self._output
            store.check_readable(image.original_key)
            # The image is readable, so the copy failed for another reason, such as a quota: retry.
            raise StoreUnavailable(str(error)) from error
        return True

    def get_copy_info(self, image: ImageRef) -> ObjectInfo | None:
        """Return the object under the key of the copy now, or None.

        None also stands for an object that cannot be read: it is to be replaced.
        """
        try:
            return self._output.get_info(image.image)
        except ObjectUnreadable:
            return None

    def _is_current(self, image: ImageRef, existing: ObjectInfo) -> bool:
        if image.original_etag:
            return existing.etag == image.original_etag
        info = self._source.get_info(image.original_key)
        if info is None:
            raise ObjectNotFound(image.original_key)
        return is_copy(existing, info.etag, info.last_modified)
