"""Compare the source bucket with the published files, at the cost of one LIST of it.

No user file is read. The order of the requests matters:

1. LIST the source bucket.
2. Read the dirty users. They are marked again, because their pending results may be older than the
   LIST.
3. Read the published files.
4. Only if a user, a bundle or an image copy is out of sync without a known cause: wait for events
   on their way, and read the dirty users and what differed again. What is still unexplained has
   changed without an event.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from shared.formats.bundle_catalog import BundleCatalog
from shared.formats.object_names import IMAGES_FOLDER
from shared.formats.records import Buckets
from shared.formats.source_keys import parse_bundle_id
from shared.object_store import ObjectInfo, ObjectStore, StoreUnavailable
from shared.progress.pipeline_status import OperatorStatus
from worker.bundles.catalog import BundleRules, read_catalog
from worker.bundles.lookup import BundleLookup
from worker.jobs.desired_state import DesiredState, build_desired_state
from worker.jobs.drift import (
    find_changed_bundles,
    find_out_of_sync_bundles,
    find_out_of_sync_users,
    find_rejects_without_row,
    find_unexplained_drift,
    find_unreferenced_copies,
)
from worker.publishing.published_files import PublishedFiles, read_published_files
from worker.reading.image_copies import ImageCopies, read_source_etags
from worker.source.ignored_keys import MAX_LISTED_IGNORED
from worker.source.listing import Listing
from worker.state.event_inbox import EventInbox
from worker.state.user_states import UserStates

EVENT_DELAY_S = 2.0
"""An event takes milliseconds, and up to a second in a burst of PUTs. So may the listener."""
MAX_PAUSE_S = 5.0
"""Maximum time that a sweep waits for the listener. It delays the repair of what it found."""
PAUSE_STEP_S = 0.1


class Comparison(NamedTuple):
    """What one comparison found.

    `out_of_sync`: users and bundle IDs that are out of sync. `silent_drift`: those users among them
    that no known cause explains. `has_silent_changes`: a bundle, or an image that is copied, has
    changed without an event. `dirty_users`: the users that were dirty after the LIST.
    `orphan_copies`: key to user ID of each image copy that is not needed and that no row names.
    """

    listing: Listing
    catalog: BundleCatalog
    published: PublishedFiles
    dirty_users: set[str]
    out_of_sync: set[str]
    silent_drift: set[str]
    has_silent_changes: bool
    orphan_copies: dict[str, str]


class EventPause:
    """A pause in which events on their way reach Redis and mark their users.

    `wait` sleeps for a number of seconds.
    """

    def __init__(self, inbox: EventInbox, wait: Callable[[float], None] = time.sleep) -> None:
        self._inbox = inbox
        self._wait = wait

    def wait_for_marks(self) -> bool:
        """Return True after `EVENT_DELAY_S`, as soon as no event waits for the listener.

        Returns False if events still wait at the end of `MAX_PAUSE_S`.
        """
        self._wait(EVENT_DELAY_S)
        for _ in range(int((MAX_PAUSE_S - EVENT_DELAY_S) / PAUSE_STEP_S)):
            if self._inbox.is_empty():
                return True
            self._wait(PAUSE_STEP_S)
        return False


class BucketLister:
    """Lists both buckets. `renew_lease` is called for each page, and renews the caller's lease."""

    def __init__(
        self,
        source: ObjectStore,
        output: ObjectStore,
        status: OperatorStatus,
        renew_lease: Callable[[], None],
    ) -> None:
        self.buckets = Buckets(source.bucket, output.bucket)
        self._source = source
        self._output = output
        self._status = status
        self.renew_lease = renew_lease

    def list_source(self) -> Listing:
        """List the source bucket. An outage is recorded for `/health/ready`, and raised."""
        listing = Listing(max_ignored=MAX_LISTED_IGNORED)
        try:
            for objects in self._source.list_objects():
                self.renew_lease()
                listing.add_objects(objects)
        except StoreUnavailable as error:
            self._status.set_source_failure(str(error))
            raise
        self._status.clear_source_failure()
        return listing

    def read_published(self) -> PublishedFiles:
        """Read the published files."""
        return read_published_files(self._output)

    def list_copies(self) -> dict[str, ObjectInfo]:
        """List the image copies in the output bucket, by key."""
        copies: dict[str, ObjectInfo] = {}
        for page in self._output.list_objects(folder=IMAGES_FOLDER):
            self.renew_lease()
            copies.update((info.key, info) for info in page)
        return copies

    def add_source_etags(
        self, desired: DesiredState, copies: Mapping[str, ObjectInfo]
    ) -> dict[str, ObjectInfo]:
        """Return the listed copies, with the ETag of the source where their own is not desired."""
        keys = desired.find_copies_with_other_etag(copies)
        return {**copies, **read_source_etags(self._output, copies, keys, self.renew_lease)}

    def read_catalog(self) -> BundleCatalog:
        """Read the bundle catalog."""
        return read_catalog(self._output)[0]

    def delete_copies(self, keys: Sequence[str]) -> None:
        """Delete these image copies."""
        self._output.delete_many(keys)


