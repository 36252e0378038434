"""Exit codes, and output that all commands share."""

import json

import click

EXIT_ATTENTION = 1
"""The command is done, and something needs attention."""
EXIT_INVALID_SETTINGS = 3
EXIT_UNAVAILABLE = 4
EXIT_FAILED = 6
"""The command ended before its work was done, for a reason that no other code names."""
EXIT_INTERRUPTED = 130


class CommandFailed(click.ClickException):
    """Ends the command with a message and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(body: object) -> None:
    """Print a value as JSON, in a form that people can read."""
    click.echo(json.dumps(body, ensure_ascii=False, indent=2))


def exit_with_attention(ctx: click.Context, *, is_needed: bool) -> None:
    """End the command with `EXIT_ATTENTION` if something needs attention."""
    if is_needed:
        ctx.exit(EXIT_ATTENTION)
