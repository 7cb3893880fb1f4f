"""What any program of this kind needs: errors, files, processes, HTTP, retry, cache, redaction, sandboxes.

Each module is the one door to its part of the outside world. It knows nothing of Kaggle, projects or kits.
"""
