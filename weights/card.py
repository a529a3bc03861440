"""What the Hugging Face hub shows of weights: a model card and a config.json, made from what the file says of itself.

All texts in a weights file are a stranger's: here they are words, never YAML, Markdown or HTML.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from pix2seq.config import flag
from pix2seq.errors import listed, plain
from pix2seq.infer.introduction import description
from pix2seq.models.weights import Weights
from pix2seq.task import Task

LIBRARY = "pix2seq-toolkit"
SPECIAL = re.compile(r"[\\`*_{}\[\]()<>#|~!&@$^=]|:(?=/)|(?<=www)\.", re.IGNORECASE)  # the last two begin links
MOST_NAMES = 100  # classes that a card lists
# Licences as the hub's cards call them (https://huggingface.co/docs/hub/repositories-licenses), as far as weights have
# them; any other one is `other`, and its words stand in the card.
LICENCES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "unlicense"),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail"),
)


def model_card(
    weights: Weights, tasks: Mapping[str, Task], title: str, address: str, dtype: str, datasets: Sequence[str] = ()
) -> str:
    """The README.md of weights that were trained for `tasks`.

    `address` is what `--weights` gets, `dtype` how the numbers are stored, `datasets` their names on the hub.
    """
    facts = "\n".join(f"| {name} | {fact} |" for name, fact in _facts(weights, tasks, dtype).items() if fact)
    return CARD.format(
        front_matter=_front_matter(weights, tasks, datasets),
        title=escaped(title),
        facts=facts,
        address=address,
        tasks=",".join(tasks),
    )


CARD = """---
{front_matter}
---

# {title}

A model of the Pix2Seq Toolkit: what it predicts is a sequence of tokens, made by one encoder-decoder.

| | |
| --- | --- |
{facts}

The file describes itself: its metadata hold all settings, class names and caption words. Nothing is unpickled.

## Use

In the toolkit's folder, after `pip install -e .`:

```sh
python infer/infer_single_image_multi_task.py --weights {address} --image x.jpg
```

```python
import pix2seq

model = pix2seq.load("{address}")
result = model("x.jpg")  # arrays in the image's pixels; result.save("results") draws them
```

## Figures

The file holds none. To measure it on your data:

```sh
python evaluate/evaluate_multi_task.py --weights {address} --task {tasks} --data-root YOUR_DATA
```
"""


def _front_matter(weights: Weights, tasks: Mapping[str, Task], datasets: Sequence[str]) -> str:
    """What the hub reads, as YAML."""
    from huggingface_hub import ModelCardData  # slow to import

    names = [task.hub_task for task in tasks.values() if task.hub_task]
    licence = weights.licence.strip().lower()
    data = ModelCardData(
        license=(licence if licence in LICENCES else "other") if licence else None,
        library_name=LIBRARY,
        pipeline_tag=names[0] if names else None,
        tags=["pix2seq", *names],
        datasets=[name for name in map(plain, datasets) if name] or None,  # YAML's writer loses separators of lines
    )
    return data.to_yaml()


def _facts(weights: Weights, tasks: Mapping[str, Task], dtype: str) -> dict[str, str]:
    """The rows of the card's table, as Markdown; an empty one is left out."""
    model = weights.cfg.model
    parameters = sum(parameter.numel() for parameter in weights.model.parameters())
    names = [name for _, name in sorted(weights.class_names.items())]
    decoding = [f"`{flag(name)}` {_short(value)}" for name, value in weights.decoding.items()]
    return {
        "tasks": ", ".join(tasks),
        "good for": escaped(description(weights.domain, "", weights.cfg.data.data_root)),
        "license": escaped(weights.licence),
        "model": f"{escaped(model.backbone)}, {model.encoder_layers} encoder layers of width {model.encoder_width}, "
        f"{model.decoder_layers} decoder layers of width {model.decoder_width}; "
        f"{parameters / 1e6:.1f} M parameters, canvas of {model.image_size} px",
        "numbers": dtype,
        "training": f"{weights.step:,} steps" if weights.step else "",
        "decoding": ", ".join(decoding),
        "classes": f"{len(names):,}: {listed([escaped(name) for name in names], MOST_NAMES)}",
        "keypoints": ", ".join(map(escaped, weights.keypoints.get("names", ()))),
    }


def _short(value: object) -> str:
    """A setting, numbers with four digits."""
    return escaped(f"{value:.4g}" if isinstance(value, float) else str(value))


def config(weights: Weights, tasks: Mapping[str, Task]) -> str:
    """The config.json by which the hub counts downloads, and other programs learn the model's sizes."""
    values = {
        "library_name": LIBRARY,
        "tasks": list(tasks),
        "model": dataclasses.asdict(weights.cfg.model),
        "decoding": weights.decoding,
        "id2label": weights.class_names,
    }
    return json.dumps(values, indent=2) + "\n"


def escaped(text: str) -> str:
    """A stranger's words on one line of Markdown, where they are nothing but words."""
    return SPECIAL.sub(r"\\\g<0>", plain(text))
