"""The one place where settings live: the dataclass `CFG`, its groups and its presets.

Each setting has its default, its help, and its range or its choices in one place. The flags of the scripts
(`--image-size 640`), the keys of `--config` files (`image_size: 640`) and the settings in a weights file are made from
these lines. `CFG` is passed on as an argument and never changed in place.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pix2seq.backbone_arguments import read_arguments
from pix2seq.errors import UserError, listed, shown
from pix2seq.runtime.console import tell
from pix2seq.schema import Settings, decode

# Groups of tasks, for settings that not all tasks use.
DETECTION, SEGMENTATION, CAPTIONING = ("detection",), ("segmentation",), ("captioning",)
PROMPTED = ("segmentation", "keypoint")  # about one instance at a time
WHOLE_IMAGE = ("detection", "captioning")
LOCATED = ("detection", "segmentation", "keypoint")  # their sequences hold coordinates


MOST = 2**53  # whole numbers up to here are exact in every format: the upper limit where a setting has no other


def setting(
    default: Any,
    help: str,
    low: float = -math.inf,
    high: float = MOST,
    choices: tuple[str, ...] = (),
    tasks: tuple[str, ...] = (),
) -> Any:
    """A field of a settings group: numbers must lie between `low` and `high`, texts be one of `choices` if given.
    A text without choices has at most `high` characters.

    `tasks` are the tasks that use the setting; empty: all, including ones that are added later.
    """
    return field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices, tasks=tasks))


@dataclass(frozen=True)
class ModelCFG:
    """The model that is trained; at inference these settings come from the weights file."""

    image_size: int = setting(192, "side of the square canvas that is the model's input, pixels", low=1, high=2048)
    pad_value: float = setting(0.3, "gray level of the canvas outside the image", low=0, high=1)
    pixels: str = setting(
        "uint8",
        "resized images are rounded to whole gray levels, or not (float32), as in the official code",
        choices=("uint8", "float32"),
    )
    normalize: bool = setting(True, "normalize by mean and standard deviation of the timm backbone's pretraining")
    crop_padding: float = setting(
        0.25,
        "margin of a crop on each side of a box, fraction of its longer side (with crop_inside of each side)",
        low=0,
        high=100,
        tasks=PROMPTED,
    )
    backbone: str = setting("tf_efficientnet_lite0", "any timm model name, or patches, or resnet50_official")
    backbone_kwargs: str = setting("{}", "sizes of the backbone for timm.create_model, JSON")
    backbone_stage: int = setting(
        3, "index of the convnet's feature map that is used (plain ViTs have only one)", low=0, high=9
    )
    backbone_levels: int = setting(
        1, "feature maps of a convnet that are used, from backbone_stage on: deeper ones are magnified", low=1, high=4
    )
    encoder_width: int = setting(192, "channels of the transformer encoder on top of a convnet", low=4, high=8192)
    encoder_layers: int = setting(3, "transformer layers on top of the backbone", low=0, high=100)
    encoder_heads: int = setting(3, "attention heads of the encoder's layers", low=1, high=64)
    decoder_width: int = setting(192, "channels of the decoder", low=4, high=8192)
    decoder_layers: int = setting(3, "layers of the decoder", low=1, high=100)
    decoder_heads: int = setting(3, "attention heads of the decoder", low=1, high=64)
    mlp_ratio: int = setting(4, "hidden width of every MLP, times its width", low=1, high=32)
    decoder_mlp_ratio: int = setting(0, "mlp_ratio of the decoder's layers; 0: the same", low=0, high=32)
    transformer: str = setting(
        "standard", "llama: RMSNorm, SwiGLU, rotary positions, no biases", choices=("standard", "llama")
    )
    class_token: bool = setting(False, "learned token in front of the encoder's grid")
    encoder_positions: str = setting("sincos", "positions of the encoder's grid", choices=("sincos", "learned"))
    positions_grid: str = setting("", "grid of learned positions, as 40x40 (rows x columns); empty: the canvas's")
    decoder_positions: str = setting("learned", "positions of the decoder's tokens", choices=("learned", "sincos"))
    projection: str = setting(
        "mlp",
        "from encoder to decoder; linear_p: without MLP; linear: without positions too",
        choices=("mlp", "linear_p", "linear"),
    )
    shared_embedding: bool = setting(True, "the output matrix is the token embedding")
    dropout: float = setting(0.0, "dropout inside every MLP, and on a convnet's features", low=0, high=1)
    attention_dropout: float = setting(0.0, "dropout of attention probabilities", low=0, high=1)
    drop_path: float = setting(0.0, "probability that a training sample skips a residual branch", low=0, high=1)
    init: str = setting(
        "glorot", "official: smaller initial attention matrices, as in Keras", choices=("glorot", "official")
    )
    coord_init: str = setting(
        "sincos",
        "initial coordinate embeddings: independent, or smooth in the coordinate",
        choices=("normal", "sincos"),
    )
    vocab_size: int = setting(
        3400,
        "smallest number of token ids (3000 without text); a larger caption vocabulary raises it",
        low=2000,
        high=100_000,
    )
    max_tokens: int = setting(256, "longest sequence, prompt included", low=8, high=16_384)
    max_objects: int = setting(
        40, "most objects of an image that detection is trained on and predicts", low=1, high=1000, tasks=DETECTION
    )
    max_points: int = setting(
        36, "most polygon points of an instance: longer polygons are resampled", low=3, high=4096, tasks=SEGMENTATION
    )
    separators: int = setting(
        1, "separator tokens between two polygons of an instance", low=1, high=8, tasks=SEGMENTATION
    )
    max_words: int = setting(
        64, "most words or word pieces of a caption: longer captions are cut", low=1, high=4096, tasks=CAPTIONING
    )
    segment_whole: bool = setting(
        False, "prompt segmentation on the whole image instead of a crop around the instance", tasks=SEGMENTATION
    )
    crop_inside: bool = setting(False, "crops end at the image's edge instead of being square", tasks=PROMPTED)
    full_detection: bool = setting(
        False, "always predict max_objects objects and rank them: for training with noise objects", tasks=DETECTION
    )


@dataclass(frozen=True)
class DataCFG:
    """Images, annotations and how they become sequences."""

    data_root: str = setting(
        "", "folder of COCO, VOC, YOLO, shards or your own data, several with commas; empty: drawn scenes"
    )
    data_weights: str = setting(
        "", "how often an epoch has the images of each folder of data_root, such as 1,2,0.5; empty: once"
    )
    train_json: str = setting("", "training annotations in COCO's format: a path, or relative to data_root")
    val_json: str = setting("", "validation annotations in COCO's format: a path, or relative to data_root")
    train_images: str = setting("", "folder of the training images; empty: that of the layout")
    val_images: str = setting("", "folder of the validation images; empty: train_images, or that of the layout")
    outside_images: bool = setting(False, "also read images that annotations name outside of the data root")
    classes: str = setting(
        "", "names of the classes to use, with commas; one with a comma in quotes: 'tie, bow',cat; empty: all"
    )
    train_difficult: bool = setting(False, "also train on objects that VOC marks as difficult", tasks=LOCATED)
    scenes_train: int = setting(24000, "synthetic training images", low=0)
    scenes_val: int = setting(500, "synthetic validation images", low=0)
    scenes_seed: int = setting(0, "seed of the synthetic images", low=0)
    train_split: str = setting("train2017", "training split by its name; also found as train, …")
    val_split: str = setting("val2017", "validation split by its name; also found as val, valid, …")
    val_share: float = setting(
        0.1,
        "share of the images that is held out for validation where data_root has no such split",
        low=0.001,
        high=0.9,
    )
    workers: int = setting(2, "data loading processes", low=0, high=1024)
    shards_mixed: int = setting(16, "shards from which images come at a time, in training", low=1, high=65536)
    shard_cache_gb: float = setting(20.0, "disk space for shards that are fetched from an address, GB", low=0)
    shard_size: int = setting(1000, "images of a shard that is packed", low=1, high=10**6)
    cache_gb: float = setting(0.0, "disk space for decoded training images, GB; 0: no cache", low=0)
    check_data: bool = setting(True, "check the annotations and headers of images before training")
    crops_per_image: int = setting(1, "prompted instances that are cropped from each image", low=1, tasks=PROMPTED)
    prompts_per_image: int = setting(
        10, "most prompted instances of a whole image, with segment_whole", low=1, tasks=SEGMENTATION
    )
    orders_per_image: int = setting(2, "random object orders of each image, one sequence each", low=1, tasks=DETECTION)
    captions_per_image: int = setting(2, "captions of each image per epoch", low=1, tasks=CAPTIONING)
    caption_min_count: int = setting(2, "rarer words become <unk>", low=1, tasks=CAPTIONING)
    vocab: str = setting(
        "", "JSON word list from build_captioning_vocab.py; empty: built from the training captions", tasks=CAPTIONING
    )
    text_model: str = setting("", "SentencePiece model of captions; empty: a word list", tasks=CAPTIONING)
    copies_per_image: int = setting(1, "differently augmented copies of each training image in a batch", low=1)
    flip: float = setting(0.5, "probability of a mirrored training image, or pasted object", low=0, high=1)
    min_scale: float = setting(
        0.85, "smallest longer side of a training image, times the canvas's side", low=0.01, high=100, tasks=WHOLE_IMAGE
    )
    max_scale: float = setting(
        1.15, "largest longer side of a training image, times the canvas's side", low=0.01, high=100, tasks=WHOLE_IMAGE
    )
    placement: str = setting(
        "anywhere",
        "position of a scaled image on the canvas; corner: smaller ones in the upper left",
        choices=("anywhere", "corner"),
    )
    min_visible: float = setting(
        0.3,
        "visible share of its box, or of a mask that is pasted over, that makes an object a target; 0: any part of it",
        low=0,
        high=1,
        tasks=LOCATED,
    )
    crop_flip: float = setting(
        0.5, "probability of a mirrored crop of a prompted instance", low=0, high=1, tasks=PROMPTED
    )
    crop_min_scale: float = setting(
        0.85, "min_scale of prompted instances' crops, or images (segment_whole)", low=0.01, high=100, tasks=PROMPTED
    )
    crop_max_scale: float = setting(1.15, "max_scale of the same crops, or images", low=0.01, high=100, tasks=PROMPTED)
    crop_rotation: float = setting(
        0.0, "largest random rotation of a prompted instance's canvas, degrees", low=0, high=180, tasks=PROMPTED
    )
    box_jitter: float = setting(
        0.03,
        "deviation of a training prompt's box from the ground truth, fraction of its sides",
        low=0,
        high=1,
        tasks=PROMPTED,
    )
    color_jitter: float = setting(0.2, "largest relative change of brightness, contrast and saturation", low=0, high=1)
    rand_augment: int = setting(0, "random color operations of RandAugment on each training canvas", low=0)
    rand_magnitude: float = setting(9.0, "strength of RandAugment's operations", low=0, high=30)
    copy_paste: float = setting(
        0.0, "probability that objects of another image are pasted on a training image", low=0, high=1, tasks=LOCATED
    )
    copy_paste_objects: int = setting(3, "most objects that copy_paste pastes at once", low=1, high=99, tasks=LOCATED)
    mosaic: float = setting(
        0.0,
        "probability that an image shares its canvas with three others, in a mosaic",
        low=0,
        high=1,
        tasks=DETECTION,
    )
    object_order: str = setting(
        "random",
        "order of a detection target's objects; area: largest first; distance: nearest to the upper left first",
        choices=("random", "area", "distance"),
        tasks=DETECTION,
    )
    noise_objects: bool = setting(
        False, "fill detection up to max_objects with false objects; needs full_detection", tasks=DETECTION
    )
    class_corruption: str = setting(
        "none",
        "class tokens in detection's training input: unchanged, or replaced by random or fake ones, or a mix",
        choices=("none", "rand_cls", "real_n_fake_cls", "rand_n_fake_cls", "real_n_rand_n_fake_cls"),
        tasks=DETECTION,
    )
    shuffle_polygons: bool = setting(True, "training polygons start at a random point", tasks=SEGMENTATION)
    mask_points: bool = setting(
        False, "replace keypoints in the training input by invisible ones, at a random rate", tasks=("keypoint",)
    )
    drop_words: float = setting(
        0.0, "share of caption tokens in the training input that become fake tokens", low=0, high=1, tasks=CAPTIONING
    )


@dataclass(frozen=True)
class TrainCFG:
    """Optimization and what a run writes."""

    run_dir: str = setting("runs/multi_task", "folder for checkpoints, metrics and curves")
    overwrite: bool = setting(False, "replace an earlier run in the run folder; else a new folder's name ends in -2")
    resume: bool = setting(False, "continue the run in this folder, or in --run-dir, with the settings that it has")
    save_steps: int = setting(
        0, "steps between two checkpoints within an epoch; 0: by time alone", low=0, high=10_000_000
    )
    save_minutes: float = setting(10.0, "minutes between two checkpoints within an epoch; 0: none", low=0, high=100_000)
    start_from: str = setting(
        "", "weights to finetune: a file, a name (--list-weights), hf://...; classes match by name"
    )
    pretrained: bool = setting(
        True, "start the backbone from ImageNet weights (installed for the default; else downloaded by timm)"
    )
    epochs: int = setting(14, "passes over the training images, each with a validation at its end", low=1)
    passes_per_epoch: int = setting(1, "passes in an epoch; more if the images are few", low=1, high=1_000_000)
    steps_per_epoch: int = setting(300, "most optimizer steps of an epoch; 0: all images", low=0)
    batch_size: int = setting(
        32, "images per optimizer step and process; less if the images are few", low=1, high=65_536
    )
    parallel: str = setting(
        "ddp",
        "what each process holds: the whole model (ddp), or a part of every weight (fsdp), for big models",
        choices=("ddp", "fsdp"),
    )
    accumulate: int = setting(
        1, "parts of a batch that are computed one after another, with less memory and smaller batch norms", low=1
    )
    recompute: bool = setting(
        False, "compute transformer layers again in the backward pass: less memory, a third more time"
    )
    optimizer: str = setting(
        "muon", "muon: Muon for the transformers' matrices, AdamW for the rest", choices=("adamw", "muon")
    )
    lr: float = setting(1e-3, "highest learning rate", low=1e-9, high=10)
    muon_lr_factor: float = setting(3.0, "learning rate of Muon's matrices, times lr", low=0)
    backbone_lr_factor: float = setting(0.3, "learning rate of the backbone, times lr", low=0)
    frozen_stages: int = setting(
        3, "freeze the backbone's layers up to this many feature maps (a plain ViT has one)", low=0
    )
    warmup_steps: int = setting(300, "steps of linear warm-up; a tenth of a short run", low=0)
    schedule: str = setting(
        "cosine", "learning rate after the warm-up", choices=("cosine", "linear", "exponential", "constant")
    )
    cosine_share: float = setting(1.0, "fraction of the cosine's half period that the schedule covers", low=0, high=1)
    end_lr_factor: float = setting(0.01, "learning rate of the last step, fraction of the highest", low=0, high=1)
    tail_steps: int = setting(0, "steps at the final learning rate, after the end of the schedule", low=0)
    weight_decay: float = setting(0.05, "weight decay, of the parameters that decay names", low=0)
    decay: str = setting(
        "matrices",
        "AdamW's decayed parameters; kernels: no embeddings; all: biases and norms too",
        choices=("matrices", "all", "kernels"),
    )
    beta2: float = setting(0.95, "AdamW's second-moment decay", low=0, high=0.99999)
    clip_norm: float = setting(1.0, "highest gradient norm; 0: no clipping", low=0)
    ema_decay: float = setting(
        0.9995, "decay of the moving average of the weights, which is evaluated and saved; 0: off", low=0, high=1
    )
    coord_sigma: float = setting(
        2.0, "deviation of soft targets around a target coordinate, in bins; 0: hard targets", low=0, tasks=LOCATED
    )
    label_smoothing: float = setting(
        0.0, "share of a target that is spread over all tokens, except for soft coordinate targets", low=0, high=1
    )
    auxiliary_weight: float = setting(
        1.0, "loss weight of the auxiliary head, which predicts each memory cell's object; 0: no head", low=0
    )
    end_weight: float = setting(0.5, "loss weight of detection's end token", low=0, tasks=DETECTION)
    noise_weight: float = setting(
        1.0, "loss weight of a noise object's class token; that of its coordinates is 0", low=0, tasks=DETECTION
    )
    caption_end_weight: float = setting(1.0, "loss weight of a caption's end token", low=0, tasks=CAPTIONING)
    invisible_weight: float = setting(0.3, "loss weight of an invisible keypoint's tokens", low=0, tasks=("keypoint",))
    domain: str = setting("", "what the weights are good for, a sentence that inference shows to users", high=200)
    licence: str = setting("", "licence of the weights, which inference shows to users", high=200)
    store: str = setting("fp16", "precision of best.safetensors and last.safetensors", choices=("fp32", "fp16"))
    limit_minutes: float = setting(0.0, "stop after the epoch in which this time is reached; 0: no limit", low=0)
    eval_images: int = setting(256, "validation images for token losses and accuracies", low=1)
    example_images: int = setting(
        4,
        "validation images of each task whose predictions TensorBoard shows after each epoch; 0: none",
        low=0,
        high=64,
    )
    tracker: str = setting(
        "none",
        "also show metrics and images in this package; what wandb gets stays here unless WANDB_MODE=online",
        choices=("none", "trackio", "wandb"),
    )
    eval_every: int = setting(0, "epochs between two full evaluations; 0: losses only", low=0)
    log_steps: int = setting(50, "steps between two rows of metrics; less in a short run", low=1)
    small_epochs: int = setting(0, "first epochs, on a canvas of two thirds of the size (convnets only)", low=0)


@dataclass(frozen=True)
class InferCFG:
    """Input images, decoding and output."""

    weights: str = setting("photos", "weights: a file, a name (--list-weights), or hf://owner/repo[/file]")
    image: tuple[str, ...] = setting((), "images: files, folders, patterns such as 'photos/*.jpg', https:// addresses")
    video: str = setting("", "a video file, or the number of a camera, such as 0")
    stride: int = setting(1, "every N-th frame of the video", low=1, high=100_000)
    max_frames: int = setting(0, "most frames that are computed; 0: all", low=0)
    skip_existing: bool = setting(False, "leave out images whose results are in the output folder")
    ray_address: str = setting("", "address of a Ray cluster, or auto; empty: this machine becomes one")
    ray_workers: int = setting(0, "Ray workers, each with a model; 0: one per GPU, or per two processors", low=0)
    pictures: bool = setting(True, "draw results as PNGs; of a large folder they take most of the room")
    max_megapixels: float = setting(200.0, "largest image that is read, in millions of pixels", low=0.001, high=4000)
    max_megabytes: float = setting(
        50.0, "largest file that is fetched from the web, or uploaded, in MB", low=0.001, high=4000
    )
    host: str = setting("127.0.0.1", "address that the page is served at; 0.0.0.0: every one of this machine")
    port: int = setting(7860, "port that the page is served at", low=1, high=65535)
    queue_size: int = setting(
        16, "most requests of the page that wait at a time; others are refused", low=1, high=10_000
    )
    max_sessions: int = setting(
        32, "browser tabs whose image is kept; the one unused longest is forgotten", low=1, high=10_000
    )
    box: str = setting("", "x,y,w,h in pixels: box of the instance; empty: detect instances first", tasks=PROMPTED)
    box_class: str = setting("person", "class name of the box, as it is, with its commas", tasks=PROMPTED)
    output_dir: str = setting(".", "folder for the output files")
    score_threshold: float = setting(0.3, "lowest score of a detection that is used", low=0, high=1, tasks=DETECTION)
    prompt_threshold: float = setting(
        0.05,
        "lowest score of a detection about which evaluations ask other tasks",
        low=0,
        high=1,
        tasks=PROMPTED,
    )
    temperature: float = setting(1.0, "sampling temperature, of whatever is sampled; 0: greedy", low=0, high=100)
    top_k: int = setting(
        0, "sample polygons among the k likeliest tokens; 0: all", low=0, high=100_000, tasks=SEGMENTATION
    )
    top_p: float = setting(
        0.8, "sample polygons from the nucleus of this probability", low=0.001, high=1, tasks=SEGMENTATION
    )
    end_threshold: float = setting(
        0.97,
        "detection ends when its end token is this probable; 0: when it is the likeliest token",
        low=0,
        high=1,
        tasks=DETECTION,
    )
    detection_top_p: float = setting(
        0.0,
        "sample detection's coordinates from the nucleus of this probability; 0: greedy, of votes 0.7",
        low=0,
        high=1,
        tasks=DETECTION,
    )
    read_drawn_class: bool = setting(
        False,
        "sampling draws the class that the decoder reads, perhaps the fake one; the likeliest real one is reported",
        tasks=DETECTION,
    )
    detection_votes: int = setting(
        1,
        "sampled lists of objects that vote for the boxes; 1: one list, greedy by default",
        low=1,
        high=64,
        tasks=DETECTION,
    )
    views: int = setting(
        1,
        "views that share the votes: 2: mirrored too; 4, 6: whole images on larger, on smaller canvases too",
        low=1,
        high=6,
    )
    calibration_slope: float = setting(
        1.0,
        "detection scores become sigmoid(slope · logit(score) + offset); fit_decoding.py fits both",
        low=0.01,
        high=100,
        tasks=DETECTION,
    )
    calibration_offset: float = setting(0.0, "see --calibration-slope", low=-100, high=100, tasks=DETECTION)
    coord_window: int = setting(
        20,
        "greedy coordinates are averaged over this many bins on each side, for soft targets; 0: off",
        low=0,
        high=999,
        tasks=("detection", "keypoint"),
    )
    num_samples: int = setting(
        8, "sampled polygons that vote for a mask; 1: one greedy polygon", low=1, high=64, tasks=SEGMENTATION
    )
    mask_threshold: float = setting(
        0.5, "share of the votes that a pixel of the mask needs", low=0, high=1, tasks=SEGMENTATION
    )
    mask_tokens: int = setting(
        0, "most tokens of a sampled outline; 0: what max_points can need", low=0, tasks=SEGMENTATION
    )
    keypoint_top_p: float = setting(
        0.0,
        "sample keypoints from the nucleus of this probability; 0: greedy",
        low=0,
        high=1,
        tasks=("keypoint",),
    )
    keypoint_votes: int = setting(
        1, "sampled poses that vote for each point; 1: one pose, greedy by default", low=1, high=64, tasks=("keypoint",)
    )
    caption_top_p: float = setting(
        0.0, "sample captions from the nucleus of this probability; 0: greedy", low=0, high=1, tasks=CAPTIONING
    )
    caption_votes: int = setting(
        1,
        "sampled captions, of which the most typical is kept; 1: one, greedy by default",
        low=1,
        high=256,
        tasks=CAPTIONING,
    )
    num_captions: int = setting(
        1,
        "captions of an image; several are sampled, from a nucleus of 0.8 by default",
        low=1,
        high=64,
        tasks=CAPTIONING,
    )
    invisible_threshold: float = setting(
        0.5,
        "a greedy keypoint is invisible when that is this probable; 0: when it is the likeliest token",
        low=0,
        high=1,
        tasks=("keypoint",),
    )
    suppress_invisible: bool = setting(
        False, "place invisible keypoints where they are likeliest, not at the center", tasks=("keypoint",)
    )
    eval_batch_size: int = setting(32, "images, crops or prompts per batch", low=1, high=65_536)
    points_score_weight: float = setting(
        1.0,
        "weight of the keypoints' score in a pose's score; the rest is the box's score",
        low=0,
        high=1,
        tasks=("keypoint",),
    )
    max_images: int = setting(0, "most images of the split that are evaluated; 0: all", low=0)
    watch: str = setting("", "run folder: evaluate each new last.safetensors in it, instead of --weights")
    watch_minutes: float = setting(0.0, "stop watching after this time; 0: at Ctrl-C", low=0)


@dataclass(frozen=True)
class CFG:
    """All settings of a run."""

    preset: str = setting("demo", "defaults to start from: demo, deit3-small, resnet50, resnet50-c4, vit-b, vit-l")
    task: str = setting("detection,segmentation,keypoint,captioning", "comma-separated tasks")
    task_weights: str = setting("", "comma-separated loss weights in the order of --task; empty: all 1")
    seed: int = setting(0, "seed of weights, order, augmentation and sampling", low=0, high=2**32 - 1)
    device: str = setting("auto", "device: cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    precision: str = setting(
        "auto",
        "auto: bf16 to train, fp32 to predict; fp16, int8: weights of decoding",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
    )
    compile: bool = setting(
        False, "compiled steps: of decoding as CUDA graphs on a GPU, by numba on a processor; else by torch.compile"
    )
    model: ModelCFG = field(default_factory=ModelCFG)
    data: DataCFG = field(default_factory=DataCFG)
    train: TrainCFG = field(default_factory=TrainCFG)
    infer: InferCFG = field(default_factory=InferCFG)
    # Names of the settings that `replace` has set: what a user chose wins over what a weights file holds.
    given: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in FIELDS:
            if expected := what_is_wrong(name, value_of(self, name)):
                raise UserError(f"{flag(name)} expects {expected}, got {shown(value_of(self, name))}")
        check_widths(self.model)
        parse_grid(self.model.positions_grid)
        read_arguments(self.model.backbone_kwargs)
        parse_task_weights(self.task_weights, self.tasks)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order given."""
        return parse_tasks(self.task)

    @property
    def training_precision(self) -> str:
        """The arithmetic of the training step."""
        return "bf16" if self.precision == "auto" else self.precision

    @property
    def loss_weights(self) -> dict[str, float]:
        """Task name to loss weight."""
        return parse_task_weights(self.task_weights, self.tasks)


