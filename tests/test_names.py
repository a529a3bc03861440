"""Names that mean the same: of classes and keypoints, in other spellings or in VOC's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.dataset.voc import VOC_CLASSES
from pix2seq.names import ALIASES, match_names

NAMES = st.lists(st.text("aAbB _-", min_size=1, max_size=4), unique=True, max_size=8)


def test_voc_s_words_match_coco_s():
    for voc, coco in ALIASES.items():
        assert match_names([voc], [coco, "person"]) == {voc: coco}
        assert match_names([coco], [voc, "person"]) == {coco: voc}
    assert set(ALIASES) < set(VOC_CLASSES)


@pytest.mark.parametrize("name, known", [("Person", "person"), ("dining_table", "dining table"), ("HotDog", "hot dog")])
def test_case_and_spaces_do_not_matter(name: str, known: str):
    assert match_names([name], ["cup", known]) == {name: known}


def test_names_that_differ_in_case_alone_are_kept_apart():
    letters = ["a", "A", "b", "B"]
    assert match_names(letters, letters) == {letter: letter for letter in letters}
    assert match_names(["a"], ["A", "_a"]) == {}
    assert match_names(["tv", "TV"], ["Tv"]) == {}
    assert match_names(["sofa", "couch"], ["couch"]) == {"couch": "couch"}


@given(NAMES, NAMES)
def test_no_two_names_have_the_same_match(names: list[str], known: list[str]):
    matches = match_names(names, known)
    assert len(set(matches.values())) == len(matches)
    assert set(matches) <= set(names) and set(matches.values()) <= set(known)
    assert all(matches[name] == name for name in set(names) & set(known))


@given(NAMES, NAMES)
def test_matching_is_symmetric(names: list[str], known: list[str]):
    assert match_names(known, names) == {match: name for name, match in match_names(names, known).items()}
