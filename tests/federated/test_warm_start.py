"""What a plan says of the weights that its run starts from."""

import pytest

from adpfl.federated.warm_start import WarmStart, warm_start_of

DIGEST = "ab" * 32


@pytest.mark.parametrize("origin", ["generated", "stated_public"])
def test_what_the_file_says_is_kept(origin):
    found = warm_start_of(DIGEST, {"pretrained": {"trained_on": origin, "words": "600 steps"}})
    assert (found.model_digest, found.trained_on, found.words) == (DIGEST, origin, "600 steps")


def test_a_model_of_an_earlier_run_is_named():
    found = warm_start_of(DIGEST, {"plan": {"run": "lesions-1"}, "round": 30})
    assert (found.trained_on, found.words) == ("run", "the model after round 30 of run lesions-1")


@pytest.mark.parametrize(
    "description",
    [None, {}, {"task": "skin_lesion"}, {"pretrained": "yes"}, {"pretrained": {"trained_on": "patients"}}],
)
def test_what_the_file_does_not_say_is_unknown(description):
    assert warm_start_of(DIGEST, description).trained_on == "unknown"


def test_a_files_words_forge_no_line():
    forged = {"pretrained": {"trained_on": "generated", "words": "fine\nepsilon 0\x1b[2K"}}
    found = warm_start_of(DIGEST, forged)
    assert found.words == "fine?epsilon 0?[2K"
    with pytest.raises(ValueError, match="words"):
        WarmStart(model_digest=DIGEST, trained_on="generated", words="two\nlines")


def test_a_files_words_are_cut_and_not_refused():
    long = {"pretrained": {"trained_on": "generated", "words": "x" * 10_000}}
    assert len(warm_start_of(DIGEST, long).words) == 500
