"""The image encoder: any timm backbone, with transformer layers on top where it is a convnet."""

from __future__ import annotations

import re

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2seq.backbone_arguments import read_arguments
from pix2seq.config import ModelCFG, parse_grid
from pix2seq.errors import UserError, plain, shown
from pix2seq.models.layers import EncoderLayer, LayerCFG, glorot_uniform, init_weights, rotary_2d, sincos_2d
from pix2seq.models.pretrained import packaged_weights
from pix2seq.models.resnet import ResNet
from pix2seq.runtime.device import image_format, in_few_sizes


class Patches(nn.Module):
    """Images (B, 3, H, W) as a map (B, 3 · size², ⌊H / size⌋, ⌊W / size⌋) of square patches: row, column, color.

    With the encoder's stem on top this is the patch embedding of a vision transformer.
    """

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.width, self.reduction, self.stages = 3 * size**2, size, []

    def forward(self, images: Tensor) -> Tensor:
        size = self.reduction
        height, width = images.shape[2] // size, images.shape[3] // size
        whole = images[:, :, : height * size, : width * size]
        patches = whole.unflatten(3, (width, size)).unflatten(2, (height, size))  # (B, 3, h, size, w, size)
        return patches.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")  # an architecture and a tag, but no address of a server or folder
OWN_BACKBONES = {"patches": Patches, "resnet50_official": ResNet}


