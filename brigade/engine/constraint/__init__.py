"""Answers of a given form: what may be asked for, the grammar it becomes, and where an answer stands in it."""
