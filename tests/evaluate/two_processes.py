"""Under torchrun: evaluate as the flags say, on one thread each."""

import sys

import torch

from pix2seq.command_line import parse_args
from pix2seq.evaluate.run import run

torch.set_num_threads(1)
run(parse_args(sys.argv[1:]))
