"""A chain by enqueue: each step enqueues the next, which starts only after this one's attempt has succeeded.

    kubectl apply -f examples/manifests/worker.yaml -f examples/manifests/python-chain.yaml

`generate_thumbnail` fails once after its enqueue: the child of that attempt is Skipped (ParentFailed), the child
of the second attempt runs, so the user is notified once.
"""

from __future__ import annotations

from questline import current, job


@job(max_attempts=3)
def process_upload(file_id: str) -> dict[str, bool]:
    generate_thumbnail.enqueue(file_id)
    return {"processed": True}


@job(max_attempts=3)
def generate_thumbnail(file_id: str) -> str:
    notify_user.enqueue(file_id)
    if current().attempt == 1:
        raise OSError(f"no space left for the thumbnail of {file_id}")
    return f"{file_id}-320px"


@job(max_attempts=3)
def notify_user(file_id: str) -> None:
    print(f"to the owner of {file_id}: your thumbnail is ready")
