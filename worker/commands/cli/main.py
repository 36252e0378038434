"""The command group `rowdrop`, and the exit code of each kind of error."""

from typing import Any

import click

from shared.settings import InvalidSettings
from worker.commands.cli import report_commands, setup_commands, work_commands
from worker.commands.cli.exit_codes import (
    EXIT_INTERRUPTED,
    EXIT_INVALID_SETTINGS,
    EXIT_UNAVAILABLE,
    CommandFailed,
)
from worker.commands.cli.settings_discovery import (
    SettingsNotFound,
    explain_server_error,
    is_container,
    suggest_container,
)
from worker.commands.provisioning.credential_files import PreparationError
from worker.commands.provisioning.credential_set import EXIT_UNKNOWN_USERS, InvalidCredentials
from worker.commands.provisioning.instructions import UnknownUsers
from worker.services.server_errors import SERVER_ERRORS

VERSION = "0.4.0"
SETTINGS_ERRORS = (InvalidSettings, SettingsNotFound, InvalidCredentials, PreparationError)


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
            hint = f"\n{suggest_container(ctx)}" if is_container() else ""
            raise CommandFailed(f"{error}{hint}", EXIT_INVALID_SETTINGS) from error
        except SERVER_ERRORS as error:
            raise CommandFailed(explain_server_error(error, ctx), EXIT_UNAVAILABLE) from error


@click.group(
    cls=RowdropGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "Exit codes: 0 done; 1 done, and something needs attention; 2 wrong use; 3 settings are "
        "missing or invalid; 4 MinIO or Redis is unavailable; 5 MinIO lacks users; "
        "6 failed; 130 interrupted."
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
