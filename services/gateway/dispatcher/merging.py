"""Makes one request of several along the first dimension, and several answers of one.

Members have the same tensors but for the number of rows, so a merged request is their raw bytes
laid end to end under a head that states the sum; an answer is cut at the same rows.
"""

from services.gateway.dispatcher import frames
from services.gateway.dispatcher.calls import Call
from services.gateway.dispatcher.messages import (
    COUNTED_BYTES_MAX,
    ID,
    RAW_INPUTS,
    RAW_OUTPUTS,
    AnswerForm,
    RequestForm,
    Tensor,
    bytes_offsets,
    read_answer,
    read_answer_form,
)
from services.gateway.dispatcher.routing import Target
from services.gateway.dispatcher.wire import MessageError, delimited, grpc_prefix, varint

# Merging pays for requests whose cost is the call, not the bytes. The bound is also what lets the
# elements of every BYTES member be counted: a miscounted one would shift its neighbours' rows.
MERGE_REQUEST_BYTES_MAX = COUNTED_BYTES_MAX
MERGE_BYTES_MAX = 1024 * 1024
ANSWER_FORMS_MAX = 256
MEMBER_ANSWERS_MAX = 1_024


class SplitError(Exception):
    """An answer does not have one row for each row asked."""


class MemberAnswer:
    """The bytes before a member's raw output; they are the same for all its like."""

    __slots__ = ("lead", "opening")

    def __init__(self, target: Target, form: AnswerForm, rows: int, raw_bytes: int) -> None:
        head = target.identity + form.member_head(rows)
        head += bytes((RAW_OUTPUTS,)) + varint(raw_bytes)
        length = len(head) + raw_bytes
        self.lead = grpc_prefix(length) + head
        # The answer's header block and the start of its DATA frame lie side by side on the wire.
        data = frames.header(frames.DATA, 0, 0, length + 5)
        self.opening = target.answer_headers + data[:5]


class Lane:
    """The calls of one model that may share a request, and what was learnt of their answers."""

    __slots__ = ("_answers", "_form", "_heads", "_members", "_rewriting", "waiting")

    def __init__(self, rewriting: bytes, form: RequestForm) -> None:
        self.waiting: dict[Call, None] = {}
        self._rewriting = rewriting
        self._form = form
        self._heads: dict[int, bytes] = {}
        self._answers: dict[bytes, AnswerForm] = {}
        self._members: dict[tuple[AnswerForm, Target, int], MemberAnswer] = {}

    def take(self) -> tuple[list[Call], int]:
        """Takes calls, oldest first, up to the model's batch size. At least one."""
        batch: list[Call] = []
        rows = size = 0
        rows_max = 0
        for call in self.waiting:
            rows_max = rows_max or call.target.merge_rows_max
            call_rows = call.form.rows
            if batch and (rows + call_rows > rows_max or size + len(call.body) > MERGE_BYTES_MAX):
                break
            rows += call_rows
            size += len(call.body)
            batch.append(call)
        if len(batch) == len(self.waiting):
            self.waiting.clear()
        else:
            for call in batch:
                del self.waiting[call]
        return batch, rows

    def merged(self, batch: list[Call], rows: int) -> bytes:
        """The body, gRPC prefix included, of one request for all of the batch."""
        head = self._heads.get(rows)
        if head is None:
            form = self._form
            head = b"".join(
                (self._rewriting, *(tensor.encoded(rows) for tensor in form.inputs), form.outputs)
            )
            self._heads[rows] = head
        parts = [b"", head]
        for index in range(len(self._form.inputs)):
            raws: list[bytes] = []
            for call in batch:
                start, end = call.raws[index]
                raws.append(call.body[start:end])
            raw = b"".join(raws)
            parts.append(RAW_INPUT_TAG + varint(len(raw)))
            parts.append(raw)
        parts[0] = grpc_prefix(sum(map(len, parts)))
        return b"".join(parts)

    def split(self, batch: list[Call], rows: int, message: bytes) -> "SplitAnswer":
        """Prepares to cut a ModelInferResponse by the batch's rows. Raises SplitError."""
        try:
            head, raws = read_answer(message)
            form = self._answers.get(head)
            if form is None:
                form = read_answer_form(head, len(raws))
                if len(self._answers) >= ANSWER_FORMS_MAX:
                    self._answers.clear()
                    self._members.clear()
                self._answers[head] = form
            if form.rows != rows or len(raws) != len(form.outputs):
                raise SplitError("the answer's rows are not the request's")
            offsets = [
                _row_offsets(message, start, end, tensor, rows)
                for tensor, (start, end) in zip(form.outputs, raws, strict=True)
            ]
        except MessageError as error:
            raise SplitError(str(error)) from error
        return SplitAnswer(self, form, message, offsets)

    def member(self, form: AnswerForm, target: Target, rows: int, raw_bytes: int) -> MemberAnswer:
        key = (form, target, rows)
        member = self._members.get(key)
        if member is None:
            if len(self._members) >= MEMBER_ANSWERS_MAX:
                self._members.clear()
            member = self._members[key] = MemberAnswer(target, form, rows, raw_bytes)
        return member


