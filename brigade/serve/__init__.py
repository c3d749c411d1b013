"""The OpenAI-compatible server: HTTP on one side, a client object on the other. It holds no engine."""
