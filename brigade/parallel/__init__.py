"""One model over many ranks: who holds which layers, how ranks talk, and how they are started and watched."""
