"""What the network is: specs, and the modules they build."""
