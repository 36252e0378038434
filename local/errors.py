"""What stops Rowdrop from running here, in words for the person at the keyboard."""

PIP_HINT = "Behind a proxy, set HTTPS_PROXY=http://proxy:port, or PIP_INDEX_URL to the package index you may use."


class CannotRun(Exception):
    """Something on this machine is missing or in the way.  The message says what, and how to mend it."""
