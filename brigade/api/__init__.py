"""The Python face: a model, its engine and its tokenizer behind one object."""
