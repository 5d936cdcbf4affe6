"""Reads just enough of a ModelInferRequest or ModelInferResponse to route, merge and split it.

A message is a *head* (names, shapes, parameters) and raw tensors. Heads repeat from call to call,
so each distinct head is parsed once into a form and looked up by its bytes ever after; raw tensors
are only ever sliced.
"""

from dataclasses import dataclass, field
from math import prod

from services.gateway.dispatcher.wire import (
    GRPC_PREFIX_BYTES,
    TENSOR_FIELDS_MAX,
    MessageError,
    delimited,
    fields_of,
    read_varint,
    varint,
)

HEAD_BYTES_MAX = 4_096  # Heads beyond this are parsed each time: they would make the cache large.
FORMS_MAX = 4_096
DIMENSIONS_MAX = 32
COUNTED_BYTES_MAX = 65_536  # The elements of longer BYTES tensors are for Triton to count.
ELEMENTS_MAX = 2**40
BYTES_LENGTH_BYTES = 4  # Each element of a BYTES tensor follows its length.

# Bytes of one element by datatype; BYTES elements have a length each.
DATATYPE_BYTES = {
    b"BOOL": 1, b"UINT8": 1, b"UINT16": 2, b"UINT32": 4, b"UINT64": 8,
    b"INT8": 1, b"INT16": 2, b"INT32": 4, b"INT64": 8,
    b"FP16": 2, b"BF16": 2, b"FP32": 4, b"FP64": 8, b"BYTES": 0,
}  # fmt: skip

# Tags of length-delimited fields: number << 3 | 2.
MODEL_NAME = 0x0A
MODEL_VERSION = 0x12
ID = 0x1A
PARAMETERS = 0x22
TENSORS = 0x2A  # Of the request: inputs; of the response: outputs.
OUTPUTS = 0x32  # Of the request.
RAW_INPUTS = 0x3A
RAW_OUTPUTS = 0x32

