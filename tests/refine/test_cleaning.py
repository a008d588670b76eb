"""Texts before and after: emoji, exclamation marks, phrases; code is left as it is."""

import pytest

from llama_align.refine.cleaning import allowed, calmer, has_emoji, says, without_emoji

EMOJI = [
    ("Hello \U0001f600!", "Hello!"),
    ("\U0001f389 Done", "Done"),
    ("a \U0001f469\u200d\U0001f4bb\U0001f3fd b", "a b"),
    ("Yes \u2705 done \u2728\u2728", "Yes done"),
    ("love \u2764\ufe0f it", "love it"),
    ("flags \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7.", "flags."),
    ("1\ufe0f\u20e3 first", "1 first"),
    ("\u2713 a check mark, an arrow \u2192, \u00a9 and \u2122 stay", None),
    ("`print('\U0001f600')` and\n```\nx = '\U0001f600'\n```\n", None),
    ("two\n\U0001f600 lines \U0001f600\n", "two\nlines\n"),
]


@pytest.mark.parametrize(("text", "wanted"), EMOJI)
def test_emoji_go_with_the_space_before_them_and_nothing_else_does(text, wanted):
    assert without_emoji(text) == (text if wanted is None else wanted)
    assert has_emoji(text) == (wanted is not None)


SHOUTS = [
    ("Hi! I can! Sure!", 1, "Hi! I can. Sure."),
    ("Wow!!! Yes!!", 1, "Wow! Yes."),
    ("Wow!!!", 0, "Wow."),
    ("Really?! No way.!", 0, "Really? No way."),
    ("a != b, !important, `x!` and 5! is 120", 0, "a != b, !important, `x!` and 5. is 120"),
    ('He said "stop!" loudly!', 0, 'He said "stop." loudly.'),
    ("```\nfail!\n``` ok!", 0, "```\nfail!\n``` ok."),
    ("One! Two!", 5, None),
]


@pytest.mark.parametrize(("text", "most", "wanted"), SHOUTS)
def test_so_many_exclamation_marks_stay(text, most, wanted):
    assert calmer(text, most) == (text if wanted is None else wanted)


def test_phrases_are_whole_words_in_any_case_and_with_any_apostrophe():
    phrases = ["I'm sorry", "my apologies"]
    assert says("Oh, I\u2019M  Sorry about that", phrases)
    assert says("My\napologies.", phrases)
    assert not says("I'm sorrymaker; enemy apologies", phrases)


@pytest.mark.parametrize(("without", "share", "most"), [(95, 0.05, 5), (94, 0.05, 4), (0, 0.5, 0), (10, 0.5, 10)])
def test_a_share_is_of_what_is_left(without, share, most):
    assert allowed(without, share) == most
    assert most <= share * (without + most)
    assert allowed(without, 1.0) > 10**9
