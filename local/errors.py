"""The error that ends run.sh with a message for the user."""

PIP_HINT = (
    "Behind a proxy, set HTTPS_PROXY=http://proxy:port, "
    "or PIP_INDEX_URL to the package index you may use."
)


class StartupError(Exception):
    """Rowdrop cannot run on this machine.  The message states the cause and the remedy."""
