"""The encoder-decoder: tokens in, logits out. It knows no task."""
