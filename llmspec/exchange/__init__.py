"""Models from and to other libraries: imported into folders of ours, exported, and what was exported read back."""
