"""Sources to documents, documents to tokens, tokens to the batches that phases read."""
