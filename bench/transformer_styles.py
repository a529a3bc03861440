"""Train the standard and the llama-style transformer for as many steps on the same scenes, and compare them.

python bench/transformer_styles.py
python bench/transformer_styles.py --steps-per-epoch 500 --device cuda
"""

from __future__ import annotations

import tempfile

from pix2seq.command_line import TRAINING, command_line
from pix2seq.config import CFG, replace

STYLES = ("standard", "llama")


def main(cfg: CFG) -> None:
    from pix2seq.train.engine import Trainer

    rows = []
    for style in STYLES:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(replace(cfg, transformer=style, run_dir=folder))
            trainer.run()
            losses = trainer.validate()
            parts = (trainer.model, trainer.model.encoder.layers, trainer.model.decoder.layers)
            millions = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in parts]
        rows.append((style, millions, losses))
    print(f"\nafter {trainer.step} steps of {cfg.train.batch_size} images, {cfg.model.image_size} px")
    print(f"{'':<10}{'M all':>8}{'M enc.':>8}{'M dec.':>8}" + "".join(f"{task:>14}" for task in rows[0][2]))
    for style, millions, losses in rows:
        print(f"{style:<10}" + "".join(f"{n:8.2f}" for n in millions) + "".join(f"{x:14.3f}" for x in losses.values()))


if __name__ == "__main__":
    command_line(
        main,
        __doc__,
        TRAINING.without("transformer", "run_dir", "resume", "overwrite", "start_from"),
        image_size=96,
        batch_size=16,
        epochs=1,
        steps_per_epoch=400,
        warmup_steps=50,
        captions_per_image=1,
        scenes_train=6400,
        ema_decay=0.99,
    )
