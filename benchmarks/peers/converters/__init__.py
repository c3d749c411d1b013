"""From the Hugging Face folder to what a peer loads: `python -m benchmarks.peers.converters.NAME SOURCE OUT KIND`."""