GROUPS = {"model": ModelCFG, "data": DataCFG, "train": TrainCFG, "infer": InferCFG}
# Every setting by name, which is unique among all groups, and the group that it belongs to ("": CFG itself).
FIELDS = {
    member.name: member
    for group in (CFG, *GROUPS.values())
    for member in dataclasses.fields(group)
    if member.name not in (*GROUPS, "given")
}
GROUP_OF = {name: "" for name in FIELDS} | {
    member.name: group for group, kind in GROUPS.items() for member in dataclasses.fields(kind)
}
# How many samples vote on an answer of each task.
VOTES = ("detection_votes", "num_samples", "keypoint_votes", "caption_votes")
# How a model is decoded best, which its weights file may hold; the rest of InferCFG is the user's alone.
DECODING = (
    *("score_threshold", "end_threshold", "num_samples", "temperature", "top_k", "top_p", "detection_top_p"),
    *(
        "read_drawn_class",
        "detection_votes",
        "views",
        "calibration_slope",
        "calibration_offset",
        "coord_window",
        "mask_threshold",
        "mask_tokens",
        "keypoint_top_p",
        "keypoint_votes",
        "caption_top_p",
        "caption_votes",
        "invisible_threshold",
        "suppress_invisible",
        "points_score_weight",
    ),
)
CALIBRATION = ("calibration_slope", "calibration_offset")
# What detection scores depend on.
SHAPING = {"end_threshold", "temperature", "detection_top_p", "read_drawn_class", "detection_votes", "views"}
# Earlier names of settings, accepted in flags and --config files for one release, in weights files for good.
RENAMED = {"max_pictures": "max_images", "dense_weight": "auxiliary_weight"}

