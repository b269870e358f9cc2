"""Evaluation: the suite of tasks, their data, their metrics, and the run over all of them.

`encoder`, `texts`, `embedders` and `run` need torch, nothing else here does.
"""
