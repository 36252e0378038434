"""The command group `rowdrop`, and the exit code of each kind of error."""

import re
from typing import Any

import click
from kombu.exceptions import OperationalError
from minio.error import MinioAdminException, MinioException
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.object_store import StoreUnavailable
from shared.settings import InvalidSettings
from worker.commands.cli import report_commands, setup_commands, work_commands
from worker.commands.cli.exit_codes import (
    EXIT_INTERRUPTED,
    EXIT_INVALID_SETTINGS,
    EXIT_UNAVAILABLE,
    CommandFailed,
)
from worker.commands.cli.settings_discovery import SettingsNotFound, is_container
from worker.commands.init import ACL_HINT, UnknownUsers
from worker.commands.provisioning.credential_files import PreparationError
from worker.commands.provisioning.credential_set import EXIT_UNKNOWN_USERS, InvalidCredentials

VERSION = "0.3.0"
SETTINGS_ERRORS = (InvalidSettings, SettingsNotFound, InvalidCredentials, PreparationError)
SERVER_ERRORS = (
    StoreUnavailable,
    MinioException,
    MinioAdminException,
    HTTPError,
    RedisError,
    OperationalError,
)
_ACCESS_DENIED = re.compile("AccessDenied|Access Denied|InvalidAccessKeyId|NOPERM|WRONGPASS")
_OTHER_CONTAINERS = {
    "load": "run --rm --no-deps -T -v FOLDER:/load:ro load rowdrop load /load",
    "sample": "run --rm --no-deps -T init rowdrop sample",
    "init": "run --rm --no-deps -T init rowdrop init",
    "credentials": "run --rm --no-deps -T secrets rowdrop credentials",
}
"""The arguments of docker compose for commands that the container `worker` may not run."""


class RowdropGroup(click.Group):
    """Translates errors into a message and an exit code. A user never sees a traceback of them."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from None
        except UnknownUsers as error:
            raise CommandFailed(str(error), EXIT_UNKNOWN_USERS) from error
        except SETTINGS_ERRORS as error:
            hint = _suggest_container(ctx) if is_container() else ""
            raise CommandFailed(f"{error}{hint}", EXIT_INVALID_SETTINGS) from error
        except SERVER_ERRORS as error:
            message = f"MinIO or Redis is unavailable, or refuses the credentials: {error}"
            message += _suggest_fix(ctx, str(error))
            raise CommandFailed(message, EXIT_UNAVAILABLE) from error


def _suggest_fix(ctx: click.Context, error: str) -> str:
    if "NOPERM" in error and ctx.invoked_subcommand == "init":
        return f"\n{ACL_HINT}"
    if not _ACCESS_DENIED.search(error):
        return "\nCheck that Rowdrop is running, and run the command again."
    if is_container():
        return _suggest_container(ctx)
    return "\nCheck the settings in the environment: they replace those of the running Rowdrop."


def _suggest_container(ctx: click.Context) -> str:
    command = ctx.invoked_subcommand or ""
    arguments = _OTHER_CONTAINERS.get(command, f"exec worker rowdrop {command}")
    return f"\nEach container has only its own credentials.  Use: docker compose {arguments}"


@click.group(
    cls=RowdropGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done; 1 done, and something needs attention; 2 wrong use; 3 settings are "
        "missing or invalid; 4 MinIO or Redis is unavailable; 5 MinIO lacks users; 130 interrupted."
    ),
)
@click.version_option(VERSION, prog_name="rowdrop")
def rowdrop() -> None:
    """Operate a running Rowdrop.

    The settings are found in the environment, or in the data folder of ./run.sh: $ROWDROP_DIR, by
    default var/.

    Examples: ./rowdrop status; docker compose exec worker rowdrop status
    """


for command in (
    report_commands.show_status,
    report_commands.watch,
    report_commands.check,
    report_commands.list_errors,
    work_commands.sweep,
    work_commands.rebuild,
    work_commands.load,
    work_commands.sample,
    setup_commands.init,
    setup_commands.show_credentials,
):
    rowdrop.add_command(command)
