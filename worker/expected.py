"""Desired state of the published files, from LISTs and the bundle indexes. No file is read."""

from collections.abc import Mapping, Set
from typing import NamedTuple

import pandas as pd

from shared.keys import UserFile, bundle_id, classify
from shared.object_store import ObjectInfo
from shared.published import IMAGES
from shared.records import Buckets
from worker.bundles import Bundles, found_image
from worker.images import Copies, Picture, is_copy
from worker.listing import ListedImage, Listing


class Copied(NamedTuple):
    """The image from which a copy is to be made.

    The user's ID, and ETag and LastModified of the image (whole seconds, UTC). It is 0 for an image
    in a bundle, which is identified by its ETag alone.
    """

    user_id: str
    etag: str
    since: int


class Expected(NamedTuple):
    """The desired state of rows and image copies.

    `frame`: indexed by user ID, one row per user with a CSV. Columns: `etag` of the CSV, its
      `source` (empty for the user's own CSV), `img_path`. It also contains each rejected bundle, by
      its ID.
    `copies`: key in the output bucket to the image that it must be a copy of.
    """

    frame: pd.DataFrame
    copies: dict[str, Copied]

    def but_for(self, users: Set[str]) -> "Expected":
        """Return the same state without copies for these users. Pure.

        They have no row that could name a copy.
        """
        return self._replace(copies={key: copied for key, copied in self.copies.items() if copied.user_id not in users})

    def without_copy(self, there: Mapping[str, ObjectInfo]) -> set[str]:
        """Return the users that lack their image copy or have one of another image. Pure."""
        return {
            copied.user_id
            for key, copied in self.copies.items()
            if key not in there or not is_copy(there[key], copied.etag, copied.since)
        }

    def orphans(self, there: Mapping[str, ObjectInfo]) -> dict[str, str]:
        """Return the orphaned copies: key to user ID of each copy that is not needed. Pure."""
        files = {key: classify(key.removeprefix(f"{IMAGES}/")) for key in there.keys() - self.copies.keys()}
        return {key: file.user_id for key, file in files.items() if isinstance(file, UserFile) and not file.is_csv}


def expected(listed: Listing, bundles: Bundles, copies: Copies, buckets: Buckets) -> Expected:
    """Return the desired state.

    A user's own CSV or image overrides that of a bundle; the first bundle by rank overrides the
    others. An image copy is only needed if the user has a CSV. May raise what `Bundles` raises.
    """
    csvs, sources = dict(listed.csvs), dict[str, str]()
    pictures = {user_id: _own(listed.image(user_id), copies) for user_id in listed.images}
    # Own files come first, then the bundles by rank: the first one wins.
    for key, shelved, index in bundles.indexes():
        for user_id, csv, image in index.entries():
            if csv and user_id not in csvs:
                csvs[user_id], sources[user_id] = csv.version.etag, csv.version.source
            if image and user_id not in pictures:
                found = found_image(key, shelved.digest, user_id, image)
                pictures[user_id] = copies.of_bundle(user_id, found), Copied(user_id, image.etag, 0)
    needed = {user_id: pictures[user_id] for user_id in pictures.keys() & csvs.keys()}
    # A rejected bundle is compared like a user with a CSV, because its reject must be published.
    for key, shelved in bundles.shelf.bundles.items():
        if shelved.reason:
            csvs[bundle_id(key)] = shelved.etag
    frame = pd.DataFrame({"etag": pd.Series(csvs, dtype="str")})
    paths = {user_id: buckets.img_path(picture.image, picture.image_source) for user_id, (picture, _) in needed.items()}
    frame["source"] = pd.Series(sources, dtype="str").reindex(frame.index).fillna("")
    frame["img_path"] = pd.Series(paths, dtype="str").reindex(frame.index).fillna("")
    # Without a source, the image itself is named by the row and no copy is needed.
    made = {picture.image: copied for picture, copied in needed.values() if picture.image_source}
    return Expected(frame, made)


def _own(image: ListedImage | None, copies: Copies) -> tuple[Picture, Copied]:
    assert image is not None  # noqa: S101  called only for users with an image
    user_id = image.key.rpartition(".")[0]
    return copies.own(image.key, image.etag), Copied(user_id, image.etag, image.last_modified)
