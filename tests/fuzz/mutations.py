"""Inputs that are nearly right: edits of examples, JSON with one odd node, and the classics."""

import json
from typing import Any

from hypothesis import strategies as st

LONGEST = 4096
"""Of what is inserted; sizes beyond are `NASTY`'s business."""

NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 1e308, -0.0, 1.5, True)
ODD_NODES = (
    None, *NUMBERS, "", "x", "a" * 300, "../../etc/passwd", "\x00", "\u202e", "\ud800", "NaN", "0" * 64,
    float("nan"), float("inf"), [], {}, [[]], {"": {}}, [1, 2], ["a"], [None], {"a": [1]},
)  # fmt: skip
"""What takes the place of a node of a JSON document."""

PIECES = (b"\x00", b"\xff" * 9, b"-", b"[", b"{", b'"', b"\n", b"  ", b"9" * 40, b"&a", b"*a")
DEEP = 100_000
NASTY = {
    "empty": b"",
    "a zero byte": b"\x00",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "not UTF-8": b"\xff\xfe\xfd",
    "null": b"null",
    "a list": b"[]",
    "an object": b"{}",
    "a number": b"1",
    "a long number": b"9" * 10_000,
    "a float beyond floats": b"1e999",
    "not a number": b"NaN",
    "half a surrogate": b'"\\ud800"',
    "half a surrogate as a key": b'{"\\ud800": 1}',
    "deep lists": b"[" * DEEP,
    "deep objects": b'{"a":' * DEEP,
    "deep and closed": b"[" * DEEP + b"]" * DEEP,
    "a key that stands twice": b'{"run": "a", "run": "b"}',
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(20_000)) + b"}",
    "one long text": b'"' + b"a" * 2_000_000 + b'"',
    "long and not JSON": b"a" * 2_000_000,
    "a huge header length": b"\xff" * 8 + b"{}",
    "a header of a megabyte": (2**20).to_bytes(8, "little") + b" " * 2**20,
    "a deep header": (2 * DEEP).to_bytes(8, "little") + b"[" * DEEP + b"]" * DEEP,
    "PEM of nothing": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "half of PEM": b"-----BEGIN CERTIFICATE-----\nMIIB",
    "DER of a long object": b"\x30\x84\xff\xff\xff\xff",
    "deep DER": b"\x30\x80" * 10_000,
    "YAML that holds itself": b"&a [*a]",
    "YAML whose object holds itself": b"&a {state_dir: *a}",
    "YAML that unfolds": b"".join(
        b"l%d: &l%d [%s]\n" % (level, level, b",".join([b"*l%d" % (level - 1)] * 9) if level else b"1")
        for level in range(9)
    ),
    "a YAML tag of Python": b"!!python/object/apply:os.system [id]",
    "a YAML date that is none": b"run: 2026-99-99",
    "a YAML time that is none": b"run: 2026-01-01T99:99:99Z",
    "YAML binary": b"run: !!binary '%%%'",
    "a YAML tag on the wrong node": b"run: !!int [1]",
    "a YAML tag on the wrong text": b"run: !!float abc",
    "a YAML number of base 60": b"run: 190:20:30:59",
    "a long YAML number": b"run: " + b"9" * 10_000,
    "an unknown YAML tag": b"run: !foo bar",
    "a YAML set": b"run: !!set {a, b}",
    "YAML pairs": b"run: !!pairs [a: 1]",
    "a YAML merge": b"<<: 1",
    "a YAML merge of itself": b"&a\n<<: *a\n",
    "a YAML key that is a list": b"? [a]\n: b",
    "a YAML value sign": b"=: 1\nrun: =",
    "two YAML documents": b"--- a\n--- b\n",
    "a YAML directive": b"%YAML 9.9\n--- a",
    "deep YAML": b"- " * 5_000 + b"a",
    "a CSV field without an end": b'case,site\n"' + b"a" * 300_000,
    "CSV without rows": b"case,site\n",
    "CSV with too many cells": b"case,site\na,b,c,d\n",
    "CSV with too few": b"case,patient,site,labels\na\n",
    "CSV with a zero byte": b"case,site\n\x00,b\n",
    "lines of every kind": b"case,site\r\na,b\rc,d\n\x0b\x0c\x1c,e\n",
}  # fmt: skip
"""Inputs that have broken somebody's parser."""


@st.composite
def edited(draw: Any, seed: bytes) -> bytes:
    """An example after a few cuts, insertions and swaps of bytes."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + draw(st.sampled_from((0, 1, 4, 64, LONGEST))))))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    (b"\x00", b"\xff" * 9, b"-", b"[", b"{", b'"', b"\n", b"  ", b"9" * 40, b"&a", b"*a")
                ),
                st.integers(0, len(data)).map(lambda at: bytes(data[at : at + 32])),
            )
        )
        data[start:end] = piece * draw(st.sampled_from((1, 1, 1, 2, 50)))
    return bytes(data[: len(seed) + 2 * LONGEST])


@st.composite
def json_with_an_odd_node(draw: Any, seed: bytes) -> bytes:
    """A JSON example in which some nodes are something else, are gone, or have company."""
    document = json.loads(seed)
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _changed(draw: Any, node: Any) -> Any:
    if isinstance(node, dict | list) and node and draw(st.integers(0, 4)):
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(keys))
        copy = dict(node) if isinstance(node, dict) else list(node)
        match draw(st.sampled_from(("change", "change", "change", "remove", "add"))):
            case "change":
                copy[key] = _changed(draw, node[key])
            case "remove":
                del copy[key]
            case "add" if isinstance(copy, dict):
                copy[draw(st.sampled_from(("", "x", "__metadata__", "run", str(key) + "x")))] = 1
            case "add":
                copy.insert(key, node[key])
        return copy
    return draw(st.sampled_from(ODD_NODES))


def is_json(seed: bytes) -> bool:
    """Whether the second kind of change is possible."""
    try:
        return isinstance(json.loads(seed), dict | list)
    except ValueError:
        return False


def inputs(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Nearly what the examples are, and sometimes nothing like them."""
    near = [edited(seed) for seed in seeds]
    structured = [json_with_an_odd_node(seed) for seed in seeds if is_json(seed)]
    return st.one_of(*near, *structured, *structured, st.binary(max_size=64))
