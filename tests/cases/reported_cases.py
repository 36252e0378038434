"""Inputs after public bug reports of other projects: what happened to people there.

The bytes are made here. `source` names the project, the number of the issue or pull request, and
what happened; `why` says why the outcome is right for a user of Rowdrop.
"""

import gzip
import struct
import tarfile

from tests.archives import (
    DIRECTORY_ENTRY,
    RawZipMember,
    make_raw_zip,
    make_tar_gz,
    make_zip,
    write_into_zip,
)
from tests.cases.bundle_cases import CSV, OTHER_CSV, PNG, UTF8_FLAG, make_row, make_typed_tar
from tests.cases.case import Case, Expected, Folder, Kind
from tests.cases.csv_cases import BORN, HEADER, ROW, make_csv

END_BYTES = 22
"""Size of the record at the end of a zip without a comment."""


def report(
    kind: Kind, name: str, body: bytes | str | Folder, expected: Expected, source: str, why: str
) -> Case:
    """Return a case of this module. A text is encoded as UTF-8."""
    encoded = body.encode() if isinstance(body, str) else body
    return Case(kind, name, encoded, expected, source, why)


def reject(*parts: str) -> Expected:
    """Return the outcome of an input that is rejected."""
    return Expected(rejects=(" … ".join(parts),))


CSV_REPORTS = [
    report(
        Kind.CSV,
        "powershell-type-line",
        f"#TYPE System.Management.Automation.PSCustomObject\r\n{make_csv()}",
        reject("first line is not", "header", "line 2"),
        "PowerShell/PowerShell#5131: Export-Csv writes a type line above the header",
        "The reason says that the header is in line 2; to skip lines silently would hide a file "
        "that another export has written.",
    ),
    report(
        Kind.CSV,
        "utf-16-after-utf-8",
        HEADER.encode() + f"{ROW}\r\n".encode("utf-16-le"),
        reject("UTF-16", "save it as CSV UTF-8"),
        "PowerShell/PowerShell#9423: >> appends another encoding to a file",
        "One part of the file must not be read without the other; to save it again repairs both.",
    ),
    report(
        Kind.CSV,
        "only-nul",
        bytes(4096),
        reject("NUL characters", "incomplete write"),
        "nullptrlabs/pgmodeler#766: after a hard shutdown a file has its size and only zero bytes",
        "The content is lost, and the encoding is not the cause: save or copy the file again.",
    ),
    report(
        Kind.CSV,
        "form-body",
        "------WebKitFormBoundaryk1LqzVq0aXo2\r\n"
        'Content-Disposition: form-data; name="file"; filename="7.csv"\r\n'
        f"Content-Type: text/csv\r\n\r\n{make_csv()}\r\n------WebKitFormBoundaryk1LqzVq0aXo2--\r\n",
        reject("web form", "upload only the file"),
        "rpldy/react-uploady#190: a form is sent by PUT to S3, and its frame becomes content",
        "S3 stores what it gets. The reason names the frame, or the uploader looks for the fault "
        "in the CSV.",
    ),
    report(
        Kind.CSV,
        "chunk-signatures",
        f"43;chunk-signature={'c4' * 32}\r\n{make_csv()}\r\n0;chunk-signature={'9e' * 32}\r\n\r\n",
        reject("chunk headers of its upload"),
        "localstack/localstack#98: a proxy stores the chunk signatures of the upload as content",
        "The frame is that of the upload, so the reason names the upload and not the columns.",
    ),
    report(
        Kind.CSV,
        "table-in-column-names",
        f"people.first_name,people.last_name,people.birthts\n{ROW}\n",
        reject("missing columns first_name, last_name, birthts"),
        "t8y2/dbx#1168: Hive puts the table's name before each column",
        "A column of a join may have the same name after the dot, so a guess may be wrong.",
    ),
    report(
        Kind.CSV,
        "arabic-digits",
        make_csv(
            birthts="\u0666\u0663\u0661\u0661\u0665\u0662\u0660\u0660\u0660\u0660\u0660\u0660"
        ),
        reject("birthts", "digits 0 to 9"),
        "arrow-py/arrow#152: timestamps in the digits of the phone's language",
        "Other programs that read the file would refuse it as well; the reason names the digits.",
    ),
    report(
        Kind.CSV,
        "minus-at-the-end",
        make_csv(birthts="86400000-"),
        reject("birthts", "'-' in front"),
        "abap2xlsx/abap2xlsx#15: SAP writes the minus sign after the number",
        "Without the sign the birth date would be a wrong one, so it must not be dropped.",
    ),
    report(
        Kind.CSV,
        "swiss-groups",
        make_csv(birthts="631\u2019152\u2019000\u2019000"),
        reject("remove the group separators"),
        "BenjaminVanRyseghem/numbro#414: de-CH groups digits by a right quotation mark",
        "It is the same kind as other grouped numbers: the reason names the character.",
    ),
    report(
        Kind.CSV,
        "row-names",
        f'"first_name","last_name","birthts"\n"1","Ida","Lindqvist",{BORN}\n',
        reject("4 fields", "header has 3"),
        "Rdatatable/data.table#1818: R writes row names without a name in the header",
        "To read by position would make the row name a first name.",
    ),
    report(
        Kind.CSV,
        "two-pipes",
        f"first_name||last_name||birthts\nIda||Lindqvist||{BORN}\n",
        Expected(rows=(f"two-pipes,{ROW}",)),
        "ExcelDataReader/ExcelDataReader#687: two vertical bars between the fields",
        "Split at one bar it has empty columns between the three, which are ignored like others.",
    ),
    report(
        Kind.CSV,
        "surrogates",
        make_csv("Ida \udb40\udc01").encode("utf-8", "surrogatepass"),
        reject("line 2", "not UTF-8 at byte"),
        "kubo/ruby-oci8#258: Oracle's UTF8 encodes an emoji as two surrogates",
        "It is not UTF-8; a replacement character would be a wrong name.",
    ),
    report(
        Kind.CSV,
        "link-as-text",
        "../people/7.csv",
        reject("header"),
        "desktop/desktop#18751: Git for Windows checks a symbolic link out as its target's path",
        "A path is no CSV, and what it points to is not in the bucket.",
    ),
    report(
        Kind.CSV,
        "ruled-table",
        f"first_name,last_name,birthts\n----------,---------,-------\n{ROW}\n\n(1 row affected)\n",
        reject("3 records"),
        "microsoft/go-sqlcmd#81: sqlcmd rules the header off and counts the rows",
        "Three lines follow the header; which is the record is not for Rowdrop to guess.",
    ),
]