TEXTS = "tuple[str, ...]"  # the type of a setting with several values
EXPECTED = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a text", TEXTS: "texts"}


def flag(name: str) -> str:
    """The command line flag of a setting."""
    return "--" + name.replace("_", "-")


def in_python(sentence: str) -> str:
    """A sentence for somebody who gives settings as arguments in Python: `--top-p` is `top_p` there."""

    def argument(match: re.Match) -> str:
        name = match[1].replace("-", "_")
        off = name.removeprefix("no_")
        return name if name in FIELDS else f"{off}=False" if off in FIELDS else match[0]

    return re.sub(r"--([a-z][a-z-]*[a-z0-9])", argument, sentence)


def value_of(cfg: CFG, name: str) -> Any:
    """The value of a setting of any group."""
    return getattr(getattr(cfg, GROUP_OF[name]) if GROUP_OF[name] else cfg, name)


def what_is_wrong(name: str, value: Any) -> str:
    """What the setting `name` expects if `value` is not valid; empty if it is valid."""
    kind, limits = FIELDS[name].type, FIELDS[name].metadata
    types = {"bool": bool, "int": int, "float": (int, float), "str": str, TEXTS: tuple}[kind]
    right = isinstance(value, types) and isinstance(value, bool) == (kind == "bool")
    if kind == TEXTS:
        right = right and all(isinstance(text, str) for text in value)
    if right and any("\0" in text for text in (value if kind == TEXTS else (value,) if kind == "str" else ())):
        return f"{EXPECTED[kind]} without zero bytes"  # which no path has
    if limits["choices"]:
        return "" if right and value in limits["choices"] else f"one of {', '.join(limits['choices'])}"
    if kind == "str" and limits["high"] < MOST:
        return "" if right and len(value) <= limits["high"] else f"a text of at most {limits['high']} characters"
    if kind not in ("int", "float"):
        return "" if right else EXPECTED[kind]
    low, high = limits["low"], limits["high"]
    if right and low <= value <= high and -math.inf < value < math.inf:
        return ""
    return f"{EXPECTED[kind]} of at least {low}" if high == MOST else f"{EXPECTED[kind]} from {low} to {high}"


