"""What a test enqueues, and `enqueued`: the SDK's own code up to the wire."""

from __future__ import annotations

from datetime import timedelta

import pytest

from questline import EnqueueRefused, NotInAttempt, OptionInvalid, WaitTimeout, enqueue_many, fan_out
from questline import testing as kit
from tests.unit.testing import shop
from tests.unit.testing.conftest import START


def test_what_is_enqueued_is_shown_with_its_options_and_has_not_run(cluster: kit.Cluster) -> None:
    shop.send_email.options(priority=5, delay="90s").enqueue("m", "a@example.com")
    (job,) = kit.enqueued(shop.send_email)
    assert (job.task, job.queue, job.priority) == (shop.send_email.name, "emails", 5)
    assert job.args == {"message_id": "m", "recipient": "a@example.com"}
    assert job.run_at == START + timedelta(seconds=90)
    assert (job.state, job.reason, job.attempt, job.created_at) == ("Waiting", "NotBefore", 0, START)
    assert job.manifest["spec"]["unique"] == {"key": "m:a@example.com", "scope": "Window", "windowSeconds": 86_400}
    assert str(job).startswith(
        "Job send-email-000001, send_email(message_id='m', recipient='a@example.com'): Waiting (NotBefore): waits until"
    )
    assert shop.log == []


def test_enqueued_jobs_are_shown_by_task_and_queue_in_their_order(cluster: kit.Cluster) -> None:
    enqueue_many(shop.nothing.call(str(n)) for n in range(20))
    shop.nothing.options(queue="late").enqueue("last")
    shop.echo.enqueue(1)
    assert [job.args["label"] for job in kit.enqueued(shop.nothing)] == [*map(str, range(20)), "last"]
    assert [job.args["label"] for job in kit.enqueued(queue="late")] == ["last"]
    assert len(kit.enqueued()) == 22
    kit.drain()
    assert kit.enqueued() == []
    assert len(kit.jobs(queue="late", state="Succeeded")) == 1


def test_what_the_sdk_and_the_server_refuse_is_refused(cluster: kit.Cluster) -> None:
    shop.nothing.options(name="one").enqueue()
    with pytest.raises(EnqueueRefused, match="there is a Job default/one already"):
        shop.nothing.options(name="one").enqueue()
    with pytest.raises(OptionInvalid, match="groups are of an attempt's children"):
        shop.nothing.options(group="g").enqueue()
    with pytest.raises(NotInAttempt):
        fan_out([shop.nothing.call()])
    assert [job.name for job in kit.jobs()] == ["one"]


def test_a_delay_counts_from_the_clusters_time(cluster: kit.Cluster) -> None:
    kit.advance("3h")
    shop.nothing.options(delay="1h").enqueue()
    assert [job.run_at for job in kit.enqueued()] == [START + timedelta(hours=4)]


def test_whoever_waits_for_a_job_has_the_cluster_run_until_it_has_ended(cluster: kit.Cluster) -> None:
    handle = shop.succeeds_at.enqueue(3)
    assert handle.result() == 3
    assert kit.now() == START + timedelta(seconds=3 + 10 + 20)
    assert shop.nothing.enqueue().wait(timeout=5) == "Succeeded"


def test_a_wait_ends_in_the_clusters_time(cluster: kit.Cluster) -> None:
    handle = shop.nothing.options(delay="1h").enqueue()
    with pytest.raises(WaitTimeout, match=r"Waiting \(NotBefore\).*; it has not ended in 60 s of the cluster's time"):
        handle.wait(timeout="1m")
    assert kit.now() == START + timedelta(minutes=1)
    assert handle.wait() == "Succeeded"


def test_a_wait_that_would_never_end_says_what_the_job_waits_for(cluster: kit.Cluster) -> None:
    cluster.queue("emails", paused=True)
    handle = shop.send_email.enqueue("m", "a@example.com")
    with pytest.raises(kit.KitError, match=r"\(QueuePaused\): queue emails is paused; nothing that is due would"):
        handle.wait()


def test_each_cluster_is_a_world_of_its_own_and_leaves_nothing_behind() -> None:
    with kit.cluster() as outer:
        shop.nothing.enqueue("outer")
        with kit.cluster() as inner:
            shop.nothing.enqueue("inner")
            assert [job.args["label"] for job in kit.jobs()] == ["inner"]
        assert [job.args["label"] for job in kit.jobs()] == ["outer"]
        assert [job.args["label"] for job in inner.jobs()] == ["inner"]
        assert len(outer.drain()) == 1
    from questline import enqueue, options

    assert (enqueue._outside, enqueue.CONNECTIONS) == (None, 8)
    assert options.now.__module__ == "time"


def test_the_same_test_goes_the_same_way_every_time() -> None:
    def once() -> list[tuple[str, str, object]]:
        with kit.cluster(now=START):
            enqueue_many(shop.ends.call("ValueError") for _ in range(20))
            shop.send_broadcast.enqueue("m", [f"{n}@example.com" for n in range(20)])
            kit.drain()
            return [(job.name, job.state, job.finished_at) for job in kit.jobs()]

    assert once() == once()
