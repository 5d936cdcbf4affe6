"""Where the command begins: a Ctrl-C is quiet from here on, before the rest is imported."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130


def main() -> None:
    """Runs the command line; the same statuses as `basalt.cli.main`."""
    handler = signal.getsignal(signal.SIGINT)
    # Whoever started us may ignore it, as a shell does for what runs in the background.
    if handler is signal.default_int_handler:
        # Raised within an import, KeyboardInterrupt may be printed where nobody can catch it.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    # What gRPC logs of a failed connection is in the error too. It looks when it is imported only,
    # so that what `basalt up` starts logs as before.
    chosen = "GRPC_VERBOSITY" in os.environ
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from basalt.cli import main as run

    if not chosen:
        del os.environ["GRPC_VERBOSITY"]
    try:
        signal.signal(signal.SIGINT, handler)
        run()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
