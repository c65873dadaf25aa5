"""Keeps watch over a long command: however it ends, a line says so.

A process that is killed can't say it: for lack of memory, by a signal to all processes of a terminal, or with the shell that
has started it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn

WATCHED = "STORM_WATCHED_BY"  # in the command's environment: the process that keeps watch
STOPS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGXCPU")


class Stopped(BaseException):
    """A signal that would end this process, by its number."""


def watched(command: Sequence[str]) -> int:
    """Run a command, in a session of its own, where no signal to this process's group reaches it: its exit code, and 128 and
    the signal's number where one has ended it, or this process."""
    process = subprocess.Popen(command, env=os.environ | {WATCHED: str(os.getpid())}, start_new_session=True)

    def stop(number: int, _: object) -> NoReturn:
        raise Stopped(number)

    for name in STOPS:
        if found := getattr(signal, name, None):
            signal.signal(found, stop)
    try:
        code = process.wait()
    except Stopped as stopped:
        number = stopped.args[0]
        print(f"the storm is stopped by {signal.Signals(number).name}, which this process was sent", flush=True)
        process.kill()
        process.wait()
        return 128 + number
    if code >= 0:
        return code
    why = ", as where memory is short" if -code == 9 else ""
    print(f"the storm was killed by {signal.Signals(-code).name}{why}: what stands above is a part of it", flush=True)
    return 128 - code


def is_watched() -> bool:
    """True in a process that `watched` has started."""
    return WATCHED in os.environ


def check_watched() -> None:
    """End this process, with a line, once the one that watches over it is gone."""
    if is_watched() and os.getppid() != int(os.environ[WATCHED]):
        print("the storm stops, for the process that watched over it is gone: it was killed", flush=True)
        sys.exit(1)
