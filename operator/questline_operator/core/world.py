"""All records at one moment, with the indexes that decisions look things up by. No decision is made here.

The operator's store feeds it from watches and from the answers of its own writes; `questline why` and the test kit
feed it from a list. Records go in whole: each `put_` returns what it replaced, so that the caller can see the change.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from questline_operator.core.canonical import canonical_digest
from questline_operator.core.index import Index, SortedIndex
from questline_operator.core.pod import Pod
from questline_operator.core.records import GroupKey, Job, Key, Queue, Tick, Worker
from questline_operator.core.schedule import Schedule
from questline_operator.core.states import Reason, State
from questline_operator.core.tallies import Standing, Tally, Tree, Trees, counts, standing_of

UniqueKey = tuple[str, str, str]
"""(namespace, task or command, key)."""


class World:
    """Records by name, and by what they point at."""

    def __init__(self) -> None:
        self.jobs: dict[Key, Job] = {}
        self.queues: dict[Key, Queue] = {}
        self.workers: dict[Key, Worker] = {}
        self.pods: dict[Key, Pod] = {}
        self.schedules: dict[Key, Schedule] = {}
        self.terminating_namespaces: set[str] = set()
        self.watched: int | None = None
        """Up to which resourceVersion every Job is known: the answers of our own writes are ahead of the watch, and
        what they show to have ended may have children that were not seen yet. None: what is here is all."""
        self.acyclic: set[Key] = set()
        """Jobs from which `after` was found to lead to no cycle; emptied when one may wait for more than before."""
        self._children: Index[str] = Index()
        self._dependants: Index[Key] = Index()
        self._duplicates: Index[Key] = Index()
        self._unfinished_of_queue: Index[Key] = Index()
        self._active_of_queue: Index[Key] = Index()
        self._finished_of_queue: Index[Key] = Index()
        self._active_of_key: Index[tuple[Key, str]] = Index()
        self._pods_of_job: Index[Key] = Index()
        self._live_pods_of_queue: Index[Key] = Index()
        self._live_pods_of_key: Index[tuple[Key, str]] = Index()
        self._unclaimed: SortedIndex[UniqueKey] = SortedIndex()
        self._admitted: Index[UniqueKey] = Index()
        self._unique_key: dict[str, UniqueKey] = {}
        self._groups: defaultdict[GroupKey, Tally] = defaultdict(Tally)
        self._group_dependants: Index[GroupKey] = Index()
        self._tree_dependants: Index[Key] = Index()
        self._skipped_for: Index[Key] = Index()
        self._trees = Trees()
        self._jobs_of_schedule: Index[str] = Index()
        self._replacing: SortedIndex[str] = SortedIndex()
        self._schedule_of_uid: dict[str, Key] = {}
        self._slots_held: dict[Key, int] = {}
        """What was counted since a claim or a pod has last changed: each of thousands that wait asks."""

    # Jobs

    def put_job(self, job: Job) -> Job | None:
        """Take the record in; the one that it replaces is returned."""
        old = self.jobs.get(job.key)
        is_new = old is None or old.uid != job.uid
        if old is not None and is_new:
            self.remove_job(job.key)  # deleted unseen
        elif old is not None:
            self._unindex_job(old)
        self.jobs[job.key] = job
        self._index_job(job)
        if is_new:
            self._join_trees(job)
        self._count(job)
        self._count_unclaimed_children(job)
        self._fell_needless_trees(job)
        if self.acyclic and self._may_lead_further(old, job):
            self.acyclic.clear()
        if old is None or old.active or job.active or old.status.get("report") != job.status.get("report"):
            self._slots_held.clear()
        return old

    def remove_job(self, key: Key) -> Job | None:
        """Forget the Job."""
        job = self.jobs.pop(key, None)
        if job is not None:
            self.acyclic.clear()
            self._slots_held.clear()
            self._unindex_job(job)
            self._unique_key.pop(job.uid, None)
            self._leave(job)
            self._count_unclaimed_children(job)
            self._fell_needless_trees(job)
        return job

    def _may_lead_further(self, old: Job | None, new: Job) -> bool:
        """Whether one that waits for this Job, or whose gate it opens, may wait for more Jobs now."""
        if old is None or old.uid != new.uid:
            awaited = new.key in self._dependants or new.key in self._duplicates or new.group in self._group_dependants
            return old is not None or awaited or (new.parent is not None and self.has_tree_dependants)
        return (
            (_leads_on(new) and (not _leads_on(old) or old.state != new.state))
            or old.succeeded_attempts != new.succeeded_attempts
            or old.duplicate_of != new.duplicate_of
        )

    def open_attempt(self, job: Job) -> Job | None:
        """The Job as it is now, where the attempt of this record is still its open one; else None."""
        known = self.jobs.get(job.key)
        return known if known is not None and known.uid == job.uid and known.attempt_is_open(job.attempt) else None

    def parent_of(self, job: Job) -> Job | None:
        """The record of the Job that enqueued it, or None where that one is gone or never was."""
        if job.parent is None:
            return None
        parent = self.jobs.get((job.namespace, job.parent.name))
        return parent if parent is not None and parent.uid == job.parent.uid else None

    def children_of(self, job: Job) -> list[Job]:
        """The Jobs that its attempts enqueued."""
        return [self.jobs[key] for key in self._children.get(job.uid, ())]

    def descendants_of(self, job: Job) -> Iterator[Job]:
        """Its children, theirs, and so on; each once."""
        seen, stack = {job.uid}, self.children_of(job)
        while stack:
            child = stack.pop()
            if child.uid not in seen:
                seen.add(child.uid)
                yield child
                stack.extend(self.children_of(child))

    def dependants_of(self, key: Key) -> list[Job]:
        """The Jobs whose `after` names this one, itself or as the root of a tree."""
        return [self.jobs[dependant] for dependant in self._dependants.get(key, ())]

    def duplicates_of(self, key: Key) -> list[Job]:
        """The Jobs that ended Skipped as duplicates of this one."""
        return [self.jobs[duplicate] for duplicate in self._duplicates.get(key, ())]

    def all_duplicates_of(self, job: Job) -> list[Job]:
        """The Jobs that count as this one: its duplicates, theirs, and so on."""
        found, seen, stack = [], {job.key}, [job.key]
        while stack:
            for duplicate in self._duplicates.get(stack.pop(), ()):
                if duplicate not in seen:
                    seen.add(duplicate)
                    found.append(self.jobs[duplicate])
                    stack.append(duplicate)
        return found

    def original_of(self, job: Job) -> Job:
        """The Job that it counts as: itself, but for a Duplicate the one that ran in its place, as far as known."""
        seen = {job.key}
        while job.state is State.SKIPPED and job.duplicate_of:
            original = self.jobs.get((job.namespace, job.duplicate_of))
            if original is None or original.key in seen:
                break
            job = original
            seen.add(job.key)
        return job

    # Groups and trees

    def group(self, key: GroupKey) -> Tally:
        """The children of one attempt that are of this group."""
        return self._groups[key] if key in self._groups else Tally()

    def group_dependants(self, key: GroupKey | None) -> list[Job]:
        """The Jobs whose `after` names that group."""
        return [self.jobs[dependant] for dependant in self._group_dependants.get(key, ())] if key else []

    def tree(self, root: Job) -> Tally:
        """The Job and its descendants. Counted from the first question on, while a Job waits for that tree."""
        tree = self._trees.get(root.uid)
        return tree.tally if tree is not None else self._count_tree(root)

    def trees_of(self, job: Job) -> list[Tree]:
        """The trees that were asked for and that it is in."""
        return self._trees.of(job)

    def tree_dependants(self, root: Key) -> list[Job]:
        """The Jobs whose `after` names the tree of that Job."""
        return [self.jobs[dependant] for dependant in self._tree_dependants.get(root, ())]

    def skipped_for(self, key: Key) -> list[Job]:
        """The Jobs that were Skipped (UpstreamFailed) for an end of that one."""
        return [self.jobs[dependant] for dependant in self._skipped_for.get(key, ())]

    @property
    def has_tree_dependants(self) -> bool:
        """Whether any Job waits for a tree."""
        return bool(self._tree_dependants)

    def unfinished_of_queue(self, queue: Key) -> list[Job]:
        """Its Jobs that are not terminal."""
        return [self.jobs[key] for key in self._unfinished_of_queue.get(queue, ())]

    def active_of_queue(self, queue: Key) -> list[Job]:
        """Its Jobs with an open attempt."""
        return [self.jobs[key] for key in self._active_of_queue.get(queue, ())]

    def finished_of_queue(self, queue: Key) -> list[Job]:
        """Its terminal Jobs."""
        return [self.jobs[key] for key in self._finished_of_queue.get(queue, ())]

    def queue_keys(self) -> set[Key]:
        """Every Queue that exists or that a Job names."""
        named = (index for index in (self._unfinished_of_queue, self._finished_of_queue) if index)
        return {key for index in named for key, members in index.items() if members} | set(self.queues)

    # Unique Jobs

    def unique_key(self, job: Job) -> UniqueKey | None:
        """What it is unique by, or None."""
        if job.unique is None:
            return None
        known = self._unique_key.get(job.uid)
        if known is None:
            what = f"task:{job.spec['task']}" if job.is_task else "command:" + "\0".join(job.spec["command"])
            key = job.unique.key
            # A digest of args must never equal a key that somebody chose.
            text = f"key:{key}" if key is not None else f"args:{canonical_digest(job.spec.get('args', {}))}"
            known = (job.namespace, what, text)
            of_record = self.jobs.get(job.key)
            if of_record is not None and of_record.uid == job.uid:  # one may ask of a Job that is gone
                self._unique_key[job.uid] = known
        return known

    def unclaimed_rivals(self, key: UniqueKey) -> Iterator[Job]:
        """The Jobs of that key that are neither terminal nor claimed in their present run, first come first.

        One after the other: each of thousands asks for the first.
        """
        return (self.jobs[job] for _, job in self._unclaimed.get(key, ()))

    def admitted_rivals(self, key: UniqueKey) -> list[Job]:
        """The Jobs of that key that were claimed at least once, finished ones included."""
        return [self.jobs[job] for job in self._admitted.get(key, ())]

    # Schedules

    def put_schedule(self, schedule: Schedule) -> Schedule | None:
        """Take the record in; the one that it replaces is returned."""
        old = self.remove_schedule(schedule.key)
        self.schedules[schedule.key] = schedule
        self._schedule_of_uid[schedule.uid] = schedule.key
        return old

    def remove_schedule(self, key: Key) -> Schedule | None:
        """Forget the Schedule."""
        schedule = self.schedules.pop(key, None)
        if schedule is not None:
            self._schedule_of_uid.pop(schedule.uid, None)
        return schedule

    def schedule_of(self, job: Job) -> Schedule | None:
        """The Schedule that made the Job, where it still exists."""
        key = None if job.tick is None else self._schedule_of_uid.get(job.tick.schedule_uid)
        return None if key is None else self.schedules[key]

    def jobs_of_schedule(self, uid: str) -> list[Job]:
        """The Jobs that ticks of that Schedule made."""
        return [self.jobs[key] for key in self._jobs_of_schedule.get(uid, ())]

    def replacement_after(self, tick: Tick) -> Job | None:
        """The Job of the same Schedule's last tick after that one that takes the place of all before it."""
        replacing = self._replacing.get(tick.schedule_uid)
        return self.jobs[replacing[-1][1]] if replacing and replacing[-1][0] > tick.at else None

    # Pods

    def put_pod(self, pod: Pod) -> Pod | None:
        """Take the record in; the one that it replaces is returned."""
        old = self.remove_pod(pod.key)
        self._slots_held.clear()
        self.pods[pod.key] = pod
        self._pods_of_job.add((pod.namespace, pod.job), pod.key)
        if pod.live:
            queue = (pod.namespace, pod.queue)
            self._live_pods_of_queue.add(queue, pod.key)
            if pod.concurrency_key:
                self._live_pods_of_key.add((queue, pod.concurrency_key), pod.key)
        return old

    def remove_pod(self, key: Key) -> Pod | None:
        """Forget the pod."""
        pod = self.pods.pop(key, None)
        if pod is not None:
            self._slots_held.clear()
            self._pods_of_job.discard((pod.namespace, pod.job), key)
            self._live_pods_of_queue.discard((pod.namespace, pod.queue), key)
            self._live_pods_of_key.discard(((pod.namespace, pod.queue), pod.concurrency_key), key)
        return pod

    def pods_of_job(self, key: Key) -> list[Pod]:
        """The pods that bear the Job's name in their label, gone ones included."""
        return [self.pods[pod] for pod in self._pods_of_job.get(key, ())]

    def attempt_pod(self, job: Job) -> Pod | None:
        """The pod of the current attempt, seen and perhaps gone; None where none was seen."""
        pod = self.pods.get((job.namespace, job.pod_name(job.attempt)))
        return pod if pod is not None and pod.may_be_of(job.uid) else None

    def live_pods_of_queue(self, queue: Key) -> list[Pod]:
        """The pods that bear the Queue's name in their label and whose container has not ended."""
        return [self.pods[pod] for pod in self._live_pods_of_queue.get(queue, ())]

    # Slots

    def slots_held(self, queue: Key) -> int:
        """The attempts that hold a slot: from the claim to the report or the end of the container, whichever is first.

        Counted from claims and from live pods, so that neither a lost claim nor an orphaned pod frees one early.
        """
        held = self._slots_held.get(queue)
        if held is None:
            held = self._slots(self.active_of_queue(queue), self.live_pods_of_queue(queue))
            self._slots_held[queue] = held
        return held

    def slots_of_key(self, queue: Key, concurrency_key: str) -> int:
        """The slots of that queue that are held by attempts of one key, counted the same way."""
        jobs = [self.jobs[key] for key in self._active_of_key.get((queue, concurrency_key), ())]
        return self._slots(jobs, [self.pods[key] for key in self._live_pods_of_key.get((queue, concurrency_key), ())])

    def running_pods(self) -> int:
        """The pods of all queues whose container may run, reported or not, and the claims whose pod was not seen."""
        live = sum(len(pods) for pods in self._live_pods_of_queue.values())
        claims = (self.jobs[key] for jobs in self._active_of_queue.values() for key in jobs)
        return live + sum(self.attempt_pod(job) is None for job in claims)

    def _slots(self, active: Iterable[Job], live: Iterable[Pod]) -> int:
        held = {job.key: job.attempt for job in active if self._holds(job)}
        extra = 0
        for pod in live:
            job = self.jobs.get((pod.namespace, pod.job))
            if (
                job is None
                or not pod.may_be_of(job.uid)
                or (held.get(job.key) != pod.attempt and not _reported(job, pod))
            ):
                extra += 1
        return len(held) + extra

    def _holds(self, job: Job) -> bool:
        if job.report is not None:
            return False
        pod = self.attempt_pod(job)
        return pod is None or pod.live

    # Where the Jobs of groups and trees stand

    def _count(self, job: Job) -> None:
        """Count it where it stands now, and those that count as it."""
        self._count_one(job)
        self._count_duplicates_of(job)

    def _count_duplicates_of(self, job: Job) -> None:
        if job.key in self._duplicates:
            for duplicate in self.all_duplicates_of(job):
                self._count_one(duplicate)

    def _count_unclaimed_children(self, job: Job) -> None:
        """Whether these are left behind, their parent's record says."""
        for child in self.children_of(job):
            if child.terminal and not child.attempt:
                self._count(child)

    def _count_one(self, job: Job) -> None:
        tallies = [tree.tally for tree in self._trees.of(job)]
        if job.group is not None:
            tallies.append(self._groups[job.group])
        for tally in tallies:
            tally.put(job.key, self._standing(job))

    def _standing(self, job: Job) -> Standing | None:
        return standing_of(self.original_of(job)) if counts(job) and not self._is_left_behind(job) else None

    def _is_left_behind(self, job: Job) -> bool:
        """Whether it ended unclaimed, canceled or as a Duplicate, and its parent's attempt has not succeeded: it is
        none of what a later success has made, no more than one that was Skipped for that."""
        parent = self.parent_of(job)
        if not job.terminal or job.attempt or job.parent is None or parent is None:
            return False
        number = job.parent.attempt
        return not parent.attempt_succeeded(number) and not parent.attempt_is_open(number)

    def _leave(self, job: Job) -> None:
        """It is gone: so it is counted no more, and what it had enqueued is of no tree above it."""
        if job.group is not None and job.group in self._groups:
            self._groups[job.group].put(job.key, None)
            if not self._groups[job.group]:
                del self._groups[job.group]
        for tree in self._trees.leave(job):
            if self._children.get(job.uid):
                self._count_tree_again(tree)
        self._count_duplicates_of(job)

    def _join_trees(self, job: Job) -> None:
        """A new Job is of its parent's trees. One whose children came before it brings them along."""
        for tree in self._trees.join(job):
            if self._children.get(job.uid):
                self._count_tree_again(tree)

    def _count_tree(self, root: Job) -> Tally:
        return self._trees.plant(root, [root, *self.descendants_of(root)], self._standing)

    def _count_tree_again(self, tree: Tree) -> None:
        self._trees.fell(tree.uid)
        root = self.jobs.get(tree.root)
        if root is not None and root.uid == tree.uid:
            self._count_tree(root)

    def _fell_needless_trees(self, waiter: Job) -> None:
        """One that was claimed, has ended or is gone asks no more."""
        if waiter.key in self.jobs and not (waiter.terminal or waiter.admitted):
            return
        for dependency in waiter.after:
            root = self.jobs.get((waiter.namespace, dependency.name)) if dependency.kind == "tree" else None
            if root is not None and all(one.terminal or one.admitted for one in self.tree_dependants(root.key)):
                self._trees.fell(root.uid)

    # Indexes

    def _index_job(self, job: Job) -> None:
        for index, key in self._places_of(job):
            index.add(key, job.key)
        for ordered, key, entry in self._ordered_places_of(job):
            ordered.add(key, entry)

    def _unindex_job(self, job: Job) -> None:
        for index, key in self._places_of(job):
            index.discard(key, job.key)
        for ordered, key, entry in self._ordered_places_of(job):
            ordered.discard(key, entry)

    def _places_of(self, job: Job) -> Iterator[tuple[Index[Any], Any]]:
        """The indexes that the record is in, each with the key that it is there under."""
        if job.parent is not None:
            yield self._children, job.parent.uid
        for dependency in job.after:
            named = (job.namespace, dependency.name)
            group = job.group_beside(dependency.name)
            if dependency.kind != "group":
                yield self._dependants, named
            elif group is not None:
                yield self._group_dependants, group
            if dependency.kind == "tree":
                yield self._tree_dependants, named
        if job.duplicate_of:
            yield self._duplicates, (job.namespace, job.duplicate_of)
        if job.upstream is not None:
            yield self._skipped_for, (job.namespace, job.upstream.name)
        if job.tick is not None:
            yield self._jobs_of_schedule, job.tick.schedule_uid
        yield self._finished_of_queue if job.terminal else self._unfinished_of_queue, job.queue_key
        if job.active:
            yield self._active_of_queue, job.queue_key
            if job.concurrency_key:
                yield self._active_of_key, (job.queue_key, job.concurrency_key)
        if job.admitted and (unique := self.unique_key(job)) is not None:
            yield self._admitted, unique

    def _ordered_places_of(self, job: Job) -> Iterator[tuple[SortedIndex[Any], Any, Any]]:
        """Those that have an order, each with the record's entry there."""
        if job.tick is not None and job.tick.replaces:
            yield self._replacing, job.tick.schedule_uid, (job.tick.at, job.key)
        if not job.terminal and not job.claimed_in_this_run and (unique := self.unique_key(job)) is not None:
            yield self._unclaimed, unique, (job.order, job.key)


def _leads_on(job: Job) -> bool:
    """Whether who waits for this Job may wait for others by it: it waits, or shows a cycle or its original."""
    return not (job.terminal or job.admitted) or job.reason in (Reason.DEPENDENCY_CYCLE, Reason.DUPLICATE)


def _reported(job: Job, pod: Pod) -> bool:
    report = job.status.get("report")
    return report is not None and report.get("podUID") == pod.uid


def newest_first(jobs: Iterable[Job]) -> list[Job]:
    """Finished Jobs, the last to finish first."""
    return sorted(jobs, key=lambda job: (job.finished_at or 0.0, job.name), reverse=True)
