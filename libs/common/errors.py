"""Every error that a caller may see.

    BasaltError
    ├── InvalidInputError      INVALID_ARGUMENT     the caller must change what it sent
    ├── UnauthenticatedError   UNAUTHENTICATED      no token, or one that does not hold
    ├── ForbiddenError         PERMISSION_DENIED    the policy says no
    ├── NotFoundError          NOT_FOUND            no such thing in the caller's tenant
    ├── AlreadyExistsError     ALREADY_EXISTS       the name is taken
    ├── PreconditionError      FAILED_PRECONDITION  something else has to happen first
    ├── LimitError             RESOURCE_EXHAUSTED   a named limit; later it may pass      (retry)
    ├── ConflictError          ABORTED              somebody else was first               (retry)
    ├── DependencyError        UNAVAILABLE          a named dependency is out of reach    (retry)
    ├── DeadlineError          DEADLINE_EXCEEDED    no answer within the caller's time    (retry)
    ├── IntegrityError         DATA_LOSS            bytes are not what their digest says
    └── InternalError          INTERNAL             a fault of ours; its text stays inside

An error says what, which and what next. `retryable` tells whether the same call may pass later.
"""

from __future__ import annotations

from typing import ClassVar

from libs.common.echo import NEXT_STEP_BYTES_MAX, WHAT_BYTES_MAX, WHICH_BYTES_MAX, bounded


class BasaltError(Exception):
    """`what` with `which` thing it is about, and `next_step`: what the reader can do now.

    These three may hold a caller's words; they are bounded here, since an error goes everywhere.
    `inside` is for our own logs alone: a path, an object's key, an address. It never travels.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(
        self, what: str, *, which: str = "", next_step: str = "", inside: str = ""
    ) -> None:
        self.what = bounded(what, WHAT_BYTES_MAX)
        self.which = bounded(which, WHICH_BYTES_MAX)
        self.next_step = bounded(next_step, NEXT_STEP_BYTES_MAX)
        super().__init__(self.what)
        self.inside = inside

    @property
    def whole(self) -> str:
        """For our own logs."""
        return f"{self} ({self.inside})" if self.inside else str(self)

    @property
    def reason(self) -> str:
        """The error's kind as google.rpc.ErrorInfo wants it: NOT_FOUND, LIMIT..."""
        return self.code

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.next_step) if part)


class InvalidInputError(BasaltError):
    code = "INVALID_ARGUMENT"


class UnauthenticatedError(BasaltError):
    code = "UNAUTHENTICATED"


class ForbiddenError(BasaltError):
    code = "PERMISSION_DENIED"


class NotFoundError(BasaltError):
    code = "NOT_FOUND"


class AlreadyExistsError(BasaltError):
    code = "ALREADY_EXISTS"


class PreconditionError(BasaltError):
    code = "FAILED_PRECONDITION"


class LimitError(BasaltError):
    code = "RESOURCE_EXHAUSTED"
    retryable = True


class ConflictError(BasaltError):
    code = "ABORTED"
    retryable = True


class DependencyError(BasaltError):
    """`which` is the dependency: kafka, triton, journal, objects, or a service's name."""

    code = "UNAVAILABLE"
    retryable = True


class DeadlineError(BasaltError):
    code = "DEADLINE_EXCEEDED"
    retryable = True


class IntegrityError(BasaltError):
    code = "DATA_LOSS"


class InternalError(BasaltError):
    code = "INTERNAL"


BY_CODE: dict[str, type[BasaltError]] = {
    kind.code: kind
    for kind in (
        InvalidInputError,
        UnauthenticatedError,
        ForbiddenError,
        NotFoundError,
        AlreadyExistsError,
        PreconditionError,
        LimitError,
        ConflictError,
        DependencyError,
        DeadlineError,
        IntegrityError,
        InternalError,
    )
}
