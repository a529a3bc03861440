"""Caption metrics: the scorers, and tokenization into words as in the Penn Treebank."""

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2seq.config import InferCFG
from pix2seq.evaluate.caption_metrics import caption_metrics
from pix2seq.evaluate.captioning import TASK, score, scored_words
from pix2seq.evaluate.predictions import ImagePredictions, Scores
from pix2seq.infer.captioning import Captions

# Captions in COCO's manner as people wrote them, and as Stanford's PTBTokenizer gives them to COCO's scorers: lower
# case, contractions and possessives split, punctuation marks taken out, hyphens inside words kept.
REFERENCES = {
    1: {
        "A man's dog is sitting on the couch.": "a man 's dog is sitting on the couch",
        "The dog doesn't want to leave the couch!": "the dog does n't want to leave the couch",
        "a small, brown dog laying on a sofa": "a small brown dog laying on a sofa",
    },
    2: {
        "Two people ride T-shirt colored bikes down the street. They're happy.": "two people ride t-shirt colored "
        "bikes down the street they 're happy",
        "A man & a woman riding bikes.": "a man & a woman riding bikes",
        'Bikers in front of a store called "Joe\'s".': "bikers in front of a store called joe 's",
    },
    3: {
        "A plate with 3 slices of pizza on it...": "a plate with 3 slices of pizza on it",
        "You cannot see the fork; only pizza": "you can not see the fork only pizza",
        "Pizza -- lots of it -- on a white plate .": "pizza lots of it on a white plate",
    },
}
CAPTIONS = {
    1: ("a man 's dog laying on the couch .", "a man 's dog laying on the couch"),
    2: ("two people riding bikes down the street.", "two people riding bikes down the street"),
    3: ("A white plate with slices of pizza.", "a white plate with slices of pizza"),
}


# What rules of thumb get wrong, as PTBTokenizer of CoreNLP 3.4.1 splits it.
RARE = {
    "An old- fashioned train, and/or an elephant/": "an old fashioned train and/or an elephant /",
    "watching the plants on the table..": "watching the plants on the table",
    "People near a 'no peddling' sign": "people near a no peddling sign",
    "A person looking at the T.V. screen at 5 p.m. ": "a person looking at the t.v. screen at 5 p.m.",
    "2 men (a tall one [and] a {short} one)": "2 men -lrb- a tall one -lsb- and -rsb- a -lcb- short -rcb- one -rrb-",
    "A dog with a St. Patrick hat near Mr. Smith's Ft. Spokane": "a dog with a st. patrick hat near mr. smith 's "
    "ft. spokane",
    "a tie around a girls .neck. The end": "a tie around a girls neck the end",
    "50% of $20.50, 10,000 at 1/2 of .5": "50 % of $ 20.50 10,000 at 1/2 of .5",
    "you can't say rock 'n' roll at o'clock's": "you ca n't say rock 'n' roll at o'clock 's",
    "“Curly” quotes and ‘single’ ones don’t": "curly quotes and single ones do n't",
    "yes!!! no?? what?!": "yes !!! no ?? what ?!",
    "a 3.5-inch, 3,000-pound thing; 90's and 80s'": "a 3.5-inch 3,000-pound thing 90 's and 80s",
}


def predicted(image_id: int, caption: str, references: list[str]) -> ImagePredictions:
    return ImagePredictions(image_id, image_id, whole={TASK: Captions((caption,))}, evidence={TASK: references})


def scores_of(predictions: list[ImagePredictions]) -> Scores:
    """Scores of captions, which depend on the predictions alone."""
    return score(predictions, split=None, settings=InferCFG())


def test_words_are_those_of_the_penn_treebank():
    for pairs in (*REFERENCES.values(), dict(CAPTIONS.values())):
        for caption, words in pairs.items():
            assert scored_words(caption) == words


@pytest.mark.parametrize("caption, words", RARE.items())
def test_rare_words_are_those_of_the_penn_treebank(caption: str, words: str):
    assert scored_words(caption) == words


def test_metrics_are_those_of_penn_treebank_words():
    ours = scores_of([predicted(n, CAPTIONS[n][0], list(REFERENCES[n])) for n in REFERENCES]).metrics
    references = {n: list(pairs.values()) for n, pairs in REFERENCES.items()}
    theirs, _ = caption_metrics(references, {n: CAPTIONS[n][1] for n in CAPTIONS})
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert 0 < ours["BLEU-4"] < ours["BLEU-1"] < 1 and 0 < ours["CIDEr-D"] < 10


