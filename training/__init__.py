"""The recipe that made ``nano``: generated clips, degradation, training, export, evaluation.

Outside the package on purpose: nothing at run time imports it.
"""
