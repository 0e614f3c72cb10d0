"""Commands made of the table of options: flag before environment before file before default.

Upstream: `pgflo.config.options`. Downstream: each command's function, which gets one `Values`.
Invariant: whatever the order of the arguments, the file named by --config (else a usual place) is
read once, before any option gets its value; a value that it got wrong is told with file and line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import click
import rich_click
from click.core import ParameterSource

from pgflo.cli import types
from pgflo.config.options import CONFIG, GLOBAL, SINK, Option, Type
from pgflo.errors import CONFIG as CONFIG_ERROR
from pgflo.errors import PgfloError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pgflo.config.file import ConfigFile

HELP = {
    "max_width": 100,
    "options_table_column_types": ["required", "opt_long", "opt_short", "metavar", "help"],
}
CONTEXT = {"help_option_names": ["-h", "--help"], "rich_help_config": HELP}
METAVARS = {
    Type.INTEGER: "N",
    Type.SIZE: "SIZE",
    Type.DURATION: "TIME",
    Type.PATH: "PATH",
    Type.PATTERNS: "TABLES",
    Type.GROUP: "NAME",
    Type.SINK: "NAME",
    Type.UNTIL: "LSN|now",
    Type.HIDDEN: "TEXT",
    Type.TEXT: "TEXT",
}


class Values:
    """The options of one call: what they are, and where each was set."""

    def __init__(self, context: click.Context, config: ConfigFile | None) -> None:
        self.context = context
        self.config = config
        self.typed: Mapping[str, Any] = dict(context.params)

    def argument(self, name: str) -> str | None:
        """Give an argument that stands without a flag."""
        given: str | None = self.typed.get(name)
        return given

    def get(self, option: Option) -> Any:  # noqa: ANN401 - the type is the option's
        """Give the value, None if it is not set and has no default."""
        return self.typed.get(option.parameter)

    def is_set(self, option: Option) -> bool:
        """Whether the user set it anywhere."""
        return self.rank(option) > 0

    def rank(self, option: Option) -> int:
        """Tell where it was set: 3 flag, 2 environment, 1 file, 0 nowhere."""
        source = self.context.get_parameter_source(option.parameter)
        return {
            ParameterSource.COMMANDLINE: 3,
            ParameterSource.ENVIRONMENT: 2,
            ParameterSource.DEFAULT_MAP: 1,
        }.get(source or ParameterSource.DEFAULT, 0)

    def origin(self, option: Option) -> str:
        """Tell where it was set, for people."""
        match self.rank(option):
            case 3:
                return option.flag
            case 2:
                return option.env
            case 1 if self.config is not None:
                return self.config.place(option.name)
            case _:
                return "default"


class Command(rich_click.RichCommand):
    """A command whose defaults come from the configuration file."""

    reads_config = True
    sink_kind: str | None = None
    """Kind of the sink whose entry of the file lies over the rest of it, for a worker."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find and read the file first, then parse."""
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        if self.reads_config and not typed.get("help") and not ctx.resilient_parsing:
            self._read_config(ctx, typed)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            name = error.param.name if error.param is not None else None
            if name and ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP:
                config: ConfigFile = ctx.meta["pgflo.config"]
                key = name.replace("_", "-")
                raise PgfloError(
                    CONFIG_ERROR, f"{config.place(key)}: {key}: {error.message}"
                ) from None
            raise

    def _read_config(self, ctx: click.Context, typed: Mapping[str, Any]) -> None:
        def early(option: Option) -> str | None:
            value = typed.get(option.parameter)
            return value if isinstance(value, str) else os.environ.get(option.env) or None

        from pgflo.config import file

        path = file.find(early(CONFIG))
        if path is None:
            return
        config = file.read(path)
        if self.sink_kind is not None:
            config = file.for_sink(config, early(SINK), self.sink_kind)
        ctx.meta["pgflo.config"] = config
        ctx.default_map = {name.replace("-", "_"): value for name, value in config.values.items()}


class ConfigFreeCommand(Command):
    """A command that no file configures."""

    reads_config = False


class Group(rich_click.RichGroup):
    """Commands, which have aliases; global options may stand before the command, too."""

    aliases_of: ClassVar[Mapping[str, str]] = {"replicator": "replicate"}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move global options behind the command's name."""
        with_value = {
            text
            for option in GLOBAL
            if option.type is not Type.SWITCH
            for text in (option.flag, option.short)
            if text
        }
        switches = {
            text
            for option in GLOBAL
            if option.type is Type.SWITCH
            for text in (option.flag, option.short)
            if text
        }
        moved: list[str] = []
        rest = list(args)
        while rest:
            head = rest[0]
            if head in switches or ("=" in head and head.split("=", 1)[0] in with_value):
                moved.append(rest.pop(0))
            elif head in with_value and len(rest) > 1:
                moved += [rest.pop(0), rest.pop(0)]
            else:
                break
        if rest and not rest[0].startswith("-"):
            rest[1:1] = moved
        else:
            rest += moved
        return super().parse_args(ctx, rest)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name or an alias."""
        return super().get_command(ctx, self.aliases_of.get(cmd_name, cmd_name))


def click_option(option: Option, panel: str, *, required: bool) -> click.Option:
    """Make the click option of one row."""
    declarations = [option.flag] + ([option.short] if option.short else []) + [option.parameter]
    switch = option.type is Type.SWITCH
    # To click a default of None is a value, with which nothing would be missing.
    default: dict[str, Any] = {"default": False if switch else option.default}
    if option.default is None and not switch:
        default = {}
    return rich_click.RichOption(
        declarations,
        panel=panel,
        type=types.of(option),
        **default,
        is_flag=switch,
        multiple=option.type is Type.DESTINATIONS,
        envvar=option.env,
        required=required,
        help=option.help,
        show_default=option.default is not None,
        metavar=option.metavar or METAVARS.get(option.type),
    )


def command(
    name: str,
    panels: Mapping[str, Sequence[Option]],
    *,
    arguments: Sequence[click.Argument] = (),
    required: Sequence[Option] = (),
    reads_config: bool = True,
    log_json_elsewhere: bool = False,
    sink_kind: str | None = None,
) -> Callable[[Callable[[Values], None]], Command]:
    """Turn a function of `Values` into a command; its docstring is the help.

    `log_json_elsewhere`: without a terminal, `--log-format auto` means JSON (for services).
    `sink_kind`: it is the worker of such a sink.
    """

    def decorate(function: Callable[[Values], None]) -> Command:
        def callback(**_parameters: object) -> None:
            context = click.get_current_context()
            values = Values(context, context.meta.get("pgflo.config"))
            from pgflo.cli.log_setup import start_logging

            start_logging(values, json_elsewhere=log_json_elsewhere)
            function(values)

        seen: set[str] = set()
        parameters: list[click.Parameter] = list(arguments)
        for panel, options in {**panels, "Global": GLOBAL}.items():
            for option in options:
                if option.name not in seen:
                    seen.add(option.name)
                    parameters.append(click_option(option, panel, required=option in required))
        kind = Command if reads_config else ConfigFreeCommand
        made = kind(
            name=name,
            callback=callback,
            params=parameters,
            help=function.__doc__,
            context_settings=CONTEXT,
        )
        made.sink_kind = sink_kind
        return made

    return decorate
