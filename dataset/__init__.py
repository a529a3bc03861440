"""Pictures and annotations to batches of images and token sequences."""
