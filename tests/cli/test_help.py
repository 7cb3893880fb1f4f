"""The help of each command: examples that run, and only the options that the command uses."""

import shlex
from collections.abc import Iterator

import click
import pytest

from offline_kit.cli.main import cli
from offline_kit.cli.options import HelpCommand


def leaf_commands(group: click.Group, path: str = "offline-kit") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, those of groups too."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaf_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(leaf_commands(cli))
PARENT = click.Context(cli, **cli.context_settings)  # click keeps a command's first --help option


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_understood(name: str) -> None:
    """A command has two examples or more, and its parser takes each of them."""
    command = COMMANDS[name]
    assert isinstance(command, HelpCommand)
    assert len(command.examples) >= 2
    for example in command.examples:
        assert example.startswith(name)
        words = shlex.split(example.removeprefix(name).partition(" >")[0], comments=True)
        command.make_context(name, words, parent=PARENT)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_in_the_help_once(name: str) -> None:
    """The groups leave no option out and repeat none."""
    command = COMMANDS[name]
    shown = [
        line.split()[0].strip(",")
        for line in command.get_help(click.Context(command, parent=PARENT, terminal_width=200)).splitlines()
        if line.startswith("  -")
    ]
    options = [option.opts[0] for option in command.params if isinstance(option, click.Option)]
    assert sorted(shown) == sorted([*options, "-h"])


@pytest.mark.parametrize("name", ["status", "submit", "verify"])
def test_a_command_about_an_existing_kit_takes_no_options_of_a_build(name: str) -> None:
    """What a build decides cannot be changed afterwards."""
    options = {option.name for option in COMMANDS[f"offline-kit {name}"].params}
    assert {"dataset", "out", "to", "at"} <= options
    assert not options & {"requirements", "checkpoints", "image", "model", "exclude", "engine", "upgrade"}
