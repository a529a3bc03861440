"""Count the decoder passes of detection where several tokens are guessed ahead and verified in one pass.

python bench/guessing.py --weights scenes --scenes-train 0 --scenes-val 200 --scenes-seed 1234 --max-images 100
python bench/guessing.py --weights photos --data-root voc_animals --val-split val --max-images 16

Jacobi decoding (Santilli et al., 2023), which needs no training: the guess for a place is what the model chose there in
the pass before, behind tokens that were wrong, or else the same token of the object before. Guesses are accepted as far
as they are what the model chooses, so that nothing changes; or, of coordinates, as far as they lie within some bins of
it: then the model reads the guess, and its own choice is reported. Sampled sequences have the same random numbers in
every way. The passes of an image are those of its longest sequence, as all of them are read together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pix2seq.command_line import EVALUATION, command_line
from pix2seq.config import CFG

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pix2seq.dataset.geometry import Geometry
    from pix2seq.infer.encoded import Encoded
    from pix2seq.infer.generator import ModelGenerator
    from pix2seq.infer.responses import Response
    from pix2seq.models.generate import Generation
    from pix2seq.models.sampling import Sampling
    from pix2seq.models.step import StepDecoder

WAYS = ((0, 0), (4, 0), (9, 0), (9, 10))  # tokens guessed ahead, and bins that these may be beside
OBJECT = 5  # tokens of an object
CENTER = 1500  # the guess where there was no object before, a coordinate
LENGTH = 40  # tokens before those of a timed pass
SECONDS = 0.5  # of timing a pass


class GuessingGenerator:
    """Responds as `generator` does, guessing `ahead` tokens; `passes` are those of each image."""

    def __init__(self, generator: ModelGenerator, ahead: int, bins: int) -> None:
        import torch

        from pix2seq.models.choices import Part

        self.generator, self.ahead, self.bins = generator, ahead, bins
        self.everything = Part(torch.arange(generator.model.cfg.vocab_size, device=generator.device))
        self.passes: list[int] = []

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        return self.generator.encode(images, geometries)

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator."""
        import torch

        from pix2seq.infer.responses import Response

        tokenizer, model, responses = self.generator.tokenizers[task], self.generator.model, []
        longest = min(tokenizer.max_response, model.cfg.max_tokens - tokenizer.prompt_length - self.ahead)
        names = ("tokens", "probs", *(("alternatives", "alternative_probs") if sampling.alternatives else ()))
        for number, prompt in enumerate(prompts):
            memory, _ = encoded.chunk(slice(number, number + 1))
            seeded = torch.Generator().manual_seed(len(self.passes))
            draws = torch.rand(num_samples, tokenizer.max_response, generator=seeded)[:, :longest]
            prompt, passes = torch.from_numpy(prompt).to(memory.device), []
            with torch.inference_mode():
                pairs = model.decoder.project_memory(memory)
                for row in draws.to(memory.device):
                    found, count = self._respond(task, pairs, prompt, sampling, row)
                    passes.append(count)
                    parts = {name: getattr(found, name)[0].cpu().numpy() for name in names}
                    responses.append(Response(**parts))
            self.passes.append(max(passes))
        return responses

    def _respond(
        self, task: str, pairs: list[tuple[Tensor, Tensor]], prompt: Tensor, sampling: Sampling, draws: Tensor
    ) -> tuple[Generation, int]:
        """The response (1, T) to `prompt` (P,), and how many passes it takes. A pass reads the whole sequence here,
        without a cache: only their number matters."""
        import torch

        from pix2seq.models.generate import Generation
        from pix2seq.token_ids import END, is_coord

        longest, device = len(draws), prompt.device
        found = Generation.empty(1, longest + self.ahead, sampling.alternatives, device)
        read = torch.full((longest + self.ahead + 1,), CENTER, device=device)  # what the model reads, guesses behind
        draws, image = torch.cat([draws, draws.new_zeros(self.ahead)]), torch.zeros(1, dtype=torch.long, device=device)
        done = passes = 0
        while done < longest and not (done and found.tokens[0, done - 1] == END):
            places = torch.arange(done, done + self.ahead + 1, device=device)
            tokens = torch.cat([prompt, read[: done + self.ahead]])[None]
            logits = self.generator.model.decoder(tokens, pairs, image)[0, len(prompt) - 1 + done :]
            chosen = self._report(task, found, places, logits, sampling, draws[places])
            guesses, choices = read[places[:-1]], chosen[:-1]
            near = is_coord(guesses) & is_coord(choices) & ((guesses - choices).abs() <= self.bins)
            accepted = int((near | (guesses == choices)).long().cumprod(0).sum())
            known, new = places[accepted:], chosen[accepted:]
            read[known] = torch.where(new == END, read[known], new)  # an end is no guess to go on from
            for place in range(known[-1] + 1, min(known[-1] + 2 + accepted, len(read))):
                read[place] = read[max(place - OBJECT, 0)]
            done, passes = done + accepted + 1, passes + 1
        done = min(done, longest)
        for part in vars(found).values():
            part[:, done:] = 0  # what was chosen behind the end
        return found.first(done), passes

    def _report(
        self, task: str, found: Generation, places: Tensor, logits: Tensor, sampling: Sampling, draws: Tensor
    ) -> Tensor:
        """The tokens (K,) that are chosen at `places` (K,) by `logits` (K, V), which `found` gets with their
        probabilities."""
        from pix2seq.models.generate import choose

        grammar, states = self.generator.grammars[task], places % OBJECT
        permitted = logits.masked_fill(~grammar.allowed[states], -float("inf"))
        chosen = choose(permitted, sampling, draws, self.everything)
        for state in grammar.greedy_states if not sampling.greedy else ():
            chosen = chosen.where(states != state, permitted.argmax(-1))
        probs = (permitted - logits.logsumexp(-1, keepdim=True)).exp().float()
        found.tokens[0, places], found.probs[0, places] = chosen, probs.gather(1, chosen[:, None])[:, 0]
        best = permitted.topk(sampling.alternatives).indices
        found.alternatives[0, places], found.alternative_probs[0, places] = best, probs.gather(1, best)
        return chosen


