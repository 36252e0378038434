"""Commands that set up an installation: init, credentials."""

import os

import click

from worker.commands.cli.settings_discovery import (
    ROOT,
    SettingsNotFound,
    find_data_folder,
    is_container,
    load_settings,
    open_clients,
    read_settings_for_people,
)
from worker.commands.provisioning.credential_files import (
    find_public_endpoint,
    format_assignments,
    format_settings,
    is_secrets_container,
    read_assignments,
    write_credentials,
)
from worker.commands.provisioning.credential_set import PROCESSES
from worker.commands.provisioning.instructions import format_policies

_PEOPLE = "people"


@click.command(epilog="Examples: rowdrop init; rowdrop init --print-policies")
@click.option(
    "--sample",
    type=click.Choice(["yes", "no"]),
    default="no",
    help="Write the sample into a source bucket that is new.",
)
@click.option(
    "--wait",
    type=float,
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for MinIO and Redis to start.",
)
@click.option(
    "--print-policies",
    is_flag=True,
    help="Print the policies and rules that servers of your own need, and exit.",
)
def init(sample: str, wait: float, print_policies: bool) -> None:
    """Create missing buckets, users and notification rules.

    ./run.sh and docker compose run it at each start. It changes nothing that exists. The exit code
    is 5 if MinIO lacks users and root may not sign in to create them.
    """
    if print_policies:
        # The names of the buckets are enough: no server is used.
        click.echo(format_policies(load_settings("init")))
        return
    from worker.commands.init import Initializer  # noqa: PLC0415  the worker's parts: slow
    from worker.services.container import Services  # noqa: PLC0415

    clients = open_clients("init", "minio", "redis")
    initializer = Initializer(Services(clients), with_sample=sample == "yes")
    initializer.wait_for_servers(wait)
    initializer.run()


@click.command(
    name="credentials",
    epilog="Examples: ./rowdrop credentials --show; "
    "docker compose run --rm --no-deps -T secrets rowdrop credentials --show",
)
@click.option(
    "--show",
    is_flag=False,
    flag_value=_PEOPLE,
    type=click.Choice([_PEOPLE, *PROCESSES]),
    metavar="[PROCESS]",
    help=f"Print the credentials for people, or for a process: {', '.join(PROCESSES)}.",
)
@click.option(
    "--renew",
    is_flag=True,
    help="Generate new credentials (docker compose only); recreate all containers afterwards.",
)
def show_credentials(show: str | None, renew: bool) -> None:
    """Show where the generated credentials are, or print them.

    With docker compose, in the container `secrets`, this command also generates them.
    """
    if is_container():
        _show_in_container(show, renew=renew)
        return
    if renew:
        raise click.UsageError(
            "--renew is for docker compose.  In a checkout stop ./run.sh, remove the lines to "
            "renew from .env in the data folder, and start it again."
        )
    settings = read_settings_for_people(os.environ)
    folder = find_data_folder(os.environ, ROOT)
    if show is None:
        click.echo(f"for people and S3 clients  {folder / '.env'}")
        click.echo(f"of each process            {folder / 'credentials'}")
        click.echo("--show prints those for people.")
        return
    if show != _PEOPLE:
        settings = read_assignments(folder / "credentials" / f"{show}.env")
    click.echo(format_assignments(settings), nl=False)


def _show_in_container(show: str | None, *, renew: bool) -> None:
    if not is_secrets_container():
        raise SettingsNotFound("this container has not the credentials of all processes.")
    credentials = write_credentials(os.environ, renew=renew)
    if renew:
        click.echo(
            "New credentials are written.  Apply them: docker compose up -d --force-recreate",
            err=True,
        )
    if show is None:
        click.echo("The credentials are in the volumes `credentials…`.  --show prints them.")
        return
    process = "" if show == _PEOPLE else show
    endpoint = find_public_endpoint(os.environ)
    click.echo(format_settings(credentials, process, endpoint), nl=False)
