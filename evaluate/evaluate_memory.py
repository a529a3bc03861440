"""Score the objects that a run's auxiliary head reads from the memory, without the decoder.

python evaluate/evaluate_memory.py --run-dir runs/detection --data-root /data/coco
"""

from __future__ import annotations

from pix2seq.command_line import SOURCE, Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from dataclasses import replace
    from pathlib import Path

    from pix2seq.config import replace as with_values
    from pix2seq.dataset.sources import open_split
    from pix2seq.errors import UserError
    from pix2seq.evaluate.evaluation import Sizes, evaluate
    from pix2seq.evaluate.memory import MemoryGenerator, read_head
    from pix2seq.evaluate.report import tables
    from pix2seq.evaluate.run import WATCHED
    from pix2seq.infer.load import load_predictor

    folder = Path(cfg.train.run_dir)
    predictor = load_predictor(with_values(cfg, weights=str(folder / WATCHED)))  # the averaged model
    if predictor.finder is None:
        raise UserError(f"the run {folder} trained no detection; name another with --run-dir")
    head = read_head(folder, predictor.step, predictor.generator.device)
    predictor = predictor.with_settings(detection_votes=1).with_generator(MemoryGenerator(predictor.generator, head))
    tasks = {predictor.finder.name: predictor.finder}
    split = open_split(cfg, cfg.data.val_split, tasks, predictor.class_names)
    evaluation = evaluate(predictor, split, list(tasks), replace(Sizes.of(cfg), token_images=0))
    print(tables(evaluation, split.problems))


if __name__ == "__main__":
    uses = Uses(
        essential=("run_dir", "data_root", "val_split", "val_json", "val_images", "max_images", "device"),
        others=(*SOURCE, "eval_batch_size", "workers"),
    )
    command_line(main, __doc__, uses, only="detection", run_dir="runs/detection")
