"""Brigade beside its peers: the same random-weight model, the same requests, in alternation, in one run.

`brigade bench peers` runs it from a source checkout. `workers/` and `converters/` run inside each peer's own virtual
environment, so they import nothing of the house but `protocol.py`, which needs the standard library alone.
"""
