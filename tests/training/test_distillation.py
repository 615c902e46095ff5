"""The loss of distillation, beside a student that knows the answers."""

import pytest
import torch
from torch import Tensor, nn

from sdxl.models.schedule_config import ScheduleConfig
from sdxl.sampling.schedule import noise_table
from sdxl.training.distillation import distillation_loss, pseudo_huber


class Student(nn.Module):
    """Guesses `answers`, one after the other; notes what it is asked."""

    def __init__(self, answers: list[Tensor], table: Tensor) -> None:
        super().__init__()
        self.answers, self.table, self.asked = answers, table, list[tuple[Tensor, Tensor]]()

    def forward(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        sigma = self.table[t][:, None, None, None]
        x = x * (sigma.square() + 1).sqrt()
        self.asked.append((x, t))
        return (x - self.answers[len(self.asked) - 1]) / sigma


def test_the_two_guesses_of_distillation() -> None:
    table = torch.tensor(noise_table(ScheduleConfig()).sigmas, dtype=torch.float32)
    noise, z, fresh, first, second = torch.randn(5, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    fresh[0] = 0
    middle, nothing = torch.tensor([499, 200]), torch.empty(2, 0)
    student = Student([first, second], table)
    loss = distillation_loss(student, noise, z, table, middle, fresh, nothing, nothing)
    assert loss.item() == pytest.approx(float(pseudo_huber(first - z) + pseudo_huber(second - z)), rel=1e-4)

    (x, t), (reached, then) = student.asked
    assert t.tolist() == [999, 999]
    assert then.tolist() == [499, 200]
    assert torch.allclose(x, noise * table[-1], rtol=1e-5)
    share = table[499] / table[-1]
    assert torch.allclose(reached[0], share * x[0] + (1 - share) * first[0], rtol=1e-4, atol=1e-5)  # an Euler step
    assert torch.allclose(reached[1], z[1] + table[200] * fresh[1], rtol=1e-4, atol=1e-5)


def test_pseudo_huber_is_squared_near_zero_and_absolute_far_from_it() -> None:
    assert float(pseudo_huber(torch.tensor([0.1]), 1.0)) == pytest.approx(0.005, rel=1e-2)
    assert float(pseudo_huber(torch.tensor([-100.0]), 0.1)) == pytest.approx(99.9, rel=1e-3)
