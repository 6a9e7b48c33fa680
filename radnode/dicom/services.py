"""DIMSE messages as the acceptor sees them: command sets in, responses with their status out.

PS3.7 9.1 and 9.3 (messages), annex C and PS3.4 B.2.3 (statuses).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final

from radnode.dicom.headers import is_uid
from radnode.dicom.negotiation import INVALID_PARAMETER, STORAGE_COMMITMENT, VERIFICATION, Context, MalformedError

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP, N_ACTION_RQ = 0x0100, 0x8100, 0x0130
NO_DATA_SET = 0x0101

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
INVALID_ARGUMENT = 0x0115
INVALID_INSTANCE = 0x0117
NO_SUCH_CLASS = 0x0118
NOT_SUPPORTED = 0x0122
NO_SUCH_ACTION = 0x0123
UNRECOGNIZED_OPERATION = 0x0211
MISTYPED = 0x0212
RESOURCE_LIMITATION = 0x0213
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_AFFECTED_CLASS, _COMMAND, _MESSAGE_ID, _DATA_SET_TYPE, _AFFECTED_INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x1000
_REQUESTED_CLASS, _ANSWERED_ID, _STATUS, _REQUESTED_INSTANCE = 0x0003, 0x0120, 0x0900, 0x1001
_ACTION, _EVENT = 0x1008, 0x1002
_ELEMENT = Struct("<HHL")
_US = Struct("<H")
_US_ELEMENT = Struct("<HHLH")
_AT_ELEMENT = Struct("<HHLHH")
_GROUP_LENGTH = Struct("<HHLL")
_PDV = Struct(">BxLLBB")
_PDV_HEADER = 6
_COMMAND_FLAG = 1
COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""The well-known SOP instance of the push model (PS3.4 J.3.5)."""
REQUEST_COMMITMENT: Final = 1
"""Its one action type."""
MAX_COMMAND: Final = 65536
"""Bytes of a command set; real ones have some 150."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command set. Values are None where absent or of the wrong size.

    `sop_class` and `sop_instance` are the affected ones, of an N-ACTION the requested ones.
    """

    field: int
    message_id: int | None
    data_set_type: int | None
    sop_class: bytes | None
    sop_instance: bytes | None
    action: int | None = None
    status: int | None = None

    @property
    def has_data_set(self) -> bool:
        """Whether one follows; where the command does not say, a C-STORE has one."""
        if self.data_set_type is None:
            return self.field == C_STORE_RQ
        return self.data_set_type != NO_DATA_SET


@dataclass(frozen=True, slots=True)
class Outcome:
    """Status of a response, its ErrorComment (at most 64 characters are sent) and OffendingElement (a tag; 0: none)."""

    status: int
    comment: str = ""
    offending: int = 0


STORED: Final = Outcome(SUCCESS)


def decode_command(data: bytes) -> Command:
    """Reads a command set (always implicit VR little endian). Raises MalformedError where it is none.

    CommandGroupLength is ignored: it is wrong often enough, and says nothing the PDVs have not said.
    """
    elements: dict[int, bytes] = {}
    at, size = 0, len(data)
    while at + 8 <= size:
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += 8 + length
        if group or at > size:
            break
        elements[element] = data[at - length : at]
    if at != size or _COMMAND not in elements:
        raise MalformedError(INVALID_PARAMETER, "no command set")
    field = _number(elements, _COMMAND)
    kind = _number(elements, _DATA_SET_TYPE)
    if field == N_EVENT_REPORT_RSP:  # the one response to a request of ours
        return Command(field, _number(elements, _ANSWERED_ID), kind, None, None, None, _number(elements, _STATUS))
    if field is None or field & 0x8000:
        raise MalformedError(INVALID_PARAMETER, "no request")
    if field == N_ACTION_RQ:
        return Command(field, _number(elements, _MESSAGE_ID), kind, _uid(elements, _REQUESTED_CLASS),
                       _uid(elements, _REQUESTED_INSTANCE), _number(elements, _ACTION))  # fmt: skip
    return Command(field, _number(elements, _MESSAGE_ID), kind, _uid(elements, _AFFECTED_CLASS),
                   _uid(elements, _AFFECTED_INSTANCE))  # fmt: skip


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int(_US.unpack(value)[0]) if len(value) == 2 else None


def _uid(elements: dict[int, bytes], element: int) -> bytes | None:
    value = elements.get(element)
    return value.rstrip(b"\0 ") if value is not None else None


def check_store(command: Command, context: Context) -> Outcome | None:
    """What is wrong with a C-STORE-RQ before its data set has been looked at; None if nothing is."""
    if command.message_id is None:
        return Outcome(MISTYPED, "no Message ID", _MESSAGE_ID)
    if not command.sop_class:
        return Outcome(MISTYPED, "no Affected SOP Class UID", _AFFECTED_CLASS)
    if command.sop_instance is None:
        return Outcome(MISTYPED, "no Affected SOP Instance UID", _AFFECTED_INSTANCE)
    if not is_uid(command.sop_instance):
        return Outcome(INVALID_INSTANCE, "Affected SOP Instance UID is no UID", _AFFECTED_INSTANCE)
    if not command.has_data_set:
        return Outcome(MISTYPED, "C-STORE without a data set", _DATA_SET_TYPE)
    if command.sop_class != context.abstract_syntax.encode():
        return Outcome(DOES_NOT_MATCH, "SOP class is not the one negotiated", _AFFECTED_CLASS)
    if context.abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT):
        return Outcome(NOT_SUPPORTED, "SOP class is not for storage", _AFFECTED_CLASS)
    return None


