"""Becomes the given command, tied to its parent: when the parent dies, so does the command.

Run as a script: `python -I -S leash.py PARENT_PID COMMAND...`. The kernel keeps the tie across
`exec`. It is a step of its own because a `preexec_fn` may deadlock in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
UMASK = 0o077  # Whatever the command creates is its user's alone; not all servers see to that.


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    os.umask(UMASK)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:  # It died before the tie was made.
            sys.exit(1)
    os.execvpe(command[0], command, os.environ)  # noqa: S606 - no shell is the point.


if __name__ == "__main__":
    main()
