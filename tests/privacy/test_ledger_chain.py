from dataclasses import replace

import pytest

from adpfl.errors import IntegrityError
from adpfl.privacy.ledger_chain import GENESIS, Entry, canonical, fingerprint, link, verify_chain

KEY = bytes(range(32))


@pytest.fixture
def chain() -> list[Entry]:
    entries: list[Entry] = []
    for number in range(1, 6):
        previous = entries[-1].mac if entries else GENESIS
        body = canonical({"n": number})
        entries.append(link(KEY, previous, sequence=number, at_millis=1000 * number, kind="note", body=body))
    return entries


def test_an_untouched_chain_holds_and_gives_its_head(chain: list[Entry]) -> None:
    assert verify_chain(chain, KEY) == chain[-1].mac
    assert verify_chain(chain, KEY, remembered_heads=[chain[2].mac]) == chain[-1].mac
    assert verify_chain([], KEY) == GENESIS


@pytest.mark.parametrize(
    "change", [{"body": '{"n":9}'}, {"at_millis": 7}, {"kind": "seal"}, {"mac": bytes(32)}, {"sequence": 9}]
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_any_edit_shows(chain: list[Entry], place: int, change: dict[str, object]) -> None:
    chain[place] = replace(chain[place], **change)  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match=f"entry {place + 1}"):
        verify_chain(chain, KEY)


def test_deletion_shows_even_when_the_rest_is_renumbered(chain: list[Entry]) -> None:
    gap = [entry for entry in chain if entry.sequence != 3]
    with pytest.raises(IntegrityError, match="entry 3 is missing"):
        verify_chain(gap, KEY)
    renumbered = [replace(entry, sequence=number) for number, entry in enumerate(gap, start=1)]
    with pytest.raises(IntegrityError, match="entry 3"):
        verify_chain(renumbered, KEY)


def test_reordering_shows(chain: list[Entry]) -> None:
    chain[1], chain[2] = replace(chain[2], sequence=2), replace(chain[1], sequence=3)
    with pytest.raises(IntegrityError, match="entry 2"):
        verify_chain(chain, KEY)


def test_a_cut_tail_shows_against_a_remembered_head(chain: list[Entry]) -> None:
    with pytest.raises(IntegrityError, match="cut off its end"):
        verify_chain(chain[:3], KEY, remembered_heads=[chain[-1].mac])


def test_a_chain_made_under_another_key_does_not_hold(chain: list[Entry]) -> None:
    with pytest.raises(IntegrityError, match="entry 1"):
        verify_chain(chain, bytes(32))


def test_fields_cannot_flow_into_each_other() -> None:
    first = link(KEY, GENESIS, sequence=1, at_millis=0, kind="ab", body="c")
    second = link(KEY, GENESIS, sequence=1, at_millis=0, kind="a", body="bc")
    assert first.mac != second.mac


def test_fingerprints_know_a_patient_again_and_need_the_key() -> None:
    assert fingerprint(KEY, "ISIC_0001") == fingerprint(KEY, " ISIC_0001 ")
    assert fingerprint(KEY, "e\u0301") == fingerprint(KEY, "\u00e9")  # one name in two Unicode spellings
    assert fingerprint(KEY, "ISIC_0001") != fingerprint(KEY, "ISIC_0002")
    assert fingerprint(KEY, "ISIC_0001") != fingerprint(bytes(32), "ISIC_0001")
