"""The SequenceGenerator that is a trained model."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.encoded import Encoded, Listener, chunks, draw_numbers, longest_response, scoring_all
from pix2seq.infer.responses import Response
from pix2seq.models.choices import GrammarTables
from pix2seq.models.generate import Generation, generate
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.sampling import Sampling
from pix2seq.runtime.device import computes_bf16, image_format
from pix2seq.tokenizers.vocabulary import Grammar, Tokenizer


class ModelGenerator:
    """The responses of a trained model, held to the grammars of its tokenizers.

    Canvases and prompts are computed `chunk_size` at a time; `seed` is that of sampling. Decoding has weights in
    `precision` (fp32, bf16, fp16, int8), encoding computes in bf16 where that is not fp32 and the device does.
    """

    def __init__(
        self,
        model: Pix2Seq,
        tokenizers: Mapping[str, Tokenizer],
        device: torch.device,
        chunk_size: int = 32,
        seed: int = 0,
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.model = model.eval().to(device, memory_format=image_format(device))
        self.decoder = self.model.prepare(precision, compiled)
        self.narrow = precision != "fp32" and computes_bf16(device)
        self.tokenizers, self.device, self.chunk_size, self.seed = tokenizers, device, chunk_size, seed
        self.listener: Listener | None = None
        self.grammars = {task: self._tables(tokenizer.grammar()) for task, tokenizer in tokenizers.items()}

    def with_grammars(self, grammars: Mapping[str, Grammar]) -> ModelGenerator:
        """The same with other grammars, by task; model and decoder are shared."""
        other = copy.copy(self)
        other.grammars = {task: self._tables(grammar) for task, grammar in grammars.items()}
        return other

    def scoring_all(self) -> ModelGenerator:
        """The same, which gives the probabilities of all tokens, not only of those that scores need."""
        return self.with_grammars({task: scoring_all(tokenizer) for task, tokenizer in self.tokenizers.items()})

    def with_listener(self, listener: Listener) -> ModelGenerator:
        """The same, which tells `listener` of tokens while others are decoded."""
        other = copy.copy(self)
        other.listener = listener
        return other

    def _tables(self, grammar: Grammar) -> GrammarTables:
        tables = (torch.from_numpy(table).to(self.device) for table in (grammar.allowed, grammar.next_state))
        return GrammarTables(*tables, grammar.end, grammar.greedy_states, grammar.unreported, grammar.scored_states)

    @torch.inference_mode()
    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        cfg = self.model.cfg
        memory = [torch.zeros(0, 0, cfg.decoder_width, device=self.device)]
        for part in chunks(len(geometries), self.chunk_size):
            pairs = zip(images[part], geometries[part], strict=True)
            canvases = np.stack([geometry.warp(image, cfg.pad_value, cfg.pixels) for image, geometry in pairs])
            batch = torch.from_numpy(canvases).to(self.device).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
                memory.append(self.model.encode(batch).float())
        return Encoded(torch.cat(memory[1:] or memory), geometries, np.arange(len(geometries)))

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator."""
        responses: list[Response] = []

        def tell(found: Generation) -> None:
            self.listener(task, encoded, prompts, num_samples, responses + _responses(found, sampling))

        max_tokens = longest_response(self.tokenizers[task], self.model.cfg, sampling)
        for part in chunks(len(prompts), self.chunk_size):
            memory, index = encoded.chunk(part)
            image_index = torch.from_numpy(index).to(self.device)
            tokens = torch.from_numpy(np.stack(prompts[part])).to(self.device)
            draws = draw_numbers(encoded, prompts, part, (num_samples, max_tokens), self.seed)
            draws = torch.from_numpy(draws).flatten(0, 1).to(self.device)
            asked = memory, tokens, image_index, self.grammars[task], max_tokens, sampling, num_samples, draws
            found = generate(self.decoder, *asked, tell if self.listener else None)
            responses += _responses(found, sampling)
        return responses


def _responses(found: Generation, sampling: Sampling) -> list[Response]:
    names = ["tokens", "probs"]
    names += ["alternatives", "alternative_probs"] if sampling.alternatives else []
    names += ["coords", "coord_probs"] if sampling.coords_too else []
    rows = zip(*(getattr(found, name).cpu().numpy() for name in names), strict=True)
    return [Response(**dict(zip(names, row, strict=True))) for row in rows]