Span = tuple[int, int]  # Where a value's bytes begin and end.


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output tensor's description."""

    name: bytes
    datatype: bytes
    shape: tuple[int, ...]
    plain: bool  # It has neither parameters, nor typed contents, nor fields unknown to us.

    @property
    def element_bytes(self) -> int:
        """0 where the datatype is BYTES or unknown."""
        return DATATYPE_BYTES.get(self.datatype, 0)

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def elements_per_row(self) -> int:
        return prod(self.shape[1:])

    def encoded(self, rows: int) -> bytes:
        """The tensor's description as a field, its first dimension replaced."""
        dimensions = b"".join(varint(size) for size in (rows, *self.shape[1:]))
        return delimited(
            TENSORS,
            delimited(0x0A, self.name)
            + delimited(0x12, self.datatype)
            + delimited(0x1A, dimensions),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RequestForm:
    """What all requests with equal heads have in common."""

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: bytes  # The fields that ask for outputs, as they came.
    rows: int  # 0 where such requests cannot be merged.
    # Requests are merged only with those of the same signature: the same tensors but for the rows.
    signature: bytes
    raw_bytes: tuple[int, ...]  # What each raw input must measure; -1 where only its elements tell.


@dataclass(frozen=True, slots=True, eq=False)
class RequestLayout:
    """Where everything lies in requests that begin with the very same bytes and are as long."""

    form: RequestForm
    lead: bytes
    marks: tuple[tuple[int, bytes], ...]  # Tags and lengths between the raw inputs.
    raws: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    form: RequestForm
    request_id: bytes  # The value of the field `id`.
    raws: tuple[Span, ...]
    layout: RequestLayout | None  # Set where the next such request can skip the parse.


@dataclass(slots=True, eq=False)
class AnswerForm:
    """What all answers with equal heads have in common."""

    outputs: tuple[Tensor, ...]
    parameters: bytes  # The fields of the answer's own parameters, as they came.
    rows: int  # 0 where the answer cannot be split.
    # By member rows: the outputs' fields for such a member.
    member_heads: dict[int, bytes] = field(default_factory=dict)

    def member_head(self, rows: int) -> bytes:
        head = self.member_heads.get(rows)
        if head is None:
            head = self.parameters + b"".join(tensor.encoded(rows) for tensor in self.outputs)
            self.member_heads[rows] = head
        return head


def text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MessageError(f"{what} is not UTF-8") from None


def read_tensor(data: bytes) -> Tensor:
    name = datatype = b""
    shape: list[int] = []
    plain = True
    for tag, _, start, end in fields_of(data, 0, len(data), TENSOR_FIELDS_MAX):
        if tag == 0x0A:
            name = data[start:end]
        elif tag == 0x12:
            datatype = data[start:end]
        elif tag == 0x1A:
            while start < end and len(shape) <= DIMENSIONS_MAX:
                size, start = read_varint(data, start, end)
                shape.append(size)
        elif tag == 0x18:
            size, _ = read_varint(data, start, end)
            shape.append(size)
        else:
            plain = False
            if tag == PARAMETERS:
                _check_parameter(data[start:end])
    _check_shape(name, shape)
    return Tensor(name, datatype, tuple(shape), plain)


def _is_plain_output(data: bytes) -> bool:
    plain = True
    for tag, _, start, end in fields_of(data, 0, len(data), TENSOR_FIELDS_MAX):
        if tag != 0x0A:
            plain = False
            _check_parameter(data[start:end])
    return plain


def _check_parameter(entry: bytes) -> None:
    if b"shared_memory_region" in entry:
        raise MessageError("shared memory is not offered here; send the tensors in the request")


def _check_shape(name: bytes, shape: list[int]) -> None:
    # A negative dimension is a varint of ten bytes, so it is far above the limit too.
    if len(shape) > DIMENSIONS_MAX or max(shape, default=0) > ELEMENTS_MAX:
        raise MessageError(f"tensor {text(name, 'a tensor name')!r} has an impossible shape")
    if prod(shape) > ELEMENTS_MAX:
        raise MessageError(f"tensor {text(name, 'a tensor name')!r} has too many elements")


def bytes_offsets(data: bytes, start: int, end: int, elements: int) -> list[int]:
    """Where the elements of a BYTES tensor begin, and where the last one ends."""
    offsets = [start]
    position = start
    while position < end:
        if position + BYTES_LENGTH_BYTES > end or len(offsets) > elements:
            raise MessageError("a BYTES tensor does not hold as many elements as its shape says")
        length = int.from_bytes(data[position : position + BYTES_LENGTH_BYTES], "little")
        position += BYTES_LENGTH_BYTES + length
        offsets.append(position)
    if position != end or len(offsets) != elements + 1:
        raise MessageError("a BYTES tensor does not hold as many elements as its shape says")
    return offsets


class RequestReader:
    """Reads requests; remembers the forms of heads that it has seen."""

    def __init__(self) -> None:
        self._forms: dict[bytes, RequestForm] = {}

    def read(self, body: bytes) -> ParsedRequest:
        """`body` begins with the gRPC prefix. Raises MessageError."""
        request_id = b""
        head: list[bytes] = []
        head_start = GRPC_PREFIX_BYTES
        raws: list[Span] = []
        marks: list[tuple[int, bytes]] = []
        # The head is everything but the id and the raw inputs, usually one or two slices.
        for tag, begin, start, end in fields_of(body, GRPC_PREFIX_BYTES, len(body)):
            if tag in (ID, RAW_INPUTS):
                if head_start < begin:
                    head.append(body[head_start:begin])
                head_start = end
                if tag == ID:
                    request_id = body[start:end]
                else:
                    marks.append((begin, body[begin:start]))
                    raws.append((start, end))
        if head_start < len(body):
            head.append(body[head_start:])
        form = self._form(b"".join(head))
        _check_raws(form, body, raws)
        layout = None
        if not request_id and raws and form.rows and -1 not in form.raw_bytes:
            layout = RequestLayout(form, body[: raws[0][0]], tuple(marks[1:]), tuple(raws))
        return ParsedRequest(form, request_id, tuple(raws), layout)

    def _form(self, head: bytes) -> RequestForm:
        form = self._forms.get(head)
        if form is None:
            form = read_form(head)
            if len(head) <= HEAD_BYTES_MAX:
                if len(self._forms) >= FORMS_MAX:
                    self._forms.clear()
                self._forms[head] = form
        return form


def read_form(head: bytes) -> RequestForm:
    model = version = b""
    inputs: list[Tensor] = []
    outputs: list[bytes] = []
    plain = True
    for tag, begin, start, end in fields_of(head, 0, len(head)):
        if tag == MODEL_NAME:
            model = head[start:end]
        elif tag == MODEL_VERSION:
            version = head[start:end]
        elif tag == TENSORS:
            inputs.append(read_tensor(head[start:end]))
        elif tag == OUTPUTS:
            outputs.append(head[begin:end])
            plain = _is_plain_output(head[start:end]) and plain
        else:
            plain = False
    plain = plain and bool(inputs) and all(tensor.plain for tensor in inputs)
    return RequestForm(
        text(model, "the model name"),
        text(version, "the model version"),
        tuple(inputs),
        b"".join(outputs),
        _rows(inputs) if plain else 0,
        b"".join(tensor.encoded(1) for tensor in inputs) + b"".join(outputs) if plain else b"",
        tuple(
            tensor.elements * tensor.element_bytes if tensor.element_bytes else -1
            for tensor in inputs
        ),
    )


def _rows(inputs: list[Tensor]) -> int:
    rows = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
    known = all(tensor.datatype in DATATYPE_BYTES for tensor in inputs)
    return rows.pop() if len(rows) == 1 and known else 0


def _check_raws(form: RequestForm, body: bytes, raws: list[Span]) -> None:
    if not raws:
        if form.rows:
            raise MessageError(
                "the inputs have no content: neither raw_input_contents nor contents"
            )
        return
    if len(raws) != len(form.inputs):
        raise MessageError(
            f"there are {len(form.inputs)} inputs, but {len(raws)} raw_input_contents"
        )
    for tensor, expected, (start, end) in zip(form.inputs, form.raw_bytes, raws, strict=True):
        if expected == -1:
            if tensor.datatype == b"BYTES" and end - start <= COUNTED_BYTES_MAX:
                bytes_offsets(body, start, end, tensor.elements)
        elif end - start != expected:
            raise MessageError(
                f"input {text(tensor.name, 'an input name')!r} of shape {list(tensor.shape)} and "
                f"type {tensor.datatype.decode()} needs {expected} bytes, but {end - start} came"
            )


def read_answer(message: bytes) -> tuple[bytes, list[Span]]:
    """The head of a ModelInferResponse, and its raw outputs."""
    raws: list[Span] = []
    head_end = None
    for tag, begin, start, end in fields_of(message, 0, len(message)):
        if tag == RAW_OUTPUTS:
            if head_end is None:
                head_end = begin
            raws.append((start, end))
        elif raws:
            raise MessageError("fields follow the raw outputs")
    return message[:head_end], raws


def read_answer_form(head: bytes, raw_count: int) -> AnswerForm:
    outputs: list[Tensor] = []
    parameters: list[bytes] = []
    for tag, begin, start, end in fields_of(head, 0, len(head)):
        if tag == TENSORS:
            outputs.append(read_tensor(head[start:end]))
        elif tag == PARAMETERS:
            parameters.append(head[begin:end])
    splits = (
        bool(outputs)
        and len(outputs) == raw_count
        and all(tensor.plain and tensor.datatype in DATATYPE_BYTES for tensor in outputs)
    )
    return AnswerForm(tuple(outputs), b"".join(parameters), _rows(outputs) if splits else 0)