def parse_tasks(text: str) -> tuple[str, ...]:
    """Split `detection,segmentation` into task names; `tasks.py` checks that they exist."""
    return tuple(name.strip() for name in text.split(","))


def parse_task_weights(text: str, tasks: tuple[str, ...]) -> dict[str, float]:
    """Split `1,0.5` into the loss weight of each of `tasks`; all are 1 where it is empty."""
    if not text:
        return dict.fromkeys(tasks, 1.0)
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        raise UserError(f"--task-weights expects numbers with commas, got {shown(text)}") from None
    if len(weights) != len(tasks):
        raise UserError(f"--task-weights needs {len(tasks)} numbers, one for each of --task {','.join(tasks)}")
    if not all(0 <= weight < math.inf for weight in weights):
        raise UserError(f"--task-weights expects numbers of at least 0, got {shown(text)}")
    return dict(zip(tasks, weights, strict=True))


def check_widths(model: ModelCFG) -> None:
    """Raise UserError unless widths are divisible by the number of attention heads, and by 4 for the sine and cosine of
    y and x in position embeddings; for rotary positions the width of each head must be divisible by 4."""
    for part in ("encoder", "decoder"):
        width, heads = getattr(model, f"{part}_width"), getattr(model, f"{part}_heads")
        unit = 4 * heads if model.transformer == "llama" else math.lcm(4, heads)
        if width % unit:
            raise UserError(f"--{part}-width expects a multiple of {unit} for --{part}-heads {heads}, got {width}")


