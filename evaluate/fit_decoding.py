"""Fit the settings of a weights file's detection to labeled images, and write them into the file.

python evaluate/fit_decoding.py --weights my.safetensors --data-root /data/coco
"""

from __future__ import annotations

from pix2seq.command_line import SOURCE, Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    import json
    from pathlib import Path

    from pix2seq.dataset.sources import open_split
    from pix2seq.errors import UserError
    from pix2seq.evaluate.fit import fit
    from pix2seq.infer.load import load_predictor
    from pix2seq.models.weights import load_weights, write_metadata
    from pix2seq.runtime.paths import writable_folder
    from pix2seq.weights.find import find_weights

    path = find_weights(cfg.infer.weights)
    if path != Path(cfg.infer.weights):
        raise UserError(
            f"{cfg.infer.weights} is a shipped or fetched file, which stays as it is; copy {path} and name the copy"
        )
    predictor = load_predictor(cfg)
    if predictor.finder is None:
        raise UserError(f"{path} was not trained for detection, whose settings are fitted; name another with --weights")
    writable_folder(path.parent, "--weights")  # checked first, since a fit takes its time
    tasks = {predictor.finder.name: predictor.finder}
    split = open_split(cfg, cfg.data.val_split, tasks, predictor.class_names)
    settings, report = fit(predictor, split, cfg)
    print(*split.problems.report(), report, sep="\n")
    write_metadata(path, {"decoding": json.dumps(load_weights(path).decoding | settings)})
    print(f"\nwrote these settings into {path}")


if __name__ == "__main__":
    decoding = ("detection_votes", "views", "detection_top_p", "end_threshold", "temperature", "coord_window")
    uses = Uses(
        essential=("weights", "data_root", "val_split", "val_json", "val_images", "max_images", *decoding, "device"),
        others=(*SOURCE, "score_threshold", "eval_batch_size", "workers", "seed"),
    )
    command_line(main, __doc__, uses, only="detection", max_images=400)
