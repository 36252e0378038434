"""Desired state of the published files, from LISTs and the bundle indexes. No file is read."""

from collections.abc import Mapping, Set
from typing import NamedTuple

import pandas as pd

from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.records import Buckets
from shared.formats.source_keys import UserFile, classify_key, make_bundle_id
from shared.object_store import ObjectInfo
from worker.bundles.index import locate_unpacked_image
from worker.bundles.lookup import BundleLookup
from worker.reading.image_copies import ImageCopies, ImageRef, is_copy
from worker.source.listing import ListedImage, Listing


class DesiredCopy(NamedTuple):
    """The image from which a copy is to be made.

    The user's ID, and ETag and LastModified of the image (whole seconds, UTC). It is 0 for an image
    in a bundle, which is identified by its ETag alone.
    """

    user_id: str
    etag: str
    last_modified: int


class DesiredState(NamedTuple):
    """The desired state of rows and image copies.

    `frame`: indexed by user ID, one row per user with a CSV. Columns: `etag` of the CSV, its
      `source` (empty for the user's own CSV), `img_path`. It also contains each rejected bundle, by
      its ID.
    `copies`: key in the output bucket to the image that it must be a copy of.
    """

    frame: pd.DataFrame
    copies: dict[str, DesiredCopy]

    def without_copies_of(self, user_ids: Set[str]) -> "DesiredState":
        """Return the same state without copies for these users. Pure.

        They have no row that could name a copy.
        """
        return self._replace(
            copies={key: copy for key, copy in self.copies.items() if copy.user_id not in user_ids}
        )

    def find_copies_with_other_etag(self, existing_copies: Mapping[str, ObjectInfo]) -> set[str]:
        """Return the keys of the copies of which the LIST does not show what they are. Pure.

        They have another ETag than their image, either because they are copies of another one, or
        because the server encrypts them.
        """
        return {
            key
            for key, copy in self.copies.items()
            if key in existing_copies
            and not is_copy(existing_copies[key], copy.etag, copy.last_modified)
        }

    def find_users_missing_copy(self, existing_copies: Mapping[str, ObjectInfo]) -> set[str]:
        """Return the users that lack their image copy or have one of another image. Pure."""
        missing = self.copies.keys() - existing_copies.keys()
        return {
            self.copies[key].user_id
            for key in missing | self.find_copies_with_other_etag(existing_copies)
        }

    def find_orphan_copies(self, existing_copies: Mapping[str, ObjectInfo]) -> dict[str, str]:
        """Return the orphaned copies: key to user ID of each copy that is not needed. Pure."""
        files = {
            key: classify_key(key.removeprefix(f"{IMAGES_FOLDER}/"))
            for key in existing_copies.keys() - self.copies.keys()
        }
        return {
            key: file.user_id
            for key, file in files.items()
            if isinstance(file, UserFile) and not file.is_csv
        }


def build_desired_state(
    listing: Listing, bundle_lookup: BundleLookup, image_copies: ImageCopies, buckets: Buckets
) -> DesiredState:
    """Return the desired state.

    A user's own CSV or image overrides that of a bundle; the first bundle by rank overrides the
    others. An image copy is only needed if the user has a CSV. May raise what `BundleLookup`
    raises.
    """
    csvs = dict(listing.csv_etags)
    sources = dict[str, str]()
    images = {
        user_id: _make_own_image(listing.current_image(user_id), image_copies)
        for user_id in listing.images
    }
    # Own files come first, then the bundles by rank: the first one wins.
    for key, entry, index in bundle_lookup.read_indexes():
        for user_id, csv, image in index.iterate_users():
            if csv and user_id not in csvs:
                csvs[user_id] = csv.version.etag
                sources[user_id] = csv.version.source
            if image and user_id not in images:
                unpacked = locate_unpacked_image(key, entry.digest, user_id, image)
                images[user_id] = (
                    image_copies.make_bundle_ref(user_id, unpacked),
                    DesiredCopy(user_id, image.etag, 0),
                )
    needed = {user_id: images[user_id] for user_id in images.keys() & csvs.keys()}
    # A rejected bundle is compared like a user with a CSV, because its reject must be published.
    for key, entry in bundle_lookup.catalog.entries.items():
        if entry.reason:
            csvs[make_bundle_id(key)] = entry.etag
    frame = pd.DataFrame({"etag": pd.Series(csvs, dtype="str")})
    paths = {
        user_id: buckets.img_path(image_ref.image, image_ref.image_source)
        for user_id, (image_ref, _) in needed.items()
    }
    frame["source"] = pd.Series(sources, dtype="str").reindex(frame.index).fillna("")
    frame["img_path"] = pd.Series(paths, dtype="str").reindex(frame.index).fillna("")
    # Without a source, the image itself is named by the row and no copy is needed.
    copies = {
        image_ref.image: copied for image_ref, copied in needed.values() if image_ref.image_source
    }
    return DesiredState(frame, copies)


def _make_own_image(
    image: ListedImage | None, image_copies: ImageCopies
) -> tuple[ImageRef, DesiredCopy]:
    assert image is not None  # noqa: S101  called only for users with an image
    user_id = image.key.rpartition(".")[0]
    return image_copies.make_own_ref(image.key, image.etag), DesiredCopy(
        user_id, image.etag, image.last_modified
    )
