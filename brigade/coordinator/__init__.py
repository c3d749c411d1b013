"""Clients on one side, replicas on the other, and between them one process that a failure of either does not reach."""
