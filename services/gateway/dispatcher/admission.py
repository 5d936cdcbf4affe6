"""Takes calls in: reads them, finds their model, holds them to the limits, and queues them."""

import zlib
from time import monotonic

from libs.common.revocations import Revocations
from services.gateway.dispatcher.calls import WAITING, Call, RefusedError, Status
from services.gateway.dispatcher.delivery import Delivery
from services.gateway.dispatcher.ledger import Ledger
from services.gateway.dispatcher.limits import Limits
from services.gateway.dispatcher.messages import RequestReader
from services.gateway.dispatcher.routing import NotDeployedError, RoutingTable
from services.gateway.dispatcher.tenants import Tenant, Tenants
from services.gateway.dispatcher.upstream import MODEL_INFER_PATH
from services.gateway.dispatcher.wire import GRPC_PREFIX_BYTES, MessageError, grpc_prefix

_DEFLATE_BITS = {b"gzip": 31, b"deflate": 15}  # zlib's names for the two formats.


class Admission:
    """The `CallReceiver` of all connections of Envoy."""

    def __init__(
        self, limits: Limits, ledger: Ledger, delivery: Delivery, revocations: Revocations
    ) -> None:
        self._limits = limits
        self._revocations = revocations
        self._ledger = ledger
        self._delivery = delivery
        self._tenants = Tenants(limits.tenant_concurrency_max, limits.message_bytes_max)
        self._requests = RequestReader()
        self.table = RoutingTable()

    def use(self, table: RoutingTable) -> None:
        self.table = table
        self._tenants.limit(table.tenant_concurrency_max, table.tenant_message_bytes_max)

    def opened(self, call: Call) -> None:
        self._ledger.open(call)
        headers = call.headers
        if headers.path != MODEL_INFER_PATH:
            path = headers.path.decode(errors="replace")
            self._ledger.refuse(call, Status.UNIMPLEMENTED, f"'{path}' is not served here")
        elif not headers.tenant:
            self._ledger.refuse(
                call,
                Status.UNAUTHENTICATED,
                "the call names no tenant; call through the gateway's door with a token",
            )
        elif (token := headers.token) is not None and self._revocations.refuses(
            token.id, token.login_id, token.subject, token.generation
        ):
            self._ledger.refuse(
                call,
                Status.UNAUTHENTICATED,
                "the token was revoked; log in again: `basalt login`, or use another API key",
            )

    def grew(self, call: Call, data: bytes) -> None:
        try:
            if call.tenant is None:
                # A body that comes in parts is its tenant's from the first on, however slowly.
                self._enter(call, self._tenants.get(call.headers.tenant))
            self._ledger.hold(call, len(data))
        except RefusedError as refusal:
            self._ledger.refuse(call, refusal.code, refusal.message)
            return
        if call.chunks is None:
            call.chunks = [data]
        else:
            call.chunks.append(data)

    def completed(self, call: Call, data: bytes) -> None:
        try:
            self._ledger.hold(call, len(data))
            if call.chunks is not None:
                call.chunks.append(data)
                data = b"".join(call.chunks)
                call.chunks = None
            call.body = data
            self._accept(call, data)
        except RefusedError as refusal:
            self._ledger.refuse(call, refusal.code, refusal.message)
        except NotDeployedError as error:
            self._ledger.refuse(call, Status.NOT_FOUND, str(error))
        except MessageError as error:
            self._ledger.refuse(
                call, Status.INVALID_ARGUMENT, f"not a valid ModelInferRequest: {error}"
            )

    def abandoned(self, call: Call) -> None:
        self._ledger.end_early(call, Status.CANCELLED, monotonic())

    def _accept(self, call: Call, body: bytes) -> None:
        """Reads, routes and queues a call. Raises what `completed` answers."""
        headers = call.headers
        tenant = self._tenants.get(headers.tenant)
        if len(body) - GRPC_PREFIX_BYTES > tenant.message_bytes_max:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the request is longer than this tenant's limit message_bytes_max, "
                f"{tenant.message_bytes_max} bytes; send fewer rows at a time",
            )
        layout = tenant.layouts.get(len(body))
        if (
            layout is not None
            and body.startswith(layout.lead)
            and (
                not layout.marks
                or all(body.startswith(mark, start) for start, mark in layout.marks)
            )
        ):
            form = layout.form
            call.raws = layout.raws
        else:
            body = self._checked(call, body)
            parsed = self._requests.read(body)
            form = parsed.form
            call.raws = parsed.raws
            call.request_id = parsed.request_id
            if parsed.layout is not None:
                tenant.remember(len(body), parsed.layout)
        routed = self.table.models.get((tenant.name, form.model))
        if routed is None:
            raise NotDeployedError(
                f"model '{form.model}' is not deployed for this tenant; see `basalt deploy list`"
            )
        target = routed.choose(form.version, call.request_id)
        call.form, call.target, call.routed = form, target, True
        if call.tenant is None:
            self._enter(call, tenant)
        model = self._delivery.model_of(target)
        self._delivery.check_room(model, target)
        call.model = model
        call.state = WAITING
        self._delivery.enqueue(call, model, target)

    def _enter(self, call: Call, tenant: Tenant) -> None:
        """From here to its release the call is one of the tenant's in flight."""
        if tenant.in_flight >= tenant.concurrency_max:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"this tenant has {tenant.concurrency_max} calls in flight, its limit; "
                "wait for answers, or try again shortly",
            )
        tenant.in_flight += 1
        call.tenant = tenant
        self._ledger.charge(tenant, call.held_bytes)

    def _checked(self, call: Call, body: bytes) -> bytes:
        """The body as exactly one uncompressed gRPC message."""
        if len(body) < GRPC_PREFIX_BYTES:
            raise MessageError("the call ended before its message")
        length = int.from_bytes(body[1:GRPC_PREFIX_BYTES], "big")
        if length != len(body) - GRPC_PREFIX_BYTES:
            raise MessageError("the call does not hold exactly one whole message")
        if body[0] == 0:
            return body
        bits = _DEFLATE_BITS.get(call.headers.encoding)
        if bits is None or body[0] != 1:
            raise RefusedError(
                Status.UNIMPLEMENTED, "messages may be compressed with gzip or deflate"
            )
        inflater = zlib.decompressobj(bits)
        limit = self._limits.message_bytes_max
        try:
            message = inflater.decompress(body[GRPC_PREFIX_BYTES:], limit + 1)
        except zlib.error as error:
            raise MessageError("the compressed message is damaged") from error
        if len(message) <= limit and not inflater.eof:
            raise MessageError("the compressed message is cut short")
        self._ledger.hold(call, max(len(message) - len(body) + GRPC_PREFIX_BYTES, 0))
        if len(message) > limit:
            raise RefusedError(
                Status.RESOURCE_EXHAUSTED,
                f"the request is longer than the limit of {limit} bytes; send fewer rows at a time",
            )
        call.body = grpc_prefix(len(message)) + message
        return call.body