def parse_grid(text: str) -> tuple[int, int] | None:
    """Rows and columns of `40x30`; None if it is empty."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
    if text and not match:
        raise UserError(f"--positions-grid expects rows x columns such as 40x30, got {text!r}")
    return (int(match[1]), int(match[2])) if match else None


def check_training(cfg: CFG) -> None:
    """Raise UserError for training settings that do not fit together."""
    model, data, train, window = cfg.model, cfg.data, cfg.train, cfg.infer.coord_window
    if cfg.precision in ("fp16", "int8"):
        raise UserError(f"--precision {cfg.precision} is for inference; train with bf16 or fp32")
    for prefix, low, high in (
        ("", data.min_scale, data.max_scale),
        ("crop-", data.crop_min_scale, data.crop_max_scale),
    ):
        if low > high:
            raise UserError(f"--{prefix}min-scale expects at most --{prefix}max-scale {high}, got {low}")
    if "detection" in cfg.tasks and data.noise_objects and not model.full_detection:
        raise UserError("--noise-objects trains a model that never predicts the end token: set --full-detection too")
    if "detection" in cfg.tasks and model.full_detection and not data.noise_objects:
        raise UserError(
            "--full-detection always predicts --max-objects objects, which only --noise-objects trains: set that too, "
            "or --no-full-detection"
        )
    if window and not train.coord_sigma and {"detection", "keypoint"} & set(cfg.tasks):
        raise UserError(
            f"--coord-window {window} takes means over bins, but --coord-sigma 0 trains on single bins: "
            "set --coord-window 0, or a --coord-sigma such as 2"
        )


def notices(cfg: CFG) -> list[str]:
    """Sentences about settings that have no effect, or probably not the intended one, because of other settings."""
    train, infer = cfg.train, cfg.infer
    found = {
        "--label-smoothing is not applied to coordinates, whose targets are soft with --coord-sigma": (
            train.label_smoothing and train.coord_sigma and cfg.tasks != CAPTIONING
        ),
        f"--small-epochs {train.small_epochs} leave none of --epochs {train.epochs} at the full --image-size": (
            train.small_epochs >= train.epochs
        ),
        "--cosine-share has no effect on other schedules than cosine": (
            train.cosine_share != TrainCFG.cosine_share and train.schedule != "cosine"
        ),
        "--copy-paste-objects has no effect without --copy-paste": (
            cfg.data.copy_paste_objects != DataCFG.copy_paste_objects and not cfg.data.copy_paste
        ),
        "--mosaic has no effect without a task that finds objects": cfg.data.mosaic and "detection" not in cfg.tasks,
        "--end-threshold has no effect where --detection-top-p or --detection-votes sample": (
            (infer.detection_top_p or infer.detection_votes > 1) and "end_threshold" in cfg.given
        ),
        "--invisible-threshold has no effect where --keypoint-top-p samples": (
            infer.keypoint_top_p and infer.keypoint_votes == 1 and "invisible_threshold" in cfg.given
        ),
        "--watch-minutes has no effect without --watch": infer.watch_minutes and not infer.watch,
        "--weights has no effect beside --watch": infer.watch and infer.weights != InferCFG.weights,
    }
    return [sentence for sentence, applies in found.items() if applies]


# Augmentation as in the papers (detection has no color jitter there; captions trained alone have 0.5).
PAPER_DATA = DataCFG(
    copies_per_image=2,
    prompts_per_image=10,
    orders_per_image=1,
    captions_per_image=5,
    min_scale=0.3,
    max_scale=2.0,
    placement="corner",
    min_visible=0.0,
    crop_flip=0.0,
    crop_min_scale=0.3,
    crop_max_scale=1.0,
    box_jitter=0.0,
    color_jitter=0.0,
    noise_objects=True,
    class_corruption="rand_n_fake_cls",
    shuffle_polygons=False,
    mask_points=True,
    drop_words=0.5,
)

# Optimization as in the papers: small loss weights of end tokens, all layers trained.
PAPER_TRAIN = TrainCFG(
    optimizer="adamw",
    lr=1e-4,
    backbone_lr_factor=1.0,
    frozen_stages=0,
    auxiliary_weight=0.0,
    end_weight=0.1,
    caption_end_weight=0.1,
    invisible_weight=0.1,
)


def _official(name: str, encoder: tuple[int, int, int], decoder: tuple[int, int, int], **backbone: str) -> CFG:
    """One of the published models; `encoder` and `decoder` are (width, layers, heads)."""
    return CFG(
        preset=name,
        model=ModelCFG(
            image_size=640,
            pixels="float32",
            normalize=False,
            crop_padding=0.5,
            backbone=backbone.get("backbone", "resnet50_official"),
            backbone_kwargs=backbone.get("backbone_kwargs", "{}"),
            encoder_width=encoder[0],
            encoder_layers=encoder[1],
            encoder_heads=encoder[2],
            decoder_width=decoder[0],
            decoder_layers=decoder[1],
            decoder_heads=decoder[2],
            dropout=0.1,
            drop_path=0.1,
            init="official",
            coord_init="normal",
            vocab_size=3000,
            max_tokens=512,
            max_objects=100,
            max_points=128,
            max_words=127,
            segment_whole=True,
            crop_inside=True,
            full_detection=True,
            separators=2,
        ),
        data=PAPER_DATA,
        train=dataclasses.replace(
            PAPER_TRAIN,
            pretrained=False,
            epochs=40,
            steps_per_epoch=0,
            warmup_steps=2000,
            schedule="linear",
            decay="all",
            clip_norm=0.0,
            ema_decay=0.0,
            coord_sigma=0.0,
        ),
        infer=InferCFG(coord_window=0),
    )


PRESETS = {
    "demo": CFG(),
    "resnet50": _official("resnet50", (256, 6, 8), (256, 6, 8)),
    "resnet50-c4": _official("resnet50-c4", (512, 12, 16), (512, 8, 16), backbone_kwargs='{"stages": 3}'),
    "vit-b": _official("vit-b", (768, 12, 12), (512, 6, 16), backbone="patches"),
    "vit-l": _official("vit-l", (1024, 24, 16), (512, 8, 16), backbone="patches"),
    # A usual size of PyTorch implementations: a DeiT-III encoder and a decoder of 6 layers of width 256, at 384 px.
    "deit3-small": CFG(
        preset="deit3-small",
        model=ModelCFG(
            image_size=384,
            backbone="deit3_small_patch16_384",
            backbone_kwargs="{}",
            encoder_layers=0,
            decoder_width=256,
            decoder_layers=6,
            decoder_heads=8,
            vocab_size=35000,
            max_tokens=512,
            max_objects=100,
            max_points=128,
            dropout=0.05,
            full_detection=True,
        ),
        data=PAPER_DATA,
        train=dataclasses.replace(PAPER_TRAIN, batch_size=16),
        infer=InferCFG(coord_window=0),
    ),
}


def replace(cfg: CFG, **values: Any) -> CFG:
    """A copy of `cfg` with fields of any group replaced by bare name: `replace(cfg, epochs=1, task="detection")`."""
    given = cfg.given | values.keys() & FIELDS.keys()
    changes: dict[str, Any] = {"given": given}
    for group in dataclasses.fields(cfg):
        part = getattr(cfg, group.name)
        if dataclasses.is_dataclass(part):
            names = {member.name for member in dataclasses.fields(part)} & values.keys()
            changes[group.name] = dataclasses.replace(part, **{name: values.pop(name) for name in names})
    return dataclasses.replace(cfg, **changes, **values)


def decoding_of(cfg: CFG) -> dict[str, Any]:
    """What of the decoding settings differs from the defaults: for the weights file of a run."""
    return {name: value_of(cfg, name) for name in DECODING if value_of(cfg, name) != FIELDS[name].default}


def with_decoding(cfg: CFG, decoding: Mapping[str, Any]) -> CFG:
    """`cfg` with the `decoding` settings of a weights file, but for settings that are `given` otherwise.

    The file's calibration of scores is left out where others of its settings, with which it was fitted, are not used.
    """
    own = {name: value for name, value in decoding.items() if name not in cfg.given}
    if not fits_calibration(cfg, decoding):
        own = {name: value for name, value in own.items() if name not in CALIBRATION}
    return dataclasses.replace(cfg, infer=dataclasses.replace(cfg.infer, **own))


def fits_calibration(cfg: CFG, decoding: Mapping[str, Any]) -> bool:
    """Whether what is `given` leaves the scores as they were when the `decoding` settings' calibration was fitted."""
    return all(value_of(cfg, name) == decoding[name] for name in SHAPING & cfg.given & decoding.keys())


