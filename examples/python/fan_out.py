"""Fan-out: a Job for each recipient, unique by message and recipient, as many at once as their queue allows.

    kubectl apply -f examples/manifests/worker.yaml -f examples/manifests/python-fan-out.yaml

The manifest enqueues the broadcast twice: no recipient is sent the message twice.
"""

from __future__ import annotations

from questline import fan_out, job


@job(queue="example-broadcast")
def send_broadcast(message_id: str, recipients: list[str]) -> dict[str, int]:
    fan_out(send_email.call(message_id, recipient) for recipient in recipients)
    return {"recipients": len(recipients)}


@job(queue="example-emails", unique=("message_id", "recipient"), window="1d", max_attempts=5)
def send_email(message_id: str, recipient: str) -> str:
    print(f"message {message_id} to {recipient}")
    return recipient
