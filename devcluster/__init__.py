"""A real Kubernetes cluster on one Linux machine, with no Docker and no image registry.

Run it from the repository's root as ``python -m devcluster up``; see README.md in this folder.
"""