def decoding_in(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The decoding settings in the metadata of a weights file; names that this version does not know are left out, and
    told.

    A file of an earlier version has one, a model's setting then: the bins over which coordinates are averaged.
    Raises UserError for what holds no settings, or values that they cannot have.
    """
    if "decoding" not in metadata:
        return {"coord_window": from_json(metadata["cfg"]).infer.coord_window}
    values = decode(metadata["decoding"], Settings, "decoding")
    known = {RENAMED.get(name, name): value for name, value in values.items()}
    if unknown := sorted(known.keys() - set(DECODING)):
        _tell_of_unknown(listed(unknown, 5))
    known = {name: value for name, value in known.items() if name in DECODING}
    for name, value in known.items():
        if expected := what_is_wrong(name, value):
            raise UserError(f"the decoding setting {name} expects {expected}, got {shown(value)}")
    return known


@cache
def _tell_of_unknown(names: str) -> None:
    """Once, however often the file is read."""
    tell(f"the weights decode best with settings that this version does not know, and leaves out: {names}")


def to_json(cfg: CFG) -> str:
    """The whole CFG as JSON."""
    values = dataclasses.asdict(cfg)
    del values["given"]
    return json.dumps(values, indent=2)


def from_json(text: str) -> CFG:
    """The CFG that `to_json` wrote, in this version or an earlier one.

    Settings that were renamed or moved to another group are recognized, those unknown to this version are ignored, and
    new ones keep their default. Raises UserError if the text does not hold settings.
    """
    values = decode(text, Settings, "cfg")
    if missing := [group for group in GROUPS if not isinstance(values.get(group), dict)]:
        raise UserError(f"cfg cannot be read: expected the settings of {', '.join(GROUPS)}, {missing[0]} has none")
    named = {RENAMED.get(name, name): value for name, value in flat(values)}
    return replace(CFG(), **{name: as_tuple(value) for name, value in named.items() if name in FIELDS})


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of settings, whether or not they are nested below their group's name."""
    for name, value in values.items():
        if name in GROUPS and isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name, value


def as_tuple(value: Any) -> Any:
    """A list from a file as a tuple, which settings use."""
    return tuple(value) if isinstance(value, list) else value
