"""How the embedded model was made: one training step of the network, and nothing that inference needs."""
