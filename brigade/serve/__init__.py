"""An HTTP server that speaks OpenAI's API: requests in, answers out."""
