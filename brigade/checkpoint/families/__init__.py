"""Each family: its settings translated, its names mapped."""
