"""Captions with a SentencePiece model: ids, allowed tokens, the end, and the official sequences."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.caption_vocabulary import caption_vocabulary
from pix2seq.errors import UserError
from pix2seq.token_ids import END, FAKE, TEXT_SHIFT
from pix2seq.tokenizers.captioning import PROMPT, CaptioningTokenizer, SentencePieceVocabulary, drop_words, read_text

VOCAB_SIZE = 3400
CAPTION = "a man walks near the red dog"
FAR = 40_000  # a token beyond every vocabulary


@pytest.fixture(scope="module")
def text(text_model_path: Path) -> SentencePieceVocabulary:
    return SentencePieceVocabulary.read(text_model_path)


@pytest.fixture(scope="module")
def tokenizer(text: SentencePieceVocabulary) -> CaptioningTokenizer:
    return CaptioningTokenizer(VOCAB_SIZE, text, max_words=64, end_weight=1.0)


def trained(**changes) -> bytes:
    """Another small model."""
    content = io.BytesIO()
    sentences = ["one two three four", "five six seven eight", "nine ten eleven twelve"]
    options = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2} | changes
    SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=content, **options)
    return content.getvalue()


@pytest.fixture(scope="module")
def byte_tokenizer() -> CaptioningTokenizer:
    """A tokenizer that spells unknown words in bytes."""
    text = SentencePieceVocabulary(trained(vocab_size=300, byte_fallback=True))
    return CaptioningTokenizer(VOCAB_SIZE, text, max_words=64, end_weight=1.0)


def test_text_ids_are_the_models_own(text: SentencePieceVocabulary, text_model_path: Path):
    pieces = SentencePieceProcessor(model_file=str(text_model_path))
    assert text.encode(CAPTION) == pieces.encode(CAPTION)
    assert len(text) == len(pieces)


def test_a_caption_is_pieces_and_the_models_end(tokenizer: CaptioningTokenizer):
    target = tokenizer.encode(CAPTION).target.tolist()
    assert target == [*(TEXT_SHIFT + index for index in tokenizer.text.encode(CAPTION)), TEXT_SHIFT + 1]
    assert tokenizer.decode(np.array(target)) == CAPTION


def test_bytes_spell_words_that_no_piece_does(byte_tokenizer: CaptioningTokenizer):
    caption = "one zebra, 日本"
    assert byte_tokenizer.decode(byte_tokenizer.encode(caption).target) == caption


def test_tokens_after_the_end_are_ignored(tokenizer: CaptioningTokenizer):
    tokens = tokenizer.encode("a dog").target
    assert tokenizer.decode(np.concatenate([tokens, [END], tokens])) == "a dog"


any_tokens = st.lists(st.integers(0, FAR) | st.integers(TEXT_SHIFT, TEXT_SHIFT + 320), max_size=60)


@given(tokens=any_tokens)
def test_any_tokens_can_be_decoded(
    tokenizer: CaptioningTokenizer, byte_tokenizer: CaptioningTokenizer, tokens: list[int]
):
    assert isinstance(tokenizer.decode(np.array(tokens, dtype=np.int64)), str)
    assert isinstance(byte_tokenizer.decode(np.array(tokens, dtype=np.int64)), str)


@given(caption=st.text(max_size=300))
def test_any_caption_can_be_encoded(tokenizer: CaptioningTokenizer, caption: str):
    sequence = tokenizer.encode(caption)
    assert sequence.input[0] == PROMPT
    assert sequence.target[-1] == tokenizer.text.end
    assert len(sequence.target) <= tokenizer.max_words + 1 == tokenizer.max_response


def test_every_piece_that_spells_something_may_be_predicted(tokenizer: CaptioningTokenizer):
    grammar, pieces = tokenizer.grammar(), range(len(tokenizer.text))
    spelling = {TEXT_SHIFT + index for index in pieces if index > 2}  # after padding, end and unknown
    assert set(np.flatnonzero(grammar.allowed[0])) == spelling
    assert set(np.flatnonzero(grammar.allowed[1])) == spelling | {TEXT_SHIFT + 1}


def test_the_models_end_ends_the_response(tokenizer: CaptioningTokenizer):
    grammar = tokenizer.grammar()
    assert grammar.next_state[1, TEXT_SHIFT + 1] == grammar.end
    assert np.flatnonzero(grammar.allowed[grammar.end]).tolist() == [END]


def test_bytes_and_added_pieces_may_be_predicted():
    text = SentencePieceVocabulary(trained(vocab_size=300, byte_fallback=True, user_defined_symbols=["<x>"]))
    pieces = SentencePieceProcessor(model_proto=text.model)
    assert {pieces.piece_to_id("<0x41>"), pieces.piece_to_id("<x>")} <= set(text.predictable)
    assert not {pieces.unk_id(), pieces.bos_id(), pieces.eos_id()} & set(text.predictable)


# Files


def test_a_vocabulary_is_restored_from_its_description(text: SentencePieceVocabulary):
    assert read_text(json.loads(json.dumps(text.describe())), 3400) == text


def test_data_loading_processes_get_the_vocabulary(tokenizer: CaptioningTokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode(CAPTION).target.tolist() == (
        tokenizer.encode(CAPTION).target.tolist()
    )


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04N.", b"\n", b'["<unk>", "a"]'])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "other.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.model is not a SentencePiece model"):
        SentencePieceVocabulary.read(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(text_model_path: Path, tmp_path: Path, share: float):
    content = text_model_path.read_bytes()
    path = tmp_path / "cut.model"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.model is not a SentencePiece model"):
        SentencePieceVocabulary.read(path)


def test_a_model_that_cannot_end_is_refused(tmp_path: Path):
    path = tmp_path / "endless.model"
    path.write_bytes(trained(eos_id=-1))
    with pytest.raises(UserError, match=r"endless\.model .* no end-of-sentence piece"):
        SentencePieceVocabulary.read(path)


@pytest.mark.parametrize("name", ["typo.model", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str):
    with pytest.raises(UserError, match=r"the text model .* cannot be read"):
        SentencePieceVocabulary.read(tmp_path / name)


def test_training_uses_the_named_model(tiny_model_cfg: CFG, text_model_path: Path, text: SentencePieceVocabulary):
    cfg = config.replace(tiny_model_cfg, text_model=str(text_model_path))
    assert caption_vocabulary(["a caption"], cfg) == text
    with pytest.raises(UserError, match="leave one of them out"):
        caption_vocabulary(["a caption"], config.replace(cfg, vocab="vocab.json"))


# The official sequences


class Numbers:
    """A text vocabulary whose captions are already written as text ids."""

    end = TEXT_SHIFT + 1

    def __len__(self) -> int:
        return 32_000

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]


def official_captions(reference) -> list[tuple[np.ndarray, ...]]:
    """Token ids, input, target and weight of each caption, up to its end: the official sequences continue with padding
    of weight 1 to a common length, ours stop."""
    data = reference("captioning.npz")
    names = ("captions", "input_seq_no_drop", "target_seq", "token_weights")
    rows = zip(*(data[name].reshape(-1, data[name].shape[-1]) for name in names), strict=True)
    return [tuple(part[: np.flatnonzero(row[0] == Numbers.end)[0] + 1] for part in row) for row in rows]


def test_caption_sequences_equal_the_official_ones(reference):
    tokenizer = CaptioningTokenizer(35_000, Numbers(), max_words=127, end_weight=0.1)
    captions = official_captions(reference)
    assert len(captions) == 10
    for tokens, expected_input, expected_target, expected_weight in captions:
        sequence = tokenizer.encode(" ".join(str(token - TEXT_SHIFT) for token in tokens[:-1]))
        assert np.array_equal(sequence.input, expected_input)
        assert np.array_equal(sequence.target, expected_target)
        np.testing.assert_allclose(sequence.weight, expected_weight, atol=1e-7)


def test_hidden_words_are_chosen_as_in_the_official_code(reference):
    data = reference("captioning.npz")
    official, clean = data["random_sample_input_seq_drop0.5"], data["input_seq_no_drop"]
    tokenizer = CaptioningTokenizer(35_000, Numbers(), max_words=64, end_weight=1.0)
    sequence = tokenizer.encode(" ".join(map(str, range(3, 60))))
    rng = np.random.default_rng(0)
    found = np.array([drop_words(sequence, 0.5, rng).input for _ in range(50)])
    for hidden, whole in ((official, clean), (found, sequence.input)):
        changed = hidden != whole
        assert set(hidden[changed]) == {FAKE}
        assert 0.45 < changed.mean() < 0.6
        assert changed[..., 0].any()  # the prompt too


def test_hiding_words_changes_no_target(tokenizer: CaptioningTokenizer):
    sequence = tokenizer.encode(CAPTION)
    hidden = drop_words(sequence, 1.0, np.random.default_rng(0))
    assert set(hidden.input) == {FAKE}
    assert np.array_equal(hidden.target, sequence.target) and np.array_equal(hidden.weight, sequence.weight)
    assert np.array_equal(drop_words(sequence, 0.0, np.random.default_rng(0)).input, sequence.input)
