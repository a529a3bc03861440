"""Pix2Seq Toolkit: detection, segmentation, keypoints and captions as token sequences of one encoder-decoder."""

from pix2seq.runtime.threads import let_threads_sleep

let_threads_sleep()  # before anything of ours imports torch
