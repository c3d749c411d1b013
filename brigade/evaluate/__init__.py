"""Judging: what a model makes of a text, how far it is from another, and which layers bear quantising least."""
