"""Train with the given flags in one thread; with PIX2SEQ_TEST_KILL=SIGNAL:STEP the process gets that signal there, but
not after a restart by torchrun."""

import os
import sys

import torch

from pix2seq.command_line import TRAINING, parse_args, run_script
from pix2seq.runtime import distributed
from pix2seq.train import engine

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
if (kill := os.environ.get("PIX2SEQ_TEST_KILL")) and not distributed.restarts():
    number, at = map(int, kill.split(":"))
    learning_rate = engine.learning_rate

    def rate_or_kill(step: int, *rest) -> float:  # called before each step
        if step == at:
            os.kill(os.getpid(), number)
        return learning_rate(step, *rest)

    engine.learning_rate = rate_or_kill
run_script(lambda: engine.train(parse_args(sys.argv[1:], None, TRAINING)))
