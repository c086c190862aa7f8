"""The command line ``ldct``: one file a command, imported only when it is called.

Exit codes: 0 success, 1 failure, 2 wrong use, 3 where ``ldct adapt`` found nothing better, 130 and
143 after SIGINT and SIGTERM. A user's mistake is one line ``error: what is wrong; what to do`` and
no traceback.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

from ldct_jax import __version__
from ldct_jax.errors import LdctError
from ldct_jax.system.names import printable

COMMANDS = {
    "experiments": "ldct_jax.cli.experiments:experiments",
    "models": "ldct_jax.cli.models:models",
    "data": "ldct_jax.cli.data:data",
    "train": "ldct_jax.cli.train:train",
    "denoise": "ldct_jax.cli.denoise:denoise",
    "adapt": "ldct_jax.cli.adapt:adapt",
    "evaluate": "ldct_jax.cli.evaluate:evaluate",
    "export": "ldct_jax.cli.export:export",
    "serve": "ldct_jax.cli.serve:serve",
    "mercure": "ldct_jax.cli.mercure:mercure",
    "report": "ldct_jax.cli.report:report",
    "view": "ldct_jax.cli.view:view",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, context):
        return list(COMMANDS)

    def get_command(self, context, name):
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(self, context, args):
        if args and args[0] not in COMMANDS:
            raise click.UsageError(
                f"there is no command {args[0]!r}: use one of {', '.join(COMMANDS)}"
            )
        return super().resolve_command(context, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ldct")
def ldct():
    """Low-dose CT denoising networks in JAX: train, evaluate, denoise.

    \b
    Example:
      ldct train pcn_ablation
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    from ldct_jax.system import xla_flags
    from ldct_jax.train.signals import StopRequest

    # Where Python calls this with arguments, the process isn't ours to re-exec.
    long = ("train", "denoise", "evaluate", "adapt", "serve")
    if arguments is None and len(sys.argv) > 1 and sys.argv[1] in long:
        # Processes of one training must agree, so none of them measures.
        if not {"--distributed", "--status", "--help", "-h"} & set(sys.argv):
            xla_flags.find_out()
        xla_flags.restart_with_large_pages()
    with StopRequest().watching():
        code = run(arguments)
    if code not in (0, 2):
        # Leave without the interpreter's farewell: threads of a library whose disk is full would
        # print tracebacks of their own below the one line that says what is wrong.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        # An exit code where the command gives one, else what it returns: nothing.
        return ldct.main(args=arguments, prog_name="ldct", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except LdctError as error:
        return _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return 1
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail("no space left on the device; free some and run the same command again", 1)
        if error.errno in (errno.EACCES, errno.EROFS):
            return _fail(f"{error.filename} can't be written or read ({error.strerror})", 1)
        raise
    except BaseException as error:
        # train.signals.Interrupted, which isn't imported here so that --help stays quick
        if hasattr(error, "exit_code"):
            return error.exit_code
        raise


def _fail(message: str, code: int) -> int:
    click.echo("error: " + printable(" ".join(message.split())), err=True)
    return code
