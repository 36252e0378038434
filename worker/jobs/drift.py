"""Find what is out of sync: published files that do not match the source bucket. Pure."""

from collections.abc import Mapping

import pandas as pd

from shared.formats.bundle_catalog import BundleCatalog
from shared.formats.output_csv import OutputCsv, read_frame
from shared.formats.records import RULES_VERSION, Buckets, Reject
from shared.formats.source_keys import make_bundle_id, make_csv_key, parse_bundle_id
from shared.object_store import ObjectInfo
from worker.bundles.catalog import BundleRules
from worker.jobs.desired_state import DesiredState
from worker.publishing.published_files import PublishedFiles


def find_out_of_sync_users(desired: DesiredState, published: PublishedFiles) -> set[str]:
    """Return the users that may be out of sync. Pure.

    A user without a CSV is in sync if it has neither row nor reject. A user with a CSV is in sync
    if its row, if any, names the image of the LIST, and its CSV (by source and ETag) is either the
    rejected one or the one from which, according to the manifest, the row was made.
    """
    source = desired.frame
    rows = read_frame(published.output).set_index("user_id")
    facts = published.manifest.to_frame().set_index("user_id")
    facts = facts[facts["rules"] == RULES_VERSION]
    rejects = pd.Series(
        {
            user: _rejected_version(reject)
            for user, reject in published.rejects.items()
            if reject.rules == RULES_VERSION
        },
        name="rejected",
        dtype="str",
    )
    user_ids = source.index.union(rows.index).union(pd.Index(list(published.rejects), dtype="str"))
    source = source.reindex(user_ids)
    rows = rows.reindex(user_ids)
    facts = facts.reindex(user_ids)
    rejected_versions = rejects.reindex(user_ids)
    has_csv = source["etag"].notna()
    has_row = rows["img_path"].notna()
    in_rejects = pd.Series(user_ids.isin(list(published.rejects)), index=user_ids)
    image_in_sync = ~has_row | (rows["img_path"] == source["img_path"])
    fact_matches = (facts["csv_etag"] == source["etag"]) & (facts["csv_source"] == source["source"])
    # Also compare the values: a row may have been edited by hand since the manifest was written.
    for column in rows.columns.drop("img_path"):
        fact_matches &= facts[column] == rows[column]
    csv_in_sync = (rejected_versions == source["etag"] + source["source"]) | (
        fact_matches & has_row & ~in_rejects
    )
    in_sync = (~has_csv & ~has_row & ~in_rejects) | (has_csv & image_in_sync & csv_in_sync)
    # A comparison with a missing value may be NA, which counts as out of sync.
    return set(user_ids[~in_sync.fillna(False).astype(bool)])


def find_rejects_without_row(published: PublishedFiles) -> set[str]:
    """Return the users with a reject and without a held row."""
    output = OutputCsv(published.output)
    return {user_id for user_id in published.rejects if output.get(user_id) is None}


def find_out_of_sync_bundles(
    catalog: BundleCatalog, listed_bundles: Mapping[str, ObjectInfo], rules: BundleRules
) -> set[str]:
    """Return the IDs of the bundles that do not match their catalog entry. Pure."""
    out_of_sync = set()
    for key in catalog.entries.keys() | listed_bundles.keys():
        info = listed_bundles.get(key)
        version = (info.etag, info.last_modified) if info else None
        if not rules.is_up_to_date(key, catalog.entries.get(key), version):
            out_of_sync.add(make_bundle_id(key))
    return out_of_sync


def find_changed_bundles(
    catalog: BundleCatalog, listed_bundles: Mapping[str, ObjectInfo]
) -> set[str]:
    """Return the IDs of the bundles with another archive than that of their catalog entry. Pure."""
    listed = {key: (info.etag, info.last_modified) for key, info in listed_bundles.items()}
    known = {key: (entry.etag, entry.since) for key, entry in catalog.entries.items()}
    return {
        make_bundle_id(key)
        for key in listed.keys() | known.keys()
        if listed.get(key) != known.get(key)
    }


def find_unexplained_drift(
    out_of_sync: set[str], dirty: set[str], published: PublishedFiles
) -> set[str]:
    """Return the out-of-sync users that no mark, bundle or change of rules explains. Pure.

    Empty while a bundle is dirty, because its users may be out of sync for that reason.
    """
    if not published.output_etag or any(map(parse_bundle_id, dirty)):
        return set()
    return {
        user
        for user in out_of_sync - dirty - _find_users_of_other_rules(published)
        if parse_bundle_id(user) is None
    }


def find_unreferenced_copies(
    orphan_copies: Mapping[str, str], published: PublishedFiles, buckets: Buckets
) -> dict[str, str]:
    """Return the orphaned image copies (key to user ID) that the user's row does not name. Pure."""
    output = OutputCsv(published.output)
    unreferenced = {}
    for key, user_id in orphan_copies.items():
        row = output.get(user_id)
        if row is None or row.img_path != buckets.img_path(key, "a copy"):
            unreferenced[key] = user_id
    return unreferenced


def _find_users_of_other_rules(published: PublishedFiles) -> set[str]:
    """Return the users with a row or reject that was made under another `RULES_VERSION`.

    Their published state may change without any loss.
    """
    facts = published.manifest.to_frame()
    rejects = published.rejects.items()
    return {
        *facts.loc[facts["rules"] != RULES_VERSION, "user_id"],
        *(user_id for user_id, reject in rejects if reject.rules != RULES_VERSION),
    }


def _rejected_version(reject: Reject) -> str:
    """Return ETag and source of the rejected CSV, concatenated as in `find_out_of_sync_users`."""
    # The source of a user's own CSV, and of a bundle itself, is empty in `DesiredState.frame`.
    is_own = reject.key in {make_csv_key(reject.user_id), parse_bundle_id(reject.user_id)}
    return reject.etag + ("" if is_own else reject.key)
