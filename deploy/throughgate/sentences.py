"""How a command says what went wrong: one sentence on standard error, and an exit code."""

import functools
import os
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec

import asyncpg
import typer
from confluent_kafka import KafkaException
from rich.console import Console

from contracts.topics import TopicFileError
from throughgate.native.process import NativeError
from throughgate.reaching import CommandError

P = ParamSpec("P")
WIDTH = 170


def sentences(command: Callable[P, None]) -> Callable[P, None]:
    """What can be expected to go wrong is told in one sentence on standard error, with exit code 1."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            stop("Stopped.", 130)
        except (CommandError, NativeError, TopicFileError) as error:
            stop(str(error))
        except KafkaException as error:
            stop(f"Kafka refused or does not answer: {error.args[0]}")
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            stop(f"PostgreSQL refused: {type(error).__name__}; check THROUGHGATE_POSTGRES_URL.")
        except BrokenPipeError:  # `throughgate tail ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None

    return wrapped


def stop(sentence: str, code: int = 1) -> NoReturn:
    make_console(stderr=True).print(sentence, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not break lines where no terminal asks for it."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=WIDTH, color_system=None)
    return console
