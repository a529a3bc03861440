"""The tokenizers of several tasks: for the same labels, with the model's settings, within the decoder's length."""

import numpy as np
import pytest

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.caption_vocabulary import training_tokenizers
from pix2seq.dataset.sources import open_split
from pix2seq.errors import UserError
from pix2seq.tasks import TASKS, choose_tasks
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import CaptioningTokenizer, WordVocabulary
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import LabelSpace, max_length

LABELS = LabelSpace([1, 7], 5, WordVocabulary(["<unk>", "a", "boat"]))
LIMITS = {name: task.samples.LIMIT[0] for name, task in TASKS.items()}


def prompt_of(tokenizers: Tokenizers, name: str) -> np.ndarray:
    target = (np.array([0.1, 0.2, 0.6, 0.9]), 7) if TASKS[name].is_prompted else ()
    return tokenizers[name].prompt(*target)


def test_tokenizers_have_the_settings_and_the_labels(tiny_model_cfg: CFG):
    settings = dict(
        max_objects=9, max_points=11, max_words=13, separators=2, full_detection=True, end_weight=0.2, noise_weight=0.3
    )
    cfg = config.replace(tiny_model_cfg, **settings, caption_end_weight=0.4, invisible_weight=0.6)
    found = Tokenizers.build(TASKS, cfg, LABELS)
    assert found["detection"] == DetectionTokenizer(3200, [1, 7], 9, 0.2, 0.3, full=True)
    assert found["segmentation"] == SegmentationTokenizer(3200, 11, separators=2, end_weight=1.0)
    assert found["keypoint"] == KeypointTokenizer(3200, 5, 0.6)
    assert found["captioning"] == CaptioningTokenizer(3200, LABELS.text, 13, 0.4)
    assert (found.labels, found.vocab_size) == (LABELS, 3200)


def test_only_the_requested_tasks_have_a_tokenizer(tiny_model_cfg: CFG):
    found = Tokenizers.build(choose_tasks(["captioning", "keypoint"]), tiny_model_cfg, LABELS)
    assert list(found.by_task) == ["captioning", "keypoint"]


def test_prompts_of_different_tasks_differ(tiny_model_cfg: CFG):
    tokenizers = Tokenizers.build(TASKS, tiny_model_cfg, LABELS)
    prompts = [prompt_of(tokenizers, name) for name in TASKS]
    tokens = [int(prompt[0]) for prompt in prompts]
    assert len(set(tokens)) == len(TASKS) and all(10 <= token <= 29 for token in tokens)
    assert [len(prompt) for prompt in prompts] == [tokenizers[name].prompt_length for name in TASKS]


@pytest.mark.parametrize("name", TASKS)
def test_the_longest_sequence_must_fit_into_the_decoder(tiny_model_cfg: CFG, name: str):
    cfg = config.replace(tiny_model_cfg, separators=2)
    tokenizers = Tokenizers.build(choose_tasks([name]), cfg, LABELS)
    length = max_length(tokenizers[name])
    tokenizers.check_lengths(config.replace(cfg, max_tokens=length).model, LIMITS)
    message = f"{name} has sequences of up to {length} tokens .*--max-tokens is {length - 1}"
    with pytest.raises(UserError, match=message):
        tokenizers.check_lengths(config.replace(cfg, max_tokens=length - 1).model, LIMITS)


def test_the_setting_that_makes_sequences_long_is_named(tiny_model_cfg: CFG):
    cfg = config.replace(tiny_model_cfg, max_objects=40)
    with pytest.raises(UserError, match=r"detection has sequences of up to 201 tokens \(--max-objects 40\)"):
        Tokenizers.build(TASKS, cfg, LABELS).check_lengths(cfg.model, LIMITS)


@pytest.mark.parametrize("preset", config.PRESETS)
def test_the_sequences_of_the_presets_fit(preset: str):
    cfg = config.PRESETS[preset]
    labels = LabelSpace(range(1, 91), 17, LABELS.text)
    Tokenizers.build(TASKS, cfg, labels).check_lengths(cfg.model, LIMITS)


def test_training_tokenizers_have_the_labels_of_the_split(tiny_cfg: CFG):
    split = open_split(tiny_cfg, "train2017", TASKS)
    found = training_tokenizers(split, TASKS, config.replace(tiny_cfg, caption_min_count=1))
    labels, words = found.labels, {word for caption in split.all_captions() for word in caption.lower().split()}
    assert labels.class_ids == sorted(split.class_names) and labels.num_points == 17
    assert len(words) > 10 and words <= set(labels.text.words) | {word for word in words if not word.isalpha()}
    assert found.vocab_size == found["captioning"].vocab_size == 3200


def test_more_words_raise_the_vocab_size(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, vocab_size=3000, caption_min_count=1)
    split = open_split(cfg, "train2017", TASKS)
    found = training_tokenizers(split, TASKS, cfg)
    assert 3000 + len(found.labels.text) <= found.vocab_size
    assert {tokenizer.vocab_size for tokenizer in found.by_task.values()} == {found.vocab_size}
    wordless = training_tokenizers(split, choose_tasks(["detection"]), cfg)
    assert (len(wordless.labels.text), wordless.vocab_size) == (0, 3000)
