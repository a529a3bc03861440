"""Score a weights file on a validation split: AP of boxes, masks and keypoints, BLEU of captions.

python evaluate/evaluate_multi_task.py --weights weights/scenes.safetensors --scenes-train 0 --scenes-seed 7
python evaluate/evaluate_multi_task.py --weights coco.safetensors --data-root /data/coco --task detection
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from config import CFG, command_line
from infer.run import let_threads_sleep, output_folder, writing


def main(cfg: CFG) -> None:
    let_threads_sleep()
    from dataset.sources import open_split
    from evaluate.evaluation import evaluate
    from infer.predictor import load_predictor

    target = Path(cfg.infer.output_dir)
    with output_folder(target) as staging:
        predictor = load_predictor(cfg)
        predictor.require(cfg.tasks)
        split = open_split(cfg, cfg.data.val_split, cfg.tasks)
        metrics = evaluate(predictor, split, cfg.tasks)
        report = {"weights": Path(cfg.infer.weights).name, "pictures": len(split), "metrics": metrics}
        with writing(target):
            (staging / "metrics.json").write_text(json.dumps(report, indent=2))
    print(table(metrics))
    print(f"{len(split)} pictures; wrote {target / 'metrics.json'}")


def table(metrics: dict[str, dict[str, float]]) -> str:
    """One line for each metric."""
    rows = [(task, name, value) for task, values in metrics.items() for name, value in values.items()]
    width = max(len(name) for _, name, _ in rows)
    return "\n".join(f"{task:<12}  {name:<{width}}  {value:.3f}" for task, name, value in rows)


if __name__ == "__main__":
    command_line(main, __doc__, output_dir="results")
