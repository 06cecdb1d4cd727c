"""The agenda: what is to be looked at now, and what later."""

from questline_operator.shell.agenda import Agenda


def test_a_key_marked_often_is_taken_once_in_the_order_of_its_first_mark() -> None:
    agenda: Agenda[str] = Agenda()
    for key in "abcab":
        agenda.mark(key)
    assert agenda.take(0.0) == ["a", "b", "c"]
    assert agenda.take(0.0) == []
    assert not agenda


def test_a_key_comes_due_at_its_earliest_moment_and_only_once() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("a", 20.0)
    agenda.mark_at("a", 10.0)
    agenda.mark_at("a", 30.0)
    assert agenda.next_due() == 10.0
    assert agenda.take(9.9) == []
    assert agenda.take(10.0) == ["a"]
    assert agenda.next_due() is None
    assert agenda.take(100.0) == []
    agenda.mark_at("a", 200.0)
    assert agenda.take(200.0) == ["a"]


def test_a_key_taken_for_its_mark_stays_due_later() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("a", 10.0)
    agenda.mark("a")
    assert agenda.take(0.0) == ["a"]
    assert agenda.next_due() == 10.0
    assert agenda.take(10.0) == ["a"]


def test_what_is_due_comes_after_what_was_marked_and_in_the_order_of_its_time() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("late", 2.0)
    agenda.mark_at("early", 1.0)
    agenda.mark("marked")
    assert agenda.take(5.0) == ["marked", "early", "late"]


def test_what_is_only_due_later_is_no_work_now() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("a", 1.0)
    assert not agenda
    assert len(agenda) == 1


def test_what_is_forgotten_is_due_no_more_but_a_mark_stays() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("a", 1.0)
    agenda.mark_at("b", 2.0)
    agenda.mark("a")
    agenda.forget("a")
    assert agenda.take(0.0) == ["a"]
    assert agenda.next_due() == 2.0
    assert agenda.take(5.0) == ["b"]


def test_what_was_put_off_or_forgotten_a_thousand_times_takes_no_room() -> None:
    agenda: Agenda[int] = Agenda()
    for number in range(1000):
        agenda.mark_at(number, 1e9)
        agenda.forget(number)
    for number in range(1000):
        agenda.mark_at(-1, 1e9 - number)
    assert len(agenda) == 1
    assert len(agenda._later) < 100
    assert agenda.next_due() == 1e9 - 999


def test_where_the_clock_is_set_back_all_that_is_due_later_is_looked_at() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.mark_at("a", 110.0)
    assert agenda.take(100.0) == []
    assert agenda.take(40.0) == ["a"]
    agenda.mark_at("a", 50.0)
    assert (agenda.take(49.0), agenda.take(50.0)) == ([], ["a"])