def milliseconds(decoder: StepDecoder, memory: Tensor, sequences: int, tokens: int) -> float:
    """The median time of a pass that reads `tokens` of each sequence, in the middle of a response."""
    import torch

    index = torch.zeros(sequences, dtype=torch.long, device=memory.device)
    cache = decoder.start(memory, index, LENGTH + tokens)
    following, times = torch.full((sequences, tokens), CENTER, device=memory.device), []
    while sum(times) < SECONDS or len(times) < 2:
        cache.length, started = LENGTH, time.perf_counter()
        float(decoder.step(following, cache)[0, 0])  # waits for a GPU
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[1:])


def main(cfg: CFG) -> None:
    from pix2seq.dataset.sources import open_split
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.infer.load import load_predictor
    from pix2seq.tasks import choose_tasks

    predictor, tasks = load_predictor(cfg), choose_tasks(cfg.tasks)
    split = open_split(cfg, cfg.data.val_split, tasks, predictor.class_names, skeleton=predictor.skeleton)
    generator, sequences = predictor.generator, predictor.settings.detection_votes
    memory = predictor.encode_images([split[0].image], list(tasks)).first.memory
    times = {
        ahead: milliseconds(generator.decoder, memory, sequences, 1 + ahead) for ahead in sorted({w[0] for w in WAYS})
    }
    print(f"lists of objects of an image: {sequences}; {generator.device}")
    print(f"{'guessed':>8}{'bins':>6}{'AP':>8}{'passes':>9}{'fewer':>7}{'ms a pass':>11}{'quicker':>9}", flush=True)
    ordinary = 0.0
    for ahead, bins in WAYS:
        guessing = GuessingGenerator(generator, ahead, bins)
        sizes = Sizes(cfg.infer.eval_batch_size, cfg.infer.max_images)
        found = evaluate(predictor.with_generator(guessing), split, list(tasks), sizes)
        passes = statistics.mean(guessing.passes)
        ordinary = ordinary or passes
        fewer, ms = ordinary / passes, times[ahead]
        average_precision = found.metrics[predictor.finder.name]["AP"]
        print(
            f"{ahead:8}{bins:6}{average_precision:8.4f}{passes:9.1f}{fewer:7.2f}{ms:11.2f}{fewer * times[0] / ms:9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    command_line(main, __doc__, EVALUATION.without("output_dir", "watch", "watch_minutes"), only="detection")
