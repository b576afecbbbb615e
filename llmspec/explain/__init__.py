"""What a spec will do, what a run has done, how a text was chosen: as values. Nothing here prints."""
