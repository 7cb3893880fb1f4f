"""The look of a command's help: its options in groups, then examples that can be copied."""

from collections.abc import Sequence
from typing import Any

import click

_USUAL = "Common options"
_GROUPS = {
    "Build options": "image accelerator packages modules template model data function exclude include replace engine"
    " sdists upgrade",
    "Kaggle options": "dataset competition to on at title drop_foreign public resend resend_part message wait again"
    " late version",
    "Output options": "out output into quiet as_json",
}
"""The names of the parameters in each group; all others are common ones."""


class HelpCommand(click.Command):
    """A command whose help has its options in groups, and examples."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        """Take complete command lines as `examples`, and what click takes."""
        super().__init__(*arguments, **attributes)
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, one section for each group."""
        records: dict[str, list[tuple[str, str]]] = {title: [] for title in (_USUAL, *_GROUPS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):  # click 8.5 lists arguments here, too
                titles = [title for title, names in _GROUPS.items() if parameter.name in names.split()]
                records[titles[0] if titles else _USUAL].append(record)
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, never wrapped."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class CommandGroup(click.Group):
    """A group that lists its commands in the order in which they are used."""

    command_class = HelpCommand

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which the commands were added."""
        return list(self.commands)
