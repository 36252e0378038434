"""Write a supervisord.conf with other programs than Rowdrop's, for tests of supervisor."""

from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path

from local.processes import APP_GROUP, PROGRAMS_CONF

Programs = dict[str, dict[str, str]]
"""The options of each program, by its name."""


def read_programs() -> Programs:
    """Return the programs of Rowdrop's supervisord.conf."""
    conf = _read_conf()
    return {
        section.removeprefix("program:"): dict(conf[section]) for section in _list_sections(conf)
    }


def write_programs(path: Path, change: Callable[[Programs], Programs]) -> Path:
    """Write Rowdrop's supervisord.conf with changed programs to `path`, and return `path`.

    Programs with a `priority` are servers.  All others belong to the group of the app.
    """
    conf = _read_conf()
    programs = change(read_programs())
    for section in _list_sections(conf):
        conf.remove_section(section)
    for name, options in programs.items():
        conf[f"program:{name}"] = options
    app = [name for name, options in programs.items() if "priority" not in options]
    if app:
        conf[f"group:{APP_GROUP}"]["programs"] = ",".join(app)
    else:
        conf.remove_section(f"group:{APP_GROUP}")
    with path.open("w", encoding="utf-8") as file:
        conf.write(file)
    return path


def _read_conf() -> RawConfigParser:
    conf = RawConfigParser()
    conf.read(PROGRAMS_CONF, encoding="utf-8")
    return conf


def _list_sections(conf: RawConfigParser) -> list[str]:
    return [section for section in conf.sections() if section.startswith("program:")]
