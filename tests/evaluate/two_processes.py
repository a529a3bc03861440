"""Under torchrun: run the evaluation with the given flags, on one thread per process."""

import sys

import torch

from pix2seq.command_line import parse_args
from pix2seq.evaluate.run import run

torch.set_num_threads(1)
run(parse_args(sys.argv[1:]))
