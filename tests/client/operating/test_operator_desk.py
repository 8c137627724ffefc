"""What an operator's terminal shows of a server: text, never what a terminal would obey."""

import json
from types import SimpleNamespace

import grpc
import pytest

from adpfl.errors import IntegrityError, StateError
from adpfl_client.link.enrollment_call import _explained
from adpfl_client.link.proxy import Route
from adpfl_client.operating.operator_desk import Desk

CLEAR = "\x1b[2J\u202eall is well"


class Refused(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.FAILED_PRECONDITION

    def details(self):
        return f"refused{CLEAR}"


@pytest.fixture
def desk():
    with grpc.insecure_channel("localhost:1") as channel:
        yield Desk(channel, Route())


def answer(desk, document):
    get = lambda _asked, timeout: SimpleNamespace(runs_json=[document])  # noqa: ARG005, E731 - as gRPC calls it
    desk._operations = SimpleNamespace(GetStatus=get)


def test_a_status_is_the_documents_value_in_ascii(desk):
    answer(desk, json.dumps({"run": CLEAR}, ensure_ascii=False).replace("\x1b", "\\u001b").encode())
    (line,) = desk.status(None)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {"run": CLEAR}


@pytest.mark.parametrize("document", [b"\x1b[2J", b"\xff", b"[" * 100_000])
def test_a_status_that_is_no_document_is_refused(desk, document):
    answer(desk, document)
    with pytest.raises(IntegrityError, match="status is not JSON"):
        desk.status(None)


def test_a_refusal_is_one_line_of_shown_characters(desk):
    def refuse(_asked, timeout):
        raise Refused

    desk._operations = SimpleNamespace(GetStatus=refuse)
    with pytest.raises(StateError) as error:
        desk.status(None)
    assert str(error.value).isprintable()
    assert "all is well" in str(error.value)


def test_a_refused_enrolment_is_one_line_of_shown_characters():
    said = _explained(Refused(), SimpleNamespace(enroll_address="localhost:2", consortium="Study"), Route())
    assert str(said).isprintable()