class BucketComparison:
    """Compares the buckets of `lister`."""

    def __init__(
        self,
        lister: BucketLister,
        users: UserStates,
        bundle_lookup: BundleLookup,
        image_copies: ImageCopies,
        event_pause: EventPause,
    ) -> None:
        self._lister = lister
        self._users = users
        self._bundle_lookup = bundle_lookup
        self._image_copies = image_copies
        self._event_pause = event_pause

    def compare(self, bundle_rules: BundleRules) -> Comparison:
        """Compare once. Bundles that were read by other rules are out of sync.

        Raises `StoreUnavailable`.
        """
        # A user that is published during the LIST is dirty only here.
        dirty_before = self._users.dirty_users()
        listing = self._lister.list_source()
        existing_copies = self._lister.list_copies()
        # Before the dirty users are read: a bundle is dirty until all users that are or were in it
        # are marked.
        self._bundle_lookup.reload_catalog()
        dirty_users = self._users.dirty_users()
        desired = build_desired_state(
            listing, self._bundle_lookup, self._image_copies, self._lister.buckets
        )
        self._lister.renew_lease()  # the indexes of large bundles take a while
        published = self._lister.read_published()
        # A user with a reject and no held row needs no image copy: no row could name it.
        desired = desired.without_copies_of(find_rejects_without_row(published))
        existing_copies = self._lister.add_source_etags(desired, existing_copies)
        out_of_sync = find_out_of_sync_users(desired, published)
        out_of_sync |= desired.find_users_missing_copy(existing_copies)
        catalog = self._bundle_lookup.catalog
        all_dirty = dirty_users | dirty_before
        unexplained = find_unexplained_drift(out_of_sync, all_dirty, published)
        changed = _find_changed(desired, listing, catalog, existing_copies) - all_dirty
        if any(map(parse_bundle_id, all_dirty)):  # its users may not be marked yet
            changed = set(filter(parse_bundle_id, changed))
        silent_drift = set[str]()
        has_silent_changes = False
        # Before the first publish, everything is out of sync.
        if (
            published.output_etag
            and (unexplained or changed)
            and self._event_pause.wait_for_marks()
        ):
            # In this order: a user that is clean by then was published before, so the files show
            # it.
            dirty_after = self._users.dirty_users()
            silent_drift = self._find_silent_drift(unexplained - dirty_after, published)
            has_silent_changes = self._are_still_changed(changed - dirty_after, desired, listing)
        return Comparison(
            listing,
            catalog,
            published,
            dirty_users,
            out_of_sync | find_out_of_sync_bundles(catalog, listing.bundles, bundle_rules),
            silent_drift,
            has_silent_changes,
            find_unreferenced_copies(
                desired.find_orphan_copies(existing_copies), published, self._lister.buckets
            ),
        )

    def _find_silent_drift(self, unexplained: set[str], published: PublishedFiles) -> set[str]:
        """Return the users of `unexplained` that were not published since."""
        if not unexplained:
            return set()
        return published.find_unchanged_users(unexplained, self._lister.read_published())

    def _are_still_changed(
        self, changed: set[str], desired: DesiredState, listing: Listing
    ) -> bool:
        """Return whether a user or bundle of `changed` was not processed since."""
        if not changed:
            return False
        catalog = self._lister.read_catalog()
        copies = self._lister.add_source_etags(desired, self._lister.list_copies())
        return not changed.isdisjoint(_find_changed(desired, listing, catalog, copies))

    def delete_copies(self, copies: Mapping[str, str]) -> set[str]:
        """Delete these image copies (key to user ID), and return their users.

        These users must be marked after the deletion: a concurrent read may have found the copy in
        place, so the user must be read again.
        """
        self._lister.delete_copies(list(copies))
        return set(copies.values())


def _find_changed(
    desired: DesiredState,
    listing: Listing,
    catalog: BundleCatalog,
    copies: Mapping[str, ObjectInfo],
) -> set[str]:
    """Return the IDs of bundles that were changed, and the users with a copy of another image."""
    other_copies = desired.find_copies_with_other_etag(copies)
    return find_changed_bundles(catalog, listing.bundles) | {
        desired.copies[key].user_id for key in other_copies
    }
