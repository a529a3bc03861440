"""Pix2Seq Toolkit: detection, segmentation, keypoints and captions as token sequences of one encoder-decoder."""
