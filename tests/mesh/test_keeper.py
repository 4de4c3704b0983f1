from services.mesh.keeper import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, Keeper


class Part:
    """A part whose ending the test decides."""

    name = "the part"

    def __init__(self) -> None:
        self.starts = 0
        self.code: int | None = None

    def start(self) -> None:
        self.starts += 1
        self.code = None

    def exit_code(self) -> int | None:
        return self.code

    def last_words(self) -> str:
        return "no bread"

    def trim_log(self) -> None:
        pass


def test_a_running_part_is_left_alone() -> None:
    part = Part()
    keeper = Keeper(part, 0)

    assert [keeper.look(second) for second in range(100)] == [None] * 100
    assert part.starts == 0


def test_a_part_that_ended_is_started_after_a_pause_and_both_are_said() -> None:
    part = Part()
    keeper = Keeper(part, 0)
    part.code = 3

    assert keeper.look(1) == "the part ended with code 3 (no bread); again in 0.5 s"
    assert keeper.look(1.4) is None
    assert part.starts == 0
    assert keeper.look(1.5) == "the part is started again"
    assert part.starts == 1


def test_a_killed_part_is_said_to_be_killed() -> None:
    part = Part()
    part.code = -9

    assert Keeper(part, 0).look(1) == "the part was killed by signal 9; again in 0.5 s"


def pause_before_next_start(keeper: Keeper, part: Part, now_s: float) -> float:
    part.code = 1
    keeper.look(now_s)
    waited = 0.0
    while keeper.look(now_s + waited) is None:
        waited += 0.5
    return waited


def test_the_pause_doubles_up_to_a_bound_and_shrinks_again_after_a_steady_run() -> None:
    part = Part()
    keeper = Keeper(part, 0)

    now_s, pauses = 1.0, []
    for _ in range(7):
        pauses.append(pause_before_next_start(keeper, part, now_s))
        now_s += pauses[-1] + 1
    steady = pause_before_next_start(keeper, part, now_s + STEADY_S)

    assert pauses == [0.5, 1, 2, 4, 8, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert steady == FIRST_PAUSE_S
