"""The text that run.sh prints when Rowdrop is ready: addresses, files and a first example."""

from pathlib import Path

from local.configuration import Configuration
from local.processes import ROOT

_PRINT_FILE = r"printf 'first_name,last_name,birthts\nIvan,Ivanov,946674000000\n'"
_EXTERNAL_MINIO_HINT = (
    "# MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY: the values that you set"
)


def render_banner(folder: Path, configuration: Configuration) -> str:
    """Return the text, which contains no secrets.  `folder` is the data folder of this run."""
    values = configuration.values
    api_url = f"http://127.0.0.1:{values['API_PORT']}"
    optional_lines = [
        f"  {name:<13} http://127.0.0.1:{values[port_name]}   ({user}, {password})"
        for name, port_name, user, password in (
            ("Console", "MINIO_CONSOLE_PORT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
            ("Flower", "FLOWER_PORT", "FLOWER_USER", "FLOWER_PASSWORD"),
        )
        if port_name in values
    ]
    bucket = configuration.source_bucket
    return "\n".join(
        [
            "",
            "Rowdrop is ready.  Ctrl-C stops it; the data stays.",
            "",
            f"  Page          {api_url}/",
            f"  API           {api_url}/data   (also /stats, /errors, /health/ready)",
            f"  S3            {values['MINIO_ENDPOINT']}   (drop into {bucket})",
            *optional_lines,
            f"  Credentials   {_shorten_path(folder / '.env')}",
            f"  Logs          {_shorten_path(folder / 'logs')}",
            "",
            "Drop a file, get a row:",
            "",
            *_render_example(configuration),
            "",
            "Or with any S3 client:",
            "",
            *_render_s3_example(folder, configuration),
            "",
        ]
    )


def _render_example(configuration: Configuration) -> list[str]:
    """Return the example of README.md, with the port of this run."""
    api_url = f"http://127.0.0.1:{configuration.values['API_PORT']}"
    # A local write needs no token unless one of these is set.
    tokens = configuration.credentials.tokens
    needs_token = bool(
        configuration.values.get("ALLOWED_HOSTS")
        or tokens.get("API_TOKEN")
        or tokens.get("API_TOKENS")
    )
    token_option = '-H "Authorization: Bearer $TOKEN" ' if needs_token else ""
    token_line = ["  TOKEN=...  # ./rowdrop credentials --show prints the tokens"]
    return [
        *(token_line if needs_token else []),
        f"  {_PRINT_FILE} > 0001.csv",
        f"  curl {token_option}-T 0001.csv {api_url}/files/0001.csv",
        f"  curl {token_option}'{api_url}/data?q=ivan'",
    ]


def _render_s3_example(folder: Path, configuration: Configuration) -> list[str]:
    bucket = configuration.source_bucket
    # The example reads the credentials from the file, so that none is printed.
    credentials_line = f"  {_EXTERNAL_MINIO_HINT}"
    if configuration.owns_minio:
        credentials_line = f"  . {_shorten_path(folder / '.env')}"
    sign_option = '--aws-sigv4 aws:amz:us-east-1:s3 --user "$MINIO_ACCESS_KEY:$MINIO_SECRET_KEY"'
    return [
        credentials_line,
        f"  {_PRINT_FILE} > 0001.csv",
        f"  curl -fsS {sign_option} \\",
        f'    -T 0001.csv "$MINIO_ENDPOINT/{bucket}/0001.csv"',
    ]


def _shorten_path(path: Path) -> str:
    """Return the path relative to the checkout, if it is inside it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
