"""What the dispatcher lets itself be burdened with."""

from dataclasses import dataclass

from services.gateway.dispatcher.routing import TENANT_CONCURRENCY_MAX_DEFAULT


@dataclass(frozen=True, slots=True)
class Limits:
    message_bytes_max: int = 64 * 1024 * 1024
    answer_bytes_max: int = 64 * 1024 * 1024
    # Of all bodies that are held at a time, being read, waiting or in Triton.
    buffered_bytes_max: int = 512 * 1024 * 1024
    # Of them, what one tenant's may be: beyond it that tenant is refused, and nobody else.
    tenant_buffered_bytes_max: int = 256 * 1024 * 1024
    tenant_concurrency_max: int = TENANT_CONCURRENCY_MAX_DEFAULT
    model_waiting_max: int = 4_096
    timeout_s_default: float = 60.0  # Of a call that names no deadline of its own.
    timeout_s_max: float = 300.0  # Its body included, however slowly it comes.
    triton_absent_s_max: float = 5.0  # How long calls wait for a Triton that is not there.
