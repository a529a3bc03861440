"""The word vocabulary of captions: its words, their order, and its file."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.build_captioning_vocab import main
from pix2seq.dataset.caption_vocabulary import caption_vocabulary, read_vocab, token_ids_for
from pix2seq.errors import UserError
from pix2seq.tokenizers.captioning import UNKNOWN, WordVocabulary, read_text
from pix2seq.tokenizers.words import join_words, split_words

CAPTIONS = ["A dog runs.", "a dog, a cat", "The cat sleeps", "a zeppelin"]


def test_words_are_sorted_by_count_then_alphabet():
    assert WordVocabulary.build(CAPTIONS, 2).words == [UNKNOWN, "a", "cat", "dog"]


def test_rare_words_are_unknown():
    vocabulary = WordVocabulary.build(CAPTIONS, 2)
    assert vocabulary.encode("a zeppelin") == [1, 0]
    assert vocabulary.decode([1, 0]) == f"a {UNKNOWN}"


@settings(max_examples=20)
@given(st.lists(st.text(max_size=40), max_size=8), st.integers(1, 3))
def test_no_word_occurs_twice(captions: list[str], min_count: int):
    words = WordVocabulary.build([*captions, f"{UNKNOWN} {UNKNOWN} {UNKNOWN}"], min_count).words
    assert len(set(words)) == len(words)


@given(st.text(max_size=60))
def test_a_caption_is_recovered_with_its_own_vocabulary(caption: str):
    vocabulary = WordVocabulary.build([caption], 1)
    # Characters of scripts without spaces are joined without them.
    assert vocabulary.decode(vocabulary.encode(caption)).replace(" ", "") == "".join(split_words(caption))


def test_ids_beyond_the_vocabulary_are_decoded_as_unknown():
    assert WordVocabulary([UNKNOWN, "a"]).decode([1, 2, 5000]) == f"a {UNKNOWN} {UNKNOWN}"


def test_the_script_writes_what_training_reads(tiny_cfg: CFG, tmp_path: Path):
    path = tmp_path / "vocab.json"
    cfg = config.replace(tiny_cfg, vocab=str(path))
    main(cfg)
    words = read_vocab(path)
    assert words[0] == UNKNOWN
    assert "a" in words
    assert caption_vocabulary(["other captions"], cfg).words == words


def test_captions_that_are_not_there_make_no_list(tiny_cfg: CFG, tmp_path: Path):
    (tmp_path / "train.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}', encoding="utf-8"
    )
    (tmp_path / "a.png").touch()
    cfg = config.replace(tiny_cfg, data_root=str(tmp_path), train_json="train.json", val_json="train.json")
    with pytest.raises(UserError, match="has no captions"):
        main(config.replace(cfg, vocab=str(tmp_path / "vocab.json"), train_split="train", val_split="val"))
    assert not (tmp_path / "vocab.json").exists()


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1, 2]", '["a", "dog"]'])
def test_a_file_that_is_no_word_list_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "vocab.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"vocab\.json"):
        read_vocab(path)


def test_a_word_list_that_is_no_file_is_refused(tiny_model_cfg: CFG, tmp_path: Path):
    for name in ("typo.json", "."):
        with pytest.raises(UserError, match="cannot be read"):
            caption_vocabulary(["a dog"], config.replace(tiny_model_cfg, vocab=str(tmp_path / name)))


def test_a_list_is_written_into_a_new_folder(tiny_cfg: CFG, tmp_path: Path):
    main(config.replace(tiny_cfg, vocab=str(tmp_path / "new" / "vocab.json")))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["vocab.json"]


@pytest.mark.parametrize("name", ["", "file/vocab.json"])
def test_a_list_that_cannot_be_written_is_refused_before_captions_are_read(tiny_cfg: CFG, tmp_path: Path, name: str):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--vocab"):
        main(config.replace(tiny_cfg, vocab=str(tmp_path / name), data_root="/no/such/folder"))


@pytest.mark.parametrize(
    "words, least, size", [(199, 3200, 3200), (200, 3200, 3200), (201, 3200, 3264), (1, 3000, 3008)]
)
def test_the_number_of_token_ids_grows_with_the_words_in_steps(words: int, least: int, size: int):
    assert token_ids_for(WordVocabulary([str(i) for i in range(words)]), least) == size


def test_a_vocabulary_is_restored_from_its_description():
    vocabulary = WordVocabulary.build(CAPTIONS, 1)
    assert read_text(json.loads(json.dumps(vocabulary.describe())), 3400) == vocabulary


@pytest.mark.parametrize("description", [{}, {"word": ["a"]}, {"sentencepiece": "no base64!"}, {"sentencepiece": ""}])
def test_a_damaged_description_is_refused(description: dict):
    with pytest.raises(UserError, match="caption vocabulary cannot be read"):
        read_text(description, 3400)


@pytest.mark.parametrize(
    "text, words",
    [
        ("一只狗在跑。", ["一", "只", "狗", "在", "跑", "。"]),
        ("犬がいる dog", ["犬", "が", "い", "る", "dog"]),
        (
            "Two dogs.\tThey run\nup a slope. A cat",
            ["two", "dogs", ".", "they", "run", "up", "a", "slope", ".", "a", "cat"],
        ),
        ("red | blue & green", ["red", "|", "blue", "&", "green"]),
        ("a&#9;dog&nbsp;&amp;amp; cat &quot;Tom&quot;", ["a", "dog", "&", "cat", '"', "tom", '"']),
        ("up a slope.<br/>The <b>man</b> fell", ["up", "a", "slope", ".", "the", "man", "fell"]),
        ("a\u200bdog\x00 on\x1b a\ud83d \ufeffbed\u00ad", ["a", "dog", "on", "a", "bed"]),
        ("“It’s” a cafe\u0301…", ['"', "it", "'s", '"', "a", "caf\u00e9", "..."]),
        ("a dog😀 costs £5 — wow!!!", ["a", "dog", "😀", "costs", "£", "5", "--", "wow", "!!!"]),
        ("Собака бежит. Кошка", ["собака", "бежит", ".", "кошка"]),
        ("एक हिन्दी किताब।", ["एक", "हिन्दी", "किताब", "।"]),
        ("the .net, 'quoted' ..slope", ["the", ".", "net", ",", "'", "quoted", "'", "...", "slope"]),
        ("&#x110000; &#0; &nothing; AT&T", ["\ufffd", "\ufffd", "&", "nothing", ";", "at&t"]),
    ],
)
def test_words_are_split_in_every_script_and_nothing_else_is_a_word(text: str, words: list[str]):
    assert split_words(text) == words


def test_characters_are_joined_without_spaces():
    vocabulary = WordVocabulary.build(["一只狗 dog 在跑。"], 1)
    assert vocabulary.decode(vocabulary.encode("一只狗 dog 在跑。")) == "一只狗 dog 在跑。"


def test_contractions_are_joined_again():
    text = "the man 's dog is n't here"
    assert join_words(text.split()) == "the man's dog isn't here"
    assert split_words(join_words(text.split())) == text.split()


@given(st.text(alphabet="ab1 .,'’-!<>&#;/\t\x00犬é\u0301😀nts", max_size=30))
def test_words_split_no_further(text: str):
    words = split_words(text)
    assert all(word.isprintable() and word == word.strip() for word in words)
    assert split_words(join_words(words)) == words


def test_an_old_word_list_is_decoded_as_before():
    vocabulary = WordVocabulary([UNKNOWN, "a", "man", "'", "s", "slope.", "."])
    assert vocabulary.decode([1, 2, 3, 4, 5, 6]) == "a man ' s slope. ."
