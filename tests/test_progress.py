"""The clock of training steps."""

import time

from jaxcnn.training.progress import Clock


def test_steps_that_compile_and_pauses_are_not_timed(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = Clock(batch_size=6)

    def step(seconds: float) -> None:
        nonlocal now
        now += seconds
        clock.step(0)

    step(100)  # compiles
    step(2)
    step(2)
    clock.compiles()  # another size of images
    step(50)
    step(2)
    with clock.paused():
        now += 30
    assert clock.lap() == {"images_per_second": 6 * 3 / 6, "input_wait": 0.0}
    clock.compiles()
    step(50)
    assert clock.lap() == {}
    step(3)
    assert clock.lap() == {"images_per_second": 2.0, "input_wait": 0.0}
