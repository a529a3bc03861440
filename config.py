"""The one place where settings live: the dataclass `CFG` and its presets.

Every field below is a command-line flag of every script (`--image-size 640`), with the comment beside it as its help.
`CFG` is passed on as an argument and never changed in place.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from pix2seq.errors import UserError

TASKS = ("detection", "segmentation", "keypoint", "captioning")
# Classes that detection reads in training as its earlier answers: the true ones, random ones, the fake class or a mix.
ClassCorruption = Literal["none", "rand_cls", "real_n_fake_cls", "rand_n_fake_cls", "real_n_rand_n_fake_cls"]


@dataclass(frozen=True)
class ModelCFG:
    """What a weights file was trained as: at inference these come from the file."""

    image_size: int = 192  # side of the square canvas that the model sees, pixels
    pad_value: float = 0.3  # gray level of the canvas outside the image, 0 to 1
    normalize: bool = True  # subtract the mean and divide by the deviation that the timm backbone was pretrained with
    crop_padding: float = 0.25  # margin of a crop on each side of a box, fraction of its longer side (or of each side)
    backbone: str = "tf_efficientnet_lite0"  # any timm model name, or patches, or resnet50_official
    backbone_kwargs: str = "{}"  # arguments for timm.create_model, JSON
    backbone_stage: int = 3  # which feature map of a convnet, counted from 0 (plain ViTs have one map only)
    encoder_width: int = 192  # channels of the transformer encoder on top of a convnet
    encoder_layers: int = 3  # transformer layers on top of the backbone
    encoder_heads: int = 3  # attention heads of these layers
    decoder_width: int = 192  # channels of the decoder
    decoder_layers: int = 3  # layers of the decoder
    decoder_heads: int = 3  # attention heads of the decoder
    mlp_ratio: int = 4  # hidden width of every MLP, times its width
    transformer: Literal["standard", "llama"] = "standard"  # llama: RMSNorm, SwiGLU, rotary positions, no biases
    class_token: bool = False  # a learned token before the grid's tokens
    encoder_positions: Literal["sincos", "learned"] = "sincos"  # position code of the encoder's grid
    decoder_positions: Literal["learned", "sincos"] = "learned"  # position code of the decoder's tokens
    projection: Literal["mlp", "linear_p", "linear"] = "mlp"  # encoder to decoder; linear_p: no MLP; linear: no code
    shared_embedding: bool = True  # the output matrix is the token embedding
    dropout: float = 0.0  # dropout inside every MLP, and on a convnet's features
    attention_dropout: float = 0.0  # dropout of attention probabilities
    drop_path: float = 0.0  # chance that a training sample skips a residual branch
    init: Literal["glorot", "official"] = "glorot"  # official: attention matrices start smaller, as Keras makes them
    coord_init: Literal["normal", "sincos"] = "sincos"  # start of coordinate embeddings: independent, or smooth in x
    vocab_size: int = 3400  # token ids at least (3000 without text): training adds what its captions' words need
    max_tokens: int = 256  # longest sequence, prompt included
    max_objects: int = 40  # objects of an image that detection is taught and asked for at most
    max_points: int = 36  # polygon points of an instance at most: longer polygons are resampled
    separators: int = 1  # separator tokens between two polygons of an instance
    max_words: int = 64  # words, or word pieces, of a caption at most: longer captions are cut
    segment_whole: bool = False  # prompt segmentation on the whole image instead of a crop around the instance
    crop_inside: bool = False  # crops end at the image's edge instead of being square; crop_padding is of each side
    coord_window: int = 20  # greedy coordinates are means over this many bins on each side: for soft targets; 0: off
    full_detection: bool = False  # always say max_objects objects and rank them: for models taught with noise objects


@dataclass(frozen=True)
class DataCFG:
    """Images, annotations and how they become sequences."""

    data_root: str = ""  # folder in COCO's or Pascal VOC's layout; empty: drawn scenes, generated once below data/
    train_json: str = ""  # training annotations in COCO's format, as a path or below the data root
    val_json: str = ""  # validation annotations in COCO's format, as a path or below the data root
    train_images: str = ""  # folder of the training images, if it is not where the layout has it
    val_images: str = ""  # folder of the validation images; empty: that of train_images, or where the layout has it
    classes: str = ""  # comma-separated names of the classes to use; empty: all
    train_difficult: bool = False  # train on objects that VOC calls difficult, too
    scenes_train: int = 24000  # drawn training images
    scenes_val: int = 500  # drawn validation images
    scenes_seed: int = 0  # seed of the drawn images
    train_split: str = "train2017"  # COCO: folder of images and ending of their annotation files; VOC: image set
    val_split: str = "val2017"  # the same of the validation images
    workers: int = 2  # data loading processes
    cache_gb: float = 0.0  # disk space for decoded training images below data/cache; 0: none are kept
    check_data: bool = True  # look through the annotations before training
    crops_per_image: int = 1  # prompted instances (segmentation, keypoint) that are cropped from each image
    prompts_per_image: int = 10  # prompted instances of a whole image at most, with segment_whole
    orders_per_image: int = 2  # random object orders of each image that detection is taught
    captions_per_image: int = 2  # captions of each image per epoch
    caption_min_count: int = 2  # rarer words become <unk>
    vocab: str = ""  # JSON word list of build_captioning_vocab.py; empty: built from the training captions
    text_model: str = ""  # SentencePiece model of captions; empty: a word list
    copies_per_image: int = 1  # differently augmented copies of each training image in a batch
    flip: float = 0.5  # probability of a mirrored training image
    min_scale: float = 0.85  # longer side of a training image at least, times the canvas's side
    max_scale: float = 1.15  # longer side of a training image at most, times the canvas's side
    placement: Literal["anywhere", "corner"] = "anywhere"  # of a scaled one; corner: smaller ones in the upper left
    min_visible: float = 0.3  # share of its box that an object must show to be taught; 0: any part of it
    crop_flip: float = 0.5  # probability of a mirrored crop of a prompted instance
    crop_min_scale: float = 0.85  # min_scale where instances are prompted: of a crop, or of the image (segment_whole)
    crop_max_scale: float = 1.15  # max_scale where instances are prompted
    crop_rotation: float = 0.0  # canvases where instances are prompted are turned by this angle at most, degrees
    box_jitter: float = 0.03  # deviation of a training prompt's box from the true box, fraction of its sides
    color_jitter: float = 0.2  # brightness, contrast and saturation change by a factor of 1 ± this at most
    rand_augment: int = 0  # random color operations of RandAugment on the image of each training canvas
    rand_magnitude: float = 9.0  # strength of these operations, 0 to 30
    object_order: Literal["random", "area", "distance"] = "random"  # largest first; nearest to the upper left first
    noise_objects: bool = False  # fill detection up to max_objects with false objects; needs full_detection
    class_corruption: ClassCorruption = "none"  # what detection reads as its earlier classes: random, real or fake ones
    shuffle_polygons: bool = True  # polygons start at a random point
    mask_points: bool = False  # keypoints read as earlier answers become invisible, at a random rate
    drop_words: float = 0.0  # share of the caption tokens read as earlier answers that become fake


@dataclass(frozen=True)
class TrainCFG:
    """Optimisation and what a run writes."""

    run_dir: str = "runs/multi_task"  # folder for checkpoints, metrics and curves, below the project unless absolute
    resume: bool = False  # go on from the run folder's last checkpoint
    start_from: str = ""  # weights file to fine-tune: its model settings are the defaults, classes are matched by name
    pretrained: bool = True  # start the backbone from ImageNet weights (a package has the demo's; others: timm's hub)
    epochs: int = 14  # passes over the training images
    steps_per_epoch: int = 300  # optimizer steps of an epoch at most; 0: all images
    batch_size: int = 32  # images of one optimizer step and process
    optimizer: Literal["adamw", "muon"] = "muon"  # muon: for the transformers' matrices, AdamW for all else
    lr: float = 1e-3  # highest learning rate
    muon_lr_factor: float = 3.0  # learning rate of Muon's matrices, times --lr
    backbone_lr_factor: float = 0.3  # learning rate of the backbone, times --lr
    frozen_stages: int = 3  # backbone layers up to this many feature maps stay as they are (a plain ViT has one map)
    warmup_steps: int = 300  # steps of linear warm-up, a third of the run at most
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"  # learning rate after the warm-up
    cosine_share: float = 1.0  # part of the cosine's half wave that the schedule goes through
    end_lr_factor: float = 0.01  # learning rate of the last step, fraction of the highest
    tail_steps: int = 0  # last steps, at the last rate: the schedule is over before them
    weight_decay: float = 0.05  # AdamW's decay of what --decay names; Muon's matrices always decay
    decay: Literal["matrices", "all", "kernels"] = "matrices"  # kernels: no embeddings; all: biases and norms too
    beta2: float = 0.95  # AdamW's second-moment decay
    clip_norm: float = 1.0  # highest gradient norm; 0: no clipping
    ema_decay: float = 0.9995  # decay of the averaged weights that are evaluated and kept; 0: no averaging
    precision: Literal["fp32", "bf16"] = "bf16"  # arithmetic of the training step
    coord_sigma: float = 2.0  # deviation of the soft targets around a true coordinate bin, bins; 0: one bin
    label_smoothing: float = 0.0  # share of a target that is spread over all tokens; not with soft coordinate targets
    dense_weight: float = 1.0  # loss weight of what each cell of the memory says of its object; 0: sequences alone
    end_weight: float = 0.5  # loss weight of detection's end token
    noise_weight: float = 1.0  # loss weight of a noise object's class token; its coordinates are not taught
    caption_end_weight: float = 1.0  # loss weight of a caption's end token
    invisible_weight: float = 0.3  # loss weight of an invisible keypoint's tokens
    store: Literal["fp32", "fp16"] = "fp16"  # numbers in best.safetensors and last.safetensors
    limit_minutes: float = 0.0  # stop after the epoch in which this time is reached; 0: no limit
    eval_images: int = 256  # validation images for the loss after each epoch
    eval_every: int = 0  # epochs between two full evaluations; 0: losses only
    small_epochs: int = 0  # first epochs on a canvas of two thirds of the size: quicker early learning (convnets only)


@dataclass(frozen=True)
class InferCFG:
    """What to infer on, how to decode, what to write."""

    weights: str = "weights/scenes.safetensors"  # weights file, below the project unless it exists where you are
    image: tuple[str, ...] = ()  # images or folders of images
    box: str = ""  # x,y,w,h in pixels: the instance to segment or to find keypoints in; empty: detect first
    box_class: str = "person"  # class name of --box
    output_dir: str = "."  # folder for PNGs and result.json
    score_threshold: float = 0.3  # detections below this are not used
    temperature: float = 1.0  # of sampling; 0: greedy
    top_k: int = 0  # sample among the k likeliest tokens; 0: all
    top_p: float = 0.8  # nucleus: sample among the likeliest tokens that together have this probability
    end_threshold: float = 0.97  # detection ends when that is as likely as this; 0: when it is the likeliest token
    detection_top_p: float = 0.0  # nucleus of detection's coordinates; 0: greedy
    num_samples: int = 8  # polygons that vote for a mask; 1: one greedy polygon
    mask_threshold: float = 0.5  # share of the votes that makes a pixel part of the mask
    suppress_invisible: bool = False  # put keypoints said to be invisible where they likeliest are, not at the centre
    eval_batch_size: int = 32  # images or crops of one evaluation step
    points_score_weight: float = 1.0  # a pose's score is this part its points' and the rest its box's score
    max_images: int = 0  # images of the split that an evaluation asks about at most; 0: all
    watch: str = ""  # run folder of which each new last.safetensors is evaluated, instead of --weights
    watch_minutes: float = 0.0  # end watching after this time; 0: with Ctrl-C


@dataclass(frozen=True)
class CFG:
    """All settings of a run."""

    preset: str = "demo"  # defaults to start from: demo, deit3-small, resnet50, resnet50-c4, vit-b, vit-l
    task: str = ",".join(TASKS)  # comma-separated tasks
    task_weights: str = ""  # comma-separated loss weights in the order of --task; empty: all 1
    seed: int = 0  # of weights, order, augmentation and sampling
    device: str = "auto"  # cpu, cuda, cuda:1, ...; auto: cuda where there is one
    model: ModelCFG = field(default_factory=ModelCFG)
    data: DataCFG = field(default_factory=DataCFG)
    train: TrainCFG = field(default_factory=TrainCFG)
    infer: InferCFG = field(default_factory=InferCFG)

    def __post_init__(self) -> None:
        check_ranges(self)
        check_widths(self.model)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks by name, in the order given."""
        return parse_tasks(self.task)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Task name to loss weight."""
        if not self.task_weights:
            return dict.fromkeys(self.tasks, 1.0)
        try:
            weights = [float(weight) for weight in self.task_weights.split(",")]
        except ValueError:
            raise UserError(f"--task-weights expects numbers with commas, got {self.task_weights!r}") from None
        if len(weights) != len(self.tasks):
            raise UserError(f"--task-weights needs {len(self.tasks)} numbers, one for each of --task {self.task}")
        if not all(0 <= weight < math.inf for weight in weights):
            raise UserError(f"--task-weights expects numbers of at least 0, got {self.task_weights}")
        return dict(zip(self.tasks, weights, strict=True))


# The least and the highest value of every number above, and the names of those that have them.
RANGES: dict[str, tuple[float, float]] = {
    name: limits
    for limits, names in {
        (0, 1): (
            "pad_value dropout attention_dropout drop_path flip min_visible crop_flip box_jitter color_jitter "
            "drop_words cosine_share end_lr_factor ema_decay label_smoothing score_threshold end_threshold "
            "detection_top_p mask_threshold points_score_weight"
        ),
        (0, math.inf): (
            "crop_padding backbone_stage encoder_layers scenes_train scenes_val scenes_seed workers cache_gb "
            "rand_augment steps_per_epoch muon_lr_factor backbone_lr_factor frozen_stages warmup_steps tail_steps "
            "weight_decay clip_norm coord_sigma dense_weight end_weight noise_weight caption_end_weight "
            "invisible_weight limit_minutes eval_every small_epochs temperature top_k max_images watch_minutes"
        ),
        (1, math.inf): (
            "image_size encoder_heads decoder_layers decoder_heads mlp_ratio max_tokens max_objects separators "
            "max_words crops_per_image prompts_per_image orders_per_image captions_per_image caption_min_count "
            "copies_per_image epochs batch_size eval_images num_samples eval_batch_size"
        ),
        (3, math.inf): "max_points",
        (4, math.inf): "encoder_width decoder_width",
        (3000, math.inf): "vocab_size",
        (0.01, 100): "min_scale max_scale crop_min_scale crop_max_scale",
        (0.001, 1): "top_p",
        (1e-9, 10): "lr",
        (0, 0.99999): "beta2",
        (0, 30): "rand_magnitude",
        (0, 180): "crop_rotation",
        (0, 999): "coord_window",
        (0, 2**32 - 1): "seed",
    }.items()
    for name in names.split()
}


def check_ranges(cfg: CFG) -> None:
    """Raise UserError for a number that lies outside its range in RANGES."""
    for part in (cfg, cfg.model, cfg.data, cfg.train, cfg.infer):
        for name, value in vars(part).items():
            if name not in RANGES:
                continue
            low, high = RANGES[name]
            if not (low <= value <= high and math.isfinite(value)):
                expected = f"at least {low}" if high == math.inf else f"a number from {low} to {high}"
                raise UserError(f"--{name.replace('_', '-')} expects {expected}, got {value}")


def check_widths(model: ModelCFG) -> None:
    """Raise UserError unless attention can share a width among its heads, and a position code among y and x, as sine
    and cosine; rotary positions do that in every head."""
    for part in ("encoder", "decoder"):
        width, heads = getattr(model, f"{part}_width"), getattr(model, f"{part}_heads")
        unit = 4 * heads if model.transformer == "llama" else math.lcm(4, heads)
        if width % unit:
            raise UserError(f"--{part}-width expects a multiple of {unit} for --{part}-heads {heads}, got {width}")


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

# Optimisation as in the papers: light ends, all layers learn.
PAPER_TRAIN = TrainCFG(
    optimizer="adamw",
    lr=1e-4,
    backbone_lr_factor=1.0,
    frozen_stages=0,
    dense_weight=0.0,
    end_weight=0.1,
    caption_end_weight=0.1,
    invisible_weight=0.1,
)


def _official(name: str, encoder: tuple[int, int, int], decoder: tuple[int, int, int], **backbone: str) -> CFG:
    """One of the published models; `encoder` and `decoder` are (width, layers, heads)."""
    return CFG(
        preset=name,
        task="detection",
        model=ModelCFG(
            image_size=640,
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
            coord_window=0,
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
    )


PRESETS = {
    "demo": CFG(),
    "resnet50": _official("resnet50", (256, 6, 8), (256, 6, 8)),
    "resnet50-c4": _official("resnet50-c4", (512, 12, 16), (512, 8, 16), backbone_kwargs='{"stages": 3}'),
    "vit-b": _official("vit-b", (768, 12, 12), (512, 6, 16), backbone="patches"),
    "vit-l": _official("vit-l", (1024, 24, 16), (512, 8, 16), backbone="patches"),
    # The size that PyTorch users of this family know: a DeiT-III encoder and a 6 × 256 decoder at 384 px.
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
            coord_window=0,
            full_detection=True,
        ),
        data=PAPER_DATA,
        train=dataclasses.replace(PAPER_TRAIN, batch_size=16),
    ),
}


def parse_tasks(text: str) -> tuple[str, ...]:
    """Split `detection,segmentation` into task names; which of them there are is known to `tasks.py`."""
    return tuple(name.strip() for name in text.split(","))


def replace(cfg: CFG, **values: Any) -> CFG:
    """A copy of `cfg` with fields of any group replaced by bare name: `replace(cfg, epochs=1, task="detection")`."""
    changes: dict[str, Any] = {}
    for group in dataclasses.fields(cfg):
        part = getattr(cfg, group.name)
        if dataclasses.is_dataclass(part):
            names = {member.name for member in dataclasses.fields(part)} & values.keys()
            changes[group.name] = dataclasses.replace(part, **{name: values.pop(name) for name in names})
    return dataclasses.replace(cfg, **changes, **values)


def to_json(cfg: CFG) -> str:
    """The whole CFG as JSON."""
    return json.dumps(dataclasses.asdict(cfg), indent=2)


def from_json(text: str) -> CFG:
    """The CFG that `to_json` wrote; fields unknown to this version are left out, new ones keep their default."""
    values = json.loads(text)
    groups = {"model": ModelCFG, "data": DataCFG, "train": TrainCFG, "infer": InferCFG}
    for name, group in groups.items():
        known = {member.name for member in dataclasses.fields(group)}
        values[name] = group(**{key: _tuple(value) for key, value in values[name].items() if key in known})
    known = {member.name for member in dataclasses.fields(CFG)}
    return CFG(**{key: value for key, value in values.items() if key in known})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
