"""Inference scripts over one predictor."""
