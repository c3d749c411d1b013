"""A replica: an engine of any layout, which works for a coordinator."""