def _split_tar_headers() -> bytes:
    """Return a tar in which extended headers are files, as an old program extracts them."""
    header = b"27 mtime=1650000000.1234567\n"
    members = [
        ("people/PaxHeaders.4711/7.csv", tarfile.REGTYPE, header),
        ("people/7.csv", tarfile.REGTYPE, CSV),
    ]
    return make_typed_tar(members)


def _make_last_volume() -> bytes:
    """Return the second volume of a split zip, which has the directory of both."""
    first, last = (make_raw_zip([RawZipMember(name, CSV)]) for name in (b"7.csv", b"8.csv"))
    # The number of the volume, from 0, at which a member begins.
    last = write_into_zip(last, DIRECTORY_ENTRY, 34, b"\1\0")
    entries = [body[body.index(DIRECTORY_ENTRY) : -END_BYTES] for body in (first, last)]
    directory = b"".join(entries)
    content = last[: last.index(DIRECTORY_ENTRY)]
    end = struct.pack("<4H2LH", 1, 1, 2, 2, len(directory), len(content), 0)
    return content + directory + b"PK\x05\x06" + end


BUNDLE_REPORTS = [
    report(
        Kind.BUNDLE,
        "flag-without-utf-8.zip",
        make_raw_zip([RawZipMember("Ren\u00e9e.csv".encode("latin-1"), CSV, UTF8_FLAG)]),
        reject("UTF-8"),
        "python/cpython#153426: a name is flagged as UTF-8 and is not",
        "The archive is complete, so the reason must name the names and not a missing end.",
    ),
    report(
        Kind.BUNDLE,
        "odd-extra-field.zip",
        make_raw_zip(
            [RawZipMember(b"7.csv", CSV, extra=struct.pack("<HH", 0x6568, 27756) + bytes(8))]
        ),
        reject("extra field", "another program"),
        "nih-at/libzip#235: an extra field is longer than its space; desktop programs unpack it",
        "The file is not cut off. To zip it again with another program helps.",
    ),
    report(
        Kind.BUNDLE,
        "last-volume.zip",
        _make_last_volume(),
        reject("split zip", "join all parts"),
        "srikanth-lingala/zip4j#180: the last part of a split zip is taken for the zip",
        "The other members are in .z01 and .z02; without them users would be missing silently.",
    ),
    report(
        Kind.BUNDLE,
        "appended-again.tar",
        make_typed_tar([("7.csv", tarfile.REGTYPE, OTHER_CSV), ("7.csv", tarfile.REGTYPE, CSV)]),
        Expected(rows=(make_row("7"),), ignored=("7.csv",)),
        "anchore/syft#1445: tar -r appends a newer version under the same path",
        "The last one of a path is what tar leaves on the disk, so it counts.",
    ),
    report(
        Kind.BUNDLE,
        "gzip-twice.tar.gz",
        gzip.compress(make_tar_gz({"7.csv": CSV})),
        reject("gzip twice", "unpack it once"),
        "ipfs/infra#163: a browser keeps the second compression of the server",
        "The reason names the second gzip; 'no tar' would not lead to it.",
    ),
    report(
        Kind.BUNDLE,
        "headers-as-files.tar",
        _split_tar_headers(),
        Expected(rows=(make_row("7"),), ignored=("PaxHeaders.4711/7.csv",)),
        "onekey-sec/unblob#269: an old tar program extracts extended headers as files",
        "The file nearer to the top is the user's; the header would be a reject of that user.",
    ),
    report(
        Kind.BUNDLE,
        "aes.zip",
        make_raw_zip([RawZipMember(b"7.csv", b"x", flags=1, method=99, packed=b"\1" * 13)]),
        reject("member 1 is encrypted"),
        "zlib-ng/minizip-ng#74: method 99 is AES; programs report a compression method",
        "The remedy is to pack without a password, not by another method.",
    ),
    report(
        Kind.BUNDLE,
        "spark-folder.zip",
        make_zip(
            {
                "7.csv/part-00000-0f4b1d0a-5d1c-4f6e-9a57-2f5d3c1b7e11-c000.csv": CSV,
                "7.csv/_SUCCESS": b"",
                "7.csv/._SUCCESS.crc": b"crc",
            }
        ),
        Expected(ignored=("_SUCCESS", "part-00000 … Spark", "._SUCCESS.crc")),
        "databricks/spark-csv#63: Spark writes a folder 7.csv with parts in it",
        "A part's name is no user ID: the row would belong to a user that does not exist.",
    ),
]
FOLDER_REPORTS = [
    report(
        Kind.FOLDER,
        "zone-identifier",
        {"7.csv": CSV, "7.csv:Zone.Identifier": b"[ZoneTransfer]\r\nZoneId=3\r\n"},
        Expected(rows=(make_row("7"),), ignored=("7.csv:Zone.Identifier … neither",)),
        "microsoft/WSL#4609: Windows copies the origin of a download as a second file",
        "The second file belongs to Windows, and has no CSV extension.",
    ),
    report(
        Kind.FOLDER,
        "trashed-photos",
        {"7.csv": CSV, ".trashed-1714492983-7.jpg": b"\xff\xd8\xff", "7.png": PNG},
        Expected(rows=(make_row("7", has_image=True),), ignored=(".trashed-1714492983-7.jpg",)),
        "nextcloud/android#13052: Android renames a deleted photo, and the sync uploads it",
        "A deleted photo must not come back as the image of a user that does not exist.",
    ),
    report(
        Kind.FOLDER,
        "editor-lock",
        {"7.csv": CSV, ".#7.csv": "ida@laptop.4711:1700000000"},
        Expected(rows=(make_row("7"),), ignored=(".#7.csv",)),
        "rust-lang/mdBook#2224: the lock of Emacs is a link to a file that does not exist",
        "It ends in .csv, and is no file of a user; it must not end the load.",
    ),
    report(
        Kind.FOLDER,
        "partial-transfer",
        {"7.csv": CSV, "8.csv.5fa3c1d2.partial": CSV[:30]},
        Expected(rows=(make_row("7"),), ignored=("8.csv.5fa3c1d2.partial … neither",)),
        "rclone/rclone#3770: a file that is still transferred is taken for a complete one",
        "The user's file comes under its own name when it is complete.",
    ),
]
REPORTED_CASES = [*CSV_REPORTS, *BUNDLE_REPORTS, *FOLDER_REPORTS]
"""Inputs that other projects' users reported."""
