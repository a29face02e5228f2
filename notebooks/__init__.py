"""Notebooks, from a first restoration to a cluster."""
