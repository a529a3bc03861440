"""Draw synthetic scenes: images with boxes, masks, keypoints and captions, in exactly COCO 2017's layout.

    python scenes/draw.py --data-root data/scenes --scenes-train 24000 --scenes-val 500 --scenes-seed 0

Without `--data-root` the scenes are stored where training looks for them; missing ones are drawn during training.
"""

from pathlib import Path

from pix2seq.command_line import Uses, command_line
from pix2seq.config import CFG


def main(cfg: CFG) -> None:
    from pix2seq.scenes.coco_layout import write_dataset
    from pix2seq.scenes.kept import KeptScenes
    from pix2seq.scenes.root import scenes_root
    from pix2seq.scenes.scene import SPLITS

    data, root = cfg.data, Path(cfg.data.data_root) if cfg.data.data_root else scenes_root(cfg.data.scenes_seed)
    counts = data.scenes_train, data.scenes_val
    if data.data_root:
        write_dataset(root, *counts, data.scenes_seed)
    else:
        for split, count in zip(SPLITS, counts, strict=True):
            KeptScenes(root, split, data.scenes_seed).complete(count)
    print(f"{counts[0]} training and {counts[1]} validation images are in {root}")


if __name__ == "__main__":
    command_line(main, __doc__, Uses(("data_root", "scenes_train", "scenes_val", "scenes_seed")))
