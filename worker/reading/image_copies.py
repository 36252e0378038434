"""Copy images to `images/` in the output bucket: those of bundles, and with IMAGES=copy all.

The server copies; no bytes pass through this process. A copy has the ETag of its image in its
metadata, because where objects are encrypted a copy has an ETag of its own. A read makes the copy
before it submits its result, so a copy may be newer than the published row. As reads race, it may
also be older for a moment: if the result of a read that copied is refused, SUBMIT RESULTS marks the
user to be read again. The publisher deletes copies that no row names any more.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.source_keys import IMAGE_EXTENSIONS
from shared.object_store import (
    LIST_PAGE_SIZE,
    ObjectInfo,
    ObjectNotFound,
    ObjectStore,
    ObjectUnreadable,
    PreconditionFailed,
    StoreUnavailable,
)
from worker.bundles.index import UnpackedImage

MAX_LISTED_PER_USER = 5
"""Listed copies per requested user above which a request per copy is cheaper than the LIST."""
MAX_COPY_ATTEMPTS = 3
"""Attempts at an image that is replaced between the look at its ETag and the copy."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The image that counts for a user: `image` and `image_source` as in `ReadResult`.

    With an `image_source`, `image` is a copy of the object `original_key` in `original_bucket`.
    `original_etag` is the ETag of that object, empty if it is not known. `bundle_key` is the key of
    the bundle from which the object was unpacked, empty for an own image. With it, `original_etag`
    is the MD5 of the image: an unpacked object never changes, and its own ETag is not recorded.
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

    Pure. The copy has the same ETag, if ETags are MD5s, or it was recorded with the ETag of its
    source. `last_modified`: LastModified in whole seconds. The ETag of a multipart upload ("-" in
    it) is not an MD5, and its copy has another one: then a copy that is not older than the object
    counts.
    """
    if etag and etag in {copy.etag, copy.source_etag}:
        return True
    return "-" in etag and copy.last_modified >= last_modified


def read_source_etags(
    output: ObjectStore,
    copies: Mapping[str, ObjectInfo],
    keys: Collection[str],
    before_request: Callable[[], None],
) -> dict[str, ObjectInfo]:
    """Return the copies with these keys, with their `source_etag`, which no ordinary LIST shows.

    `copies`: all copies, as a LIST has shown them. Sends one HEAD per key, or one LIST of all of
    them if it needs fewer requests. Raises `StoreUnavailable`.
    """
    infos = {key: copies[key] for key in keys}
    if len(keys) > 1 + len(copies) // LIST_PAGE_SIZE:
        for page in output.list_objects(folder=IMAGES_FOLDER, with_source_etags=True):
            before_request()
            infos.update((info.key, info) for info in page if info.key in infos)
    # Only MinIO shows metadata in a LIST.
    for key, info in infos.items():
        if not info.source_etag:
            before_request()
            with suppress(ObjectUnreadable):  # not a copy that Rowdrop could have made
                infos[key] = output.get_info(key) or info
    return infos


class ImageCopies:
    """Makes copies of images in `output`.

    These are the images of bundles; with `all_images`, those in `source` too.

    The first copy of an image of each bucket shows whether copies keep its ETag, as they do unless
    objects are encrypted. If so, further copies are made in the faster way, which records nothing.
    A copy that proves to have another ETag all the same is made again, and recorded.
    """

    def __init__(self, source: ObjectStore, output: ObjectStore, *, all_images: bool) -> None:
        self._source = source
        self._output = output
        self._all_images = all_images
        self._buckets_with_equal_etags = set[str]()

    def make_own_ref(self, key: str, etag: str = "") -> ImageRef:
        """Return the reference to a user's own image, under this key of the source bucket."""
        if not self._all_images:
            return ImageRef(key)
        # Of a multipart upload ("-") LastModified may be needed as well: see `is_copy`.
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
        if existing is None and image.original_bucket in self._buckets_with_equal_etags:
            self._copy(image, "")
            return True
        for _ in range(MAX_COPY_ATTEMPTS):
            original = self._get_original_info(image)
            if existing and self._is_current(image, original, existing):
                return False
            try:
                self._copy(image, original.etag)
            except PreconditionFailed:
                image = replace(image, original_etag="")  # it was replaced: look again
            else:
                return True
        raise StoreUnavailable(f"{image.original_key} is replaced again and again")

    def _copy(self, image: ImageRef, original_etag: str) -> None:
        try:
            etag = self._output.copy_from(
                image.original_bucket,
                image.original_key,
                image.image,
                original_etag,
                # Otherwise the recorded ETag could be that of another version.
                if_match=bool(original_etag) and not image.bundle_key,
            )
        except ObjectUnreadable as error:
            store = self._source if image.original_bucket == self._source.bucket else self._output
            store.check_readable(image.original_key)
            # The image is readable, so the copy failed for another reason, such as a quota: retry.
            raise StoreUnavailable(str(error)) from error
        if original_etag and etag == original_etag:
            self._buckets_with_equal_etags.add(image.original_bucket)
        elif original_etag and "-" not in original_etag:
            self._buckets_with_equal_etags.discard(image.original_bucket)

    def get_copy_info(self, image: ImageRef) -> ObjectInfo | None:
        """Return the object under the key of the copy now, or None.

        None also stands for an object that cannot be read: it is to be replaced.
        """
        try:
            return self._output.get_info(image.image)
        except ObjectUnreadable:
            return None

    def _get_original_info(self, image: ImageRef) -> ObjectInfo:
        if image.original_etag:
            return ObjectInfo(image.original_key, image.original_etag, 0, 0)
        info = self._source.get_info(image.original_key)
        if info is None:
            raise ObjectNotFound(image.original_key)
        return info

    def _is_current(self, image: ImageRef, original: ObjectInfo, existing: ObjectInfo) -> bool:
        if is_copy(existing, original.etag, original.last_modified):
            return True
        # `existing` may be from a LIST, which does not show the recorded ETag.
        looked_up = None if existing.source_etag else self.get_copy_info(image)
        return looked_up is not None and is_copy(looked_up, original.etag, original.last_modified)