class Backbone(nn.Module):
    """One of our own backbones or a timm model, as a grid of features.

    Plain vision transformers of timm give their final tokens; everything else gives feature maps: deeper ones are
    magnified to the grid of the first and joined to its channels, so that each cell also knows what surrounds it (as in
    feature pyramid networks, Lin et al., arXiv 1612.03144).
    """

    def __init__(self, cfg: ModelCFG, pretrained: bool) -> None:
        super().__init__()
        kwargs = read_arguments(cfg.backbone_kwargs)
        self.is_vit = cfg.backbone not in OWN_BACKBONES and _is_plain_vit(cfg.backbone)
        if cfg.backbone_levels > 1 and (self.is_vit or cfg.backbone in OWN_BACKBONES):
            raise UserError(f"--backbone-levels expects 1 for {cfg.backbone}, which has one feature map")
        if cfg.backbone in OWN_BACKBONES:
            self.net = _create_own(cfg.backbone, pretrained, kwargs)
            self.width, self.reduction, self.stages = self.net.width, self.net.reduction, self.net.stages
        elif self.is_vit:
            self.net = _create(cfg.backbone, pretrained, kwargs | {"img_size": cfg.image_size, "num_classes": 0})
            self.width, self.reduction, self.stages = self.net.embed_dim, self.net.patch_embed.patch_size[0], []
        else:
            used = range(cfg.backbone_stage, cfg.backbone_stage + cfg.backbone_levels)
            features = {"features_only": True, "feature_cls": "getter", "out_indices": tuple(used)}
            try:
                self.net = _create(cfg.backbone, pretrained, kwargs | features)
            except UserError as error:
                if not isinstance(error.__cause__, AssertionError):
                    raise
                raise UserError(
                    f"--backbone-stage {cfg.backbone_stage} with --backbone-levels {cfg.backbone_levels} asks for "
                    f"feature maps that {cfg.backbone} does not have ({error.__cause__}); lower one of them"
                ) from None
            infos = self.net.feature_info.info[: used.stop]
            self.widths = [infos[level]["num_chs"] for level in used]
            self.width, self.reduction = sum(self.widths), infos[used.start]["reduction"]
            self.stages = [f"model.{info['module']}" for info in infos]
        if self.side(cfg.image_size) < 1:
            raise UserError(f"--image-size expects at least {self.reduction} for {cfg.backbone}, got {cfg.image_size}")

    @property
    def is_patches(self) -> bool:
        """The backbone is no network: the image's patches go straight to the transformer."""
        return isinstance(self.net, Patches)

    def side(self, image_size: int) -> int:
        """Cells of the grid along one side of a canvas."""
        round_down = self.is_vit or self.is_patches
        return image_size // self.reduction if round_down else -(-image_size // self.reduction)

    def positions_grid(self, cfg: ModelCFG) -> tuple[int, int]:
        """Rows and columns of learned positions: of the canvas, unless the settings name others."""
        side = self.side(cfg.image_size)
        return parse_grid(cfg.positions_grid) or (side, side)

    def freeze(self, stages: int) -> None:
        """Fix the layers up to the last one of the first `stages` feature maps; a plain ViT has one map: all of it."""
        if stages <= 0:
            return
        parameters = list(self.net.named_parameters())
        last = len(parameters) - 1
        if stages < len(self.stages):
            inside = self.stages[stages - 1] + "."
            last = max(i for i, (name, _) in enumerate(parameters) if name.startswith(inside))
        for _, parameter in parameters[: last + 1]:
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Backbone:
        """As ever, but a frozen batch norm keeps its running statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and not module.weight.requires_grad:
                module.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int], int]:
        """(B, 3, H, W) → tokens (B, P + h · w, C), the grid (h, w), and the number P of tokens outside the grid."""
        if self.is_vit:
            tokens = self.net.fc_norm(self.net.forward_features(images))  # the final norm of ViTs without class token
            return tokens, self.net.patch_embed.grid_size, self.net.num_prefix_tokens
        maps = self.net(images)
        if isinstance(maps, Tensor):
            return _tokens(maps)
        # some hierarchical transformers put channels last
        maps = [m if m.shape[1] == width else m.permute(0, 3, 1, 2) for m, width in zip(maps, self.widths, strict=True)]
        grid = maps[0].shape[2:]
        return _tokens(torch.cat([maps[0], *(F.interpolate(deeper, grid, mode="bilinear") for deeper in maps[1:])], 1))


def _tokens(features: Tensor) -> tuple[Tensor, tuple[int, int], int]:
    """A feature map (B, C, h, w) as `Backbone.forward` returns it."""
    return features.flatten(2).transpose(1, 2), tuple(features.shape[2:]), 0


def _is_plain_vit(name: str) -> bool:
    if not TIMM_NAME.fullmatch(name) or not timm.is_model(name):
        raise UserError(f"--backbone expects a model name of timm, got {shown(name)}; timm.list_models() names them")
    return timm.model_entrypoint(name).__module__.rsplit(".", 1)[-1] in ("vision_transformer", "deit")


def _create(name: str, pretrained: bool, kwargs: dict) -> nn.Module:
    try:
        if pretrained and (tensors := packaged_weights(name)):
            kwargs |= {"pretrained_cfg_overlay": {"state_dict": tensors}}
        return timm.create_model(name, pretrained=pretrained, **kwargs)
    except Exception as error:  # timm raises anything for arguments that do not fit
        reason = plain(str(error).partition("\n")[0]) or type(error).__name__
        if pretrained and isinstance(error, (OSError, RuntimeError)):
            raise UserError(
                f"timm could not load ImageNet weights for {name} ({reason}); connect, or use --no-pretrained"
            ) from error
        raise UserError(f"timm cannot build {name} with these --backbone-kwargs: {reason}") from error


def _create_own(name: str, pretrained: bool, kwargs: dict) -> nn.Module:
    try:
        net = OWN_BACKBONES[name](**kwargs)
    except TypeError as error:
        raise UserError(f"--backbone-kwargs does not fit {name}: {error}") from error
    if pretrained and isinstance(net, ResNet):  # timm's parameters have the same names
        net.load_state_dict(_create("resnet50", True, {"num_classes": 0}).state_dict())
    return net


class GridPositions(nn.Module):
    """Position code that is added to the tokens of a grid: computed for any, or learned for one (rows, columns)."""

    def __init__(self, kind: str, width: int, learned_grid: tuple[int, int]) -> None:
        super().__init__()
        self.width, self.learned_grid = width, learned_grid
        self.weight = None
        if kind == "learned":
            rows, columns = learned_grid
            self.weight = nn.Parameter(nn.init.trunc_normal_(torch.empty(rows * columns, width), std=0.02))

    def forward(self, x: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
        """`x` (B, P + h · w, D) with the code; the P tokens outside the grid (class token) have no position."""
        return x + F.pad(self.code(grid, x.device), (0, 0, num_prefix, 0)).to(x.dtype)

    def code(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """Code (h · w, D) of a grid (h, w); a learned one is stretched to grids of other sizes."""
        if self.weight is None:
            return sincos_2d(*grid, self.width, device=device)
        if tuple(grid) == self.learned_grid:
            return self.weight
        learned = self.weight.T.unflatten(1, self.learned_grid)[None]
        return F.interpolate(learned, grid, mode="bicubic", antialias=True)[0].flatten(1).T


class Encoder(nn.Module):
    """Images in [0, 1] to encoded tokens (B, N, encoder width)."""

    def __init__(self, cfg: ModelCFG, pretrained: bool = False) -> None:
        super().__init__()
        self.normalize = cfg.normalize
        self.backbone = Backbone(cfg, pretrained)
        self._keep_statistics(cfg.backbone)
        self.width = cfg.encoder_width if cfg.encoder_layers else self.backbone.width
        self.num_prefix = int(cfg.class_token)
        self.positions = None
        if not cfg.encoder_layers:
            self.stem, self.layers, self.norm = nn.Identity(), nn.ModuleList(), nn.Identity()
            return
        layer = LayerCFG.encoder(cfg)
        self.head_width = layer.width // layer.heads
        self.features_dropout = nn.Dropout(0.0 if self.backbone.is_patches else cfg.dropout)
        self.stem = nn.Sequential(nn.Linear(self.backbone.width, self.width), layer.norm())
        self.stem.apply(init_weights)
        if cfg.init == "official" and self.backbone.is_patches:
            places = self.backbone.reduction**2  # Keras counts the fans of the patch convolution
            glorot_uniform(self.stem[0].weight, 3 * places, self.width * places)
        if not layer.llama:
            self.positions = GridPositions(cfg.encoder_positions, self.width, self.backbone.positions_grid(cfg))
        if cfg.class_token:
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.width), std=0.02))
        self.layers = nn.ModuleList(EncoderLayer(layer) for _ in range(cfg.encoder_layers))
        self.layers.apply(init_weights)
        self.norm = layer.norm()

    def _keep_statistics(self, backbone: str) -> None:
        """The mean and deviation of pixels that the backbone's ImageNet weights were trained with."""
        own = backbone in OWN_BACKBONES
        known = timm.get_pretrained_cfg("resnet50" if own else backbone)
        for name, values in (("mean", known.mean), ("std", known.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[int, int], int]:
        """(B, 3, H, W) → tokens (B, P + h · w, D), the grid (h, w), and the number P of tokens outside the grid."""
        x, grid, num_prefix, angles = self.embed(images)
        for layer in self.layers:
            x = layer(x, angles)
        return self.norm(x), grid, num_prefix

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int], int, Tensor | None]:
        """What the first layer reads: tokens, grid and P as in `forward`, and rotary angles where there are any."""
        count = len(images)
        if not (self.backbone.is_vit or self.backbone.is_patches):
            images = in_few_sizes(images)
        if self.normalize:
            images = (images - self.mean) / self.std
        x, grid, num_prefix = self.backbone(images.contiguous(memory_format=image_format(images.device)))
        x = x[:count]
        if not self.layers:
            return x, grid, num_prefix, None
        x = self.stem(self.features_dropout(x))
        if self.num_prefix:
            x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
            num_prefix += 1
        if self.positions is not None:
            return self.positions(x, grid, num_prefix), grid, num_prefix, None
        angles = rotary_2d(*grid, self.head_width, device=x.device)
        return x, grid, num_prefix, F.pad(angles, (0, 0, num_prefix, 0))  # a class token is not turned
