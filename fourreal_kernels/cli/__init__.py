"""The command ``fourreal``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..version import __version__
from . import bench, doctor, evaluate, generate, render, train, tune
from .arguments import Parser
from .errors import UserError

_COMMANDS = (generate, render, train, evaluate, bench, tune, doctor)


def build_parser() -> Parser:
    """The parser of the whole command line; ``run`` of the result is the chosen command."""
    parser = Parser(prog="fourreal", description="Generate 4D grids of frames: several views of several timesteps.")
    parser.add_argument("--version", action="version", version=f"fourreal_kernels {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = command.__doc__.partition("\n")[0]
        added = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    return parser


# What shells say of a command that the interrupt signal ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments, those of the process when None.

    Returns:
        The exit status: 0, 2 after an error of the user (one line on stderr, nothing written), 130 when interrupted.
        Errors of the program are raised.
    """
    try:
        arguments = build_parser().parse_args(argv)
        arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"fourreal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fourreal: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has gone, as after `| head`. What Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0