def test_bleu_by_hand():
    # of four words three are in the reference, of three pairs one; both are four words long
    figures, _ = caption_metrics({1: ["a b c d"], 2: ["x y"]}, {1: "a b d e", 2: "x y"})
    assert figures["BLEU-1"] == pytest.approx(5 / 6)
    assert figures["BLEU-2"] == pytest.approx((5 / 6 * 2 / 4) ** 0.5)


def test_a_short_caption_is_penalized():
    figures, _ = caption_metrics({1: ["a b c d"]}, {1: "a b"})
    assert figures["BLEU-1"] == pytest.approx(2.718281828 ** (1 - 4 / 2))


def test_rouge_by_hand():
    # the longest common subsequence "a c d" has 3 of 3 predicted words and 3 of 4 of the reference; beta is 1.2
    figures, _ = caption_metrics({1: ["a b c d"]}, {1: "a c d"})
    assert figures["ROUGE-L"] == pytest.approx((1 + 1.44) * 1 * 0.75 / (0.75 + 1.44 * 1))


def test_cider_of_perfect_captions_is_ten():
    texts = {1: "a dog on a couch in a room", 2: "two people ride their bikes here", 3: "pizza with olives and cheese"}
    figures, each = caption_metrics({n: [text] for n, text in texts.items()}, texts)
    assert figures["CIDEr-D"] == pytest.approx(10)
    assert each == pytest.approx([10, 10, 10])


def test_images_without_references_do_not_count():
    predictions = [predicted(1, "a dog", ["a dog"]), predicted(2, "nonsense", [])]
    scores = scores_of(predictions)
    assert scores.metrics["BLEU-1"] == pytest.approx(1)
    assert [entry["image_id"] for entry in scores.results] == [1, 2] and list(scores.quality) == [1]
    assert scores_of(predictions[1:]).metrics == {}


def test_empty_captions_score_zero():
    scores = scores_of([predicted(n, "", ["a dog sits here"]) for n in (1, 2)])
    assert set(scores.metrics.values()) == {0}


def test_metrics_are_those_of_cocos_evaluation():
    """What pycocoevalcap 1.2 gives for these words."""
    references = {n: list(pairs.values()) for n, pairs in REFERENCES.items()}
    figures, ciders = caption_metrics(references, {n: words for n, (_, words) in CAPTIONS.items()})
    expected = {
        "BLEU-1": 0.9555630361814149,
        "BLEU-2": 0.9038721432017026,
        "BLEU-3": 0.7308267748354312,
        "BLEU-4": 0.4894376041369737,
        "ROUGE-L": 0.7171059445584412,
        "CIDEr-D": 2.116216397519445,
    }
    assert figures == pytest.approx(expected, abs=1e-9)
    assert ciders == pytest.approx([2.84456635, 1.40174447, 2.10233837], abs=1e-8)


SENTENCES = st.lists(st.sampled_from("abcde"), max_size=12).map(" ".join)
IMAGES = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4)), min_size=1, max_size=5)


@given(IMAGES.filter(lambda images: any(any(texts) for _, texts in images)))
def test_metrics_equal_pycocoevalcap(images: list[tuple[str, list[str]]]):
    """Where it is installed; without any word in all references it has no CIDEr-D."""
    bleu, cider, rouge = (
        pytest.importorskip(f"pycocoevalcap.{name}.{name}", reason="pycocoevalcap is not installed")
        for name in ("bleu", "cider", "rouge")
    )
    references, captions = {n: texts for n, (_, texts) in enumerate(images)}, {n: c for n, (c, _) in enumerate(images)}
    theirs = references, {n: [caption] for n, caption in captions.items()}
    figures, ciders = caption_metrics(references, captions)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints lengths
        bleus, _ = bleu.Bleu(4).compute_score(*theirs)
    cider_mean, cider_each = cider.Cider().compute_score(*theirs)
    expected = [*bleus, rouge.Rouge().compute_score(*theirs)[0], cider_mean]
    assert list(figures.values()) == pytest.approx(expected, abs=1e-9)
    assert ciders == pytest.approx(cider_each, abs=1e-9)