RAW_INPUT_TAG = bytes((RAW_INPUTS,))


class SplitAnswer:
    """An answer that is known to split: hands out its rows in order."""

    __slots__ = ("_form", "_lane", "_offsets", "message", "row_bytes", "start")

    def __init__(
        self, lane: Lane, form: AnswerForm, message: bytes, offsets: list["RowOffsets"]
    ) -> None:
        self._lane = lane
        self._form = form
        self._offsets = offsets
        self.message = message
        # The usual answer is one tensor of fixed rows, and needs no more than these two numbers.
        only = offsets[0] if len(offsets) == 1 else None
        self.start = only.start if isinstance(only, FixedRows) else 0
        self.row_bytes = only.row_bytes if isinstance(only, FixedRows) else 0

    def member(self, target: Target, rows: int) -> MemberAnswer:
        return self._lane.member(self._form, target, rows, rows * self.row_bytes)

    def body(self, call: Call, row: int, rows: int) -> bytes:
        """The whole body, gRPC prefix included, for one member."""
        parts = [call.target.identity]
        if call.request_id:
            parts.append(delimited(ID, call.request_id))
        parts.append(self._form.member_head(rows))
        for offsets in self._offsets:
            raw = self.message[offsets.at(row) : offsets.at(row + rows)]
            parts.append(delimited(RAW_OUTPUTS, raw))
        message = b"".join(parts)
        return grpc_prefix(len(message)) + message


class FixedRows:
    __slots__ = ("row_bytes", "start")

    def __init__(self, start: int, row_bytes: int) -> None:
        self.start = start
        self.row_bytes = row_bytes

    def at(self, row: int) -> int:
        return self.start + row * self.row_bytes


class CountedRows:
    """Rows of a BYTES tensor, whose elements differ in length."""

    __slots__ = ("_elements_per_row", "_offsets")

    def __init__(self, offsets: list[int], elements_per_row: int) -> None:
        self._offsets = offsets
        self._elements_per_row = elements_per_row

    def at(self, row: int) -> int:
        return self._offsets[row * self._elements_per_row]


RowOffsets = FixedRows | CountedRows


def _row_offsets(message: bytes, start: int, end: int, tensor: Tensor, rows: int) -> RowOffsets:
    if tensor.element_bytes:
        row_bytes = tensor.elements_per_row * tensor.element_bytes
        if row_bytes * rows != end - start:
            raise SplitError("an output's bytes are not as many as its shape says")
        return FixedRows(start, row_bytes)
    return CountedRows(bytes_offsets(message, start, end, tensor.elements), tensor.elements_per_row)
