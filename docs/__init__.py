"""The pages, and the code that draws their pictures."""