def check_report(command: Command, context: Context) -> Outcome | None:
    """What is wrong with an N-EVENT-REPORT-RQ before its data set has been looked at; None if nothing is."""
    if command.message_id is None:
        return Outcome(MISTYPED, "no Message ID", _MESSAGE_ID)
    if context.abstract_syntax != STORAGE_COMMITMENT or command.sop_class != STORAGE_COMMITMENT.encode():
        return Outcome(NO_SUCH_CLASS, "only Storage Commitment has reports", _AFFECTED_CLASS)
    if not command.has_data_set:
        return Outcome(INVALID_ARGUMENT, "N-EVENT-REPORT without a data set", _DATA_SET_TYPE)
    return None


def check_action(command: Command, context: Context) -> Outcome | None:
    """What is wrong with an N-ACTION-RQ before its data set has been looked at (PS3.4 J.3.2); None if nothing is."""
    if command.message_id is None:
        return Outcome(MISTYPED, "no Message ID", _MESSAGE_ID)
    if context.abstract_syntax != STORAGE_COMMITMENT or command.sop_class != STORAGE_COMMITMENT.encode():
        return Outcome(NO_SUCH_CLASS, "only Storage Commitment has actions", _REQUESTED_CLASS)
    if command.sop_instance != COMMITMENT_INSTANCE.encode():
        return Outcome(NO_SUCH_INSTANCE, "not the well-known instance", _REQUESTED_INSTANCE)
    if command.action != REQUEST_COMMITMENT:
        return Outcome(NO_SUCH_ACTION, "action type is not 1", _ACTION)
    if not command.has_data_set:
        return Outcome(INVALID_ARGUMENT, "N-ACTION without a data set", _DATA_SET_TYPE)
    return None


def respond(command: Command, context: int, outcome: Outcome, max_pdu: int) -> bytes:
    """The response as P-DATA-TF PDUs no longer than the peer takes (0: any length)."""
    parts = []
    if command.sop_class and is_uid(command.sop_class):
        parts.append(_text_element(_AFFECTED_CLASS, command.sop_class))
    parts.append(_US_ELEMENT.pack(0, _COMMAND, 2, command.field | 0x8000))
    parts.append(_US_ELEMENT.pack(0, _ANSWERED_ID, 2, command.message_id or 0))
    parts.append(_US_ELEMENT.pack(0, _DATA_SET_TYPE, 2, NO_DATA_SET))
    parts.append(_US_ELEMENT.pack(0, _STATUS, 2, outcome.status))
    if outcome.offending:
        parts.append(_AT_ELEMENT.pack(0, 0x0901, 4, outcome.offending >> 16, outcome.offending & 0xFFFF))
    if outcome.comment:
        parts.append(_text_element(0x0902, outcome.comment.encode("ascii", "replace")[:64], b" "))
    if command.sop_instance and is_uid(command.sop_instance):
        parts.append(_text_element(_AFFECTED_INSTANCE, command.sop_instance))
    return b"".join(_pdus(_command_set(parts), context, max_pdu, _COMMAND_FLAG))


def event_report(message_id: int, event_type: int, data: bytes, context: int, max_pdu: int) -> bytes:
    """An N-EVENT-REPORT-RQ of Storage Commitment with its data set, as P-DATA-TF PDUs (PS3.7 10.1.1, PS3.4 J.3.3)."""
    command = _command_set([
        _text_element(_AFFECTED_CLASS, STORAGE_COMMITMENT.encode()),
        _US_ELEMENT.pack(0, _COMMAND, 2, N_EVENT_REPORT_RQ),
        _US_ELEMENT.pack(0, _MESSAGE_ID, 2, message_id),
        _US_ELEMENT.pack(0, _DATA_SET_TYPE, 2, 1),
        _text_element(_AFFECTED_INSTANCE, COMMITMENT_INSTANCE.encode()),
        _US_ELEMENT.pack(0, _EVENT, 2, event_type),
    ])  # fmt: skip
    return b"".join([*_pdus(command, context, max_pdu, _COMMAND_FLAG), *_pdus(data, context, max_pdu, 0)])


def _command_set(elements: list[bytes]) -> bytes:
    body = b"".join(elements)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def _pdus(body: bytes, context: int, max_pdu: int, kind: int) -> Iterator[bytes]:
    room = max_pdu - _PDV_HEADER if max_pdu else len(body)
    for at in range(0, len(body), room):
        piece = body[at : at + room]
        last = at + room >= len(body)
        yield _PDV.pack(4, len(piece) + _PDV_HEADER, len(piece) + 2, context, kind | last << 1) + piece


def _text_element(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value
