"""Under torchrun: train with the given flags; then each process writes its parameters to rank<N>.pt."""

import os
import sys

import torch

from pix2seq.command_line import parse_args
from pix2seq.runtime import distributed
from pix2seq.train.engine import Trainer
from pix2seq.train.parallel import whole

torch.set_num_threads(1)
trainer = Trainer(parse_args(sys.argv[1:]))
trainer.run()
parameters = whole(dict(trainer.model.named_parameters()))
distributed.stop()
torch.save(parameters, trainer.folder / f"rank{os.environ['RANK']}.pt")
