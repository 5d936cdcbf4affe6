"""Becomes the given command, tied to its parent: when the parent dies, so does the command.

Run as a script: `python -I -S leash.py PARENT_PID [--private FOLDER KEPT...] -- COMMAND...`. The
kernel keeps the tie across `exec`. It is a step of its own because a `preexec_fn` may deadlock in a
process with threads.

With `--private` the command sees FOLDER as its /tmp and an empty /dev/shm of its own, which nobody
else sees and which end with it: a mount namespace, which Linux also gives to users without rights
(unless its administrator forbids it). The KEPT folders stay visible where they lie below /tmp.
Where the kernel refuses, the command runs without, and its log says so.
"""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # linux/prctl.h
UMASK = 0o077  # Whatever the command creates is its user's alone; not all servers see to that.
CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 2, 4, 4096, 16384, 1 << 19  # linux/mount.h
TEMPORARY, SHARED_MEMORY = "/tmp", "/dev/shm"  # noqa: S108 - what all users of a machine share.
FILES_MAX = 65_536


def main() -> None:
    parent, words = int(sys.argv[1]), sys.argv[2:]
    at = words.index("--")
    options, command = words[:at], words[at + 1 :]
    os.umask(UMASK)
    if sys.platform == "linux":
        if options[:1] == ["--private"]:
            _hide_from_others(options[1], options[2:])
        # After that, since a process that changes its rights loses the tie.
        _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # It died before the tie was made.
            sys.exit(1)
    _allow_files()
    os.execvpe(command[0], command, os.environ)  # noqa: S606 - no shell is the point.


def _hide_from_others(temporary: str, kept: list[str]) -> None:
    try:
        _own_mounts()
        _mount("none", "/", "", MS_REC | MS_SLAVE)
        _mount("tmpfs", SHARED_MEMORY, "tmpfs", MS_NOSUID | MS_NODEV, b"mode=0700")
        # Laid out where it is, then moved into place at once: what fails leaves /tmp as it was.
        for path in kept:
            if path.startswith(f"{TEMPORARY}/") and os.path.isdir(path):
                place = temporary + path.removeprefix(TEMPORARY)
                os.makedirs(place, exist_ok=True)
                _mount(path, place, "", MS_BIND)
        _mount(temporary, TEMPORARY, "", MS_BIND | MS_REC)
    except OSError as error:
        print(
            "Its /tmp and /dev/shm are those of this machine, since it may have none of its own"
            f" ({error}). Other users can read in /dev/shm what its models are asked:"
            " docs/reference/security.md says what to do.",
            file=sys.stderr,
            flush=True,
        )


def _own_mounts() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", CLONE_NEWNS)
    except PermissionError:
        # Without the right to: in a user namespace, where this user stays who it is.
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for file, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{file}", "w") as opened:
                opened.write(content)


def _mount(source: str, target: str, kind: str, flags: int, data: bytes = b"") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode() or None, flags, data or None)


def _call(name: str, *arguments: object) -> None:
    """A function of the C library that answers 0. Raises OSError."""
    function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _allow_files() -> None:
    """A connection is an open file, and many systems allow 1,024 unless one asks for more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if most == resource.RLIM_INFINITY else min(FILES_MAX, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


if __name__ == "__main__":
    main()
