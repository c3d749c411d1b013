"""Brigade: an inference system for GPTs. Same model, same prompt, same bits."""
