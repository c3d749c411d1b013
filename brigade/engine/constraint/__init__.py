"""Answers of a given form: what may be asked for, the grammar it becomes, and where an answer stands in it."""

RULES = 2  # raised whenever the same constraint allows other tokens than before: replicas that differ are not taken for one
