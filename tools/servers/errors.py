"""The one error of this package."""


class ServerError(Exception):
    """A server could not be obtained, started or stopped.

    The message says what went wrong, with which server, and what to do next.
    """

    def __init__(self, which: str, what: str, next_step: str) -> None:
        super().__init__(f"{which}: {what}\nNext: {next_step}")
        self.which = which
        self.what = what
        self.next_step = next_step
